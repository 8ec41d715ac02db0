"""What the command lines of the benchmarks share: the options that all have, and the way from them to an exit code."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks import measure, report
from sawyer.errors import SawyerError

Result = dict[str, Any]


def parser(
    name: str,
    *,
    peer: tuple[str, str],
    data: str,
    rounds: int = 2,
    seed: str,
    precision: tuple[str, str] = ("fp32", "what both sides compute in"),
) -> argparse.ArgumentParser:
    """`python -m benchmarks.NAME` with the options that every benchmark has; each adds its own.

    Args:
        peer, precision: what they are by default, and what their help says.
        data, seed: what their help says.
        rounds: how many there are by default.
    """
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = made.add_argument
    add("--peer", default=peer[0], help=peer[1])
    add("--precision", choices=("fp32", "bf16"), default=precision[0], help=precision[1])
    add("--data", type=Path, help=data)
    add("--rounds", type=int, default=rounds, help="turns of each contender")
    add("--model", default="smollm2", help="smollm2, a folder, or a hub id")
    add("--threads", type=int, default=measure.cores(), help="threads of each contender")
    add("--seed", type=int, default=0, help=seed)
    add("--json", type=Path, help="write the figures to this file")
    return made


def add_budget(made: argparse.ArgumentParser) -> None:
    """The option of those where ours packs trees into rows."""
    made.add_argument("--token-budget", type=int, default=4096, help="tokens in a packed row of ours")


def add_profile(made: argparse.ArgumentParser) -> None:
    """The option of those that can profile ours."""
    made.add_argument(
        "--profile", action="store_true", help="profile one more turn of ours and print its dearest operations"
    )


def main(
    name: str,
    options: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], Result],
    end: Callable[[Result], int],
    arguments: list[str] | None = None,
    signed: Callable[[Result], Iterable[Result]] = lambda result: [result],
) -> int:
    """Run a benchmark from its command line; the exit code is that of `end`, or 2 for a mistake to mend.

    Args:
        end: tells the result, and gives the exit code.
        signed: the parts of the result that are to have the `command`.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    chosen = options.parse_args(arguments)
    try:
        result = run(chosen)
    except SawyerError as error:
        print(error, file=sys.stderr)
        return 2
    for part in signed(result):
        part["command"] = shlex.join(["python", "-m", f"benchmarks.{name}", *arguments])
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(result, indent=2) + "\n")
    return end(result)


def compared(show: Callable[[Result], None], what: str = "compute the same thing") -> Callable[[Result], int]:
    """The end of a benchmark whose sides must do the same: 1 if they do not, and then there are no ratios to show."""

    def end(result: Result) -> int:
        report.show_sameness(result["sameness"])
        if not result["sameness"]["same"]:
            print(f"The two sides do not {what}, so their times are not compared.", file=sys.stderr)
            return 1
        show(result)
        return 0

    return end


def show_ratios(result: Result) -> None:
    """Print how the two sides compare."""
    print(
        f"sawyer is {result['speed_ratio']:.2f} times as fast as {result['fastest_peer']}, "
        f"in {result['memory_ratio']:.2f} of its memory."
    )


def sizes(text: str, option: str, example: str) -> list[int]:
    """The numbers in `2,4,8`.

    Raises:
        SawyerError: they are none.
    """
    try:
        return [int(size) for size in text.split(",")]
    except ValueError:
        raise SawyerError(f"{option} takes numbers such as {example}, not {text!r}") from None


def circumstances(*packages: str, **others: str) -> Result:
    """When, with which versions and on what a benchmark ran.

    Args:
        packages: of which the installed versions are told beside ours.
        others: versions of what is installed elsewhere.
    """
    from importlib.metadata import version

    from sawyer.pipeline.provenance import hardware, versions

    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {**versions(), **{package: version(package) for package in packages}, **others},
        "hardware": hardware(),
    }

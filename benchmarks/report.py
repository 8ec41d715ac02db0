"""From the times of every turn to the figures that are reported, and the table that shows them.

The first `WARM_UP` updates of every turn are left out on both sides: they allocate and warm the caches.
Updates differ in size, so an update's time is its median over the rounds, and the time of a contender the mean over its
updates.
"""

from __future__ import annotations

from statistics import mean, median
from typing import Any

from benchmarks.sameness import FIGURES
from benchmarks.work import WARM_UP, Row, tokens_in_pairs, tokens_once

SAME_BATCH = 8


def figures(turns: dict[str, list[dict[str, Any]]], rows: list[Row], batch: int, peak: float) -> dict[str, Any]:
    """The figures of each contender, and the headline ratios.

    `speed_ratio` is against TRL at the fastest of all its settings; `speed_ratio_padded` leaves out its padding-free
    ones (SFT only has them); `speed_ratio_same_loss` is of our turns by TRL's loss, where rankings have another;
    `speed_ratio_same_batch` and `memory_ratio` are at micro-batch 8, padded.

    Args:
        turns: for each contender its results, one a round; ours is `sawyer` (and `sawyer-pairs`), the others
            `trl-<micro-batch>[-free]`.
        peak: the machine's measured floating-point operations a second.
    """
    table = {name: _contender(name, results, rows, batch) for name, results in turns.items()}
    ours = table["sawyer"]
    peers = {name: line for name, line in table.items() if not name.startswith("sawyer")}
    fastest = min(peers, key=lambda name: peers[name]["seconds_per_step"])
    padded = min(line["seconds_per_step"] for name, line in peers.items() if not name.endswith("-free"))
    headline: dict[str, Any] = {
        "speed_ratio": peers[fastest]["seconds_per_step"] / ours["seconds_per_step"],
        "speed_ratio_padded": padded / ours["seconds_per_step"],
        "speed_ratio_same_loss": None,
        "speed_ratio_same_batch": None,
        "memory_ratio": None,
        "peak_share": mean(turns["sawyer"][0]["step_flops"][WARM_UP:]) / (ours["seconds_per_step"] * peak),
    }
    if "sawyer-pairs" in table:
        headline["speed_ratio_same_loss"] = (
            peers[fastest]["seconds_per_step"] / table["sawyer-pairs"]["seconds_per_step"]
        )
    same = peers.get(f"trl-{SAME_BATCH}")
    if same is not None:
        headline["speed_ratio_same_batch"] = same["seconds_per_step"] / ours["seconds_per_step"]
        headline["memory_ratio"] = ours["peak_memory_mib"] / same["peak_memory_mib"]
    return {**headline, "fastest_peer": fastest, "peak_flops_per_second": peak, "contenders": table}


def _contender(name: str, results: list[dict[str, Any]], rows: list[Row], batch: int) -> dict[str, Any]:
    timed = [result["step_seconds"][WARM_UP:] for result in results]
    seconds = mean(median(times) for times in zip(*timed, strict=True))
    rounds = [mean(times) for times in timed]
    count = tokens_once if name.startswith("sawyer") else tokens_in_pairs
    tokens = sum(count(row) for row in rows) / len(timed[0])
    references = [result["reference_seconds"] for result in results if result["reference_seconds"] is not None]
    return {
        "seconds_per_step": seconds,
        "seconds_per_step_min": min(rounds),
        "seconds_per_step_max": max(rounds),
        "rows_per_second": batch / seconds,
        "tokens_per_second": tokens / seconds,
        "peak_memory_mib": max(result["peak_memory_mib"] for result in results),
        "reference_seconds": median(references) if references else None,
        "step_seconds_by_round": [result["step_seconds"] for result in results],
    }


def show(report: dict[str, Any]) -> None:
    """Print the table and the ratios."""
    from rich.table import Table

    console = _console()
    unit = "conversations" if report["task"] == "sft" else "pairs" if report["ranking"] == 2 else "rankings"
    of = f" of {report['ranking']}" if unit == "rankings" else ""
    table = Table(
        title=f"{report['task']} in {report['precision']}: {report['n']} {unit}{of}, {report['batch']} an update"
    )
    for column in ("", "s / update", "min .. max", f"{unit} / s", "tokens / s", "peak MiB", "reference s"):
        table.add_column(column, justify="left" if not column else "right")
    for name, line in report["contenders"].items():
        reference = line["reference_seconds"]
        table.add_row(
            name,
            f"{line['seconds_per_step']:.2f}",
            f"{line['seconds_per_step_min']:.2f} .. {line['seconds_per_step_max']:.2f}",
            f"{line['rows_per_second']:.2f}",
            f"{line['tokens_per_second']:.0f}",
            f"{line['peak_memory_mib']:.0f}",
            "-" if reference is None else f"{reference:.1f}",
        )
    console.print(table)
    console.print(
        f"sawyer is {report['speed_ratio']:.2f} times as fast as TRL at its fastest ({report['fastest_peer']})",
        highlight=False,
    )
    if report["speed_ratio_same_loss"] is not None:
        console.print(
            f"and {report['speed_ratio_same_loss']:.2f} times where it computes TRL's loss, that of all pairs;",
            highlight=False,
        )
    if report["speed_ratio_same_batch"] is not None:
        console.print(
            f"and {report['speed_ratio_same_batch']:.2f} times at micro-batch {SAME_BATCH}, "
            f"in {report['memory_ratio']:.2f} of its memory;",
            highlight=False,
        )
    console.print(
        f"its matrix products run at {report['peak_share']:.2f} of this machine's measured peak, "
        f"{report['peak_flops_per_second'] / 1e9:.0f} GFLOP/s.",
        highlight=False,
    )


def show_sameness(sameness: dict[str, Any]) -> None:
    """Print the largest differences between the contenders."""
    from rich.table import Table

    table = Table(title="largest differences (and what is tolerated)")
    for column in ("", "first update's values", "gradient norms", "losses", ""):
        table.add_column(column, justify="left" if not column else "right")
    for name, pair in sameness["comparisons"].items():
        cells = [f"{pair['worst'][k]:.1e} ({pair['tolerance'][k]:g})" if k in pair["worst"] else "-" for k in FIGURES]
        table.add_row(name, *cells, "same" if pair["same"] else "DIFFERENT" if pair["decides"] else "further")
    _console().print(table)


def _console() -> Any:
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=100)

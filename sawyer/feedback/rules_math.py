"""Reward of arithmetic that is worked out in steps: how far each step lies from the right one.

A prompt holds an expression of whole numbers, `(1 + 2) * (3 + 4)`, and a right answer works it out one bracket at a
time, `= 3 * (3 + 4) = 3 * 7 = 21`. The reward is minus the edit distances between the steps of the answer and the right
ones, in sum: 0 for a right answer. It is the math task of D2PO (Singhal et al. 2024, arXiv 2405.01511), where a step
that is missing costs all its characters, and steps beyond the last cost nothing.

Done otherwise than in its script: spaces count for nothing, and a prompt without an expression is an error and not the
highest reward there is.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Sequence
from itertools import zip_longest

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError

_EXPRESSION = re.compile(r"[\d()+*\-\s]+")
_NOT_ARITHMETIC = re.compile(r"[^\d()+*\-=]")
_INNERMOST = re.compile(r"\([^()]*\)")
_OPERATIONS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


class ArithmeticSteps:
    """Minus the edit distances of an answer's steps from the right ones."""

    name = "arithmetic"

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """See `Feedback.score`.

        Raises:
            SawyerError: a prompt holds no expression.
        """
        return [
            [-float(distance(text, right)) for text in own]
            for right, own in zip((steps(prompt.text) for prompt in prompts), completions, strict=True)
        ]


def steps(text: str) -> list[str]:
    """The right steps to the value of the expression in a text, without spaces: the longest run of digits, brackets and
    the signs +, - and *. Brackets without another in them are worked out one by one from the left, then the rest at
    once.

    Raises:
        SawyerError: there is none, or what looks like one cannot be read.
    """
    written = re.sub(r"\s", "", max(_EXPRESSION.findall(text), key=len, default=""))
    if not written or _value(written) is None or re.fullmatch(r"-?\d+", written):
        raise SawyerError(
            f"the arithmetic reward cannot judge the prompt {text[:60]!r}: it holds no expression of whole numbers "
            "with +, - and * to work out; use other prompts, or another reward"
        )
    found: list[str] = []
    while inner := _INNERMOST.findall(written):
        for bracket in inner:
            written = written.replace(bracket, str(_value(bracket)), 1)
            found.append(written)
    if re.fullmatch(r"-?\d+", written) is None:
        found.append(str(_value(written)))
    return found


def distance(answer: str, right: Sequence[str]) -> int:
    """The edit distances of an answer's steps, what follows each `=`, from the right ones, in sum."""
    written = _NOT_ARITHMETIC.sub("", answer).split("=")[1:]
    return sum(edit_distance(own, step) for own, step in zip_longest(written[: len(right)], right, fillvalue=""))


def edit_distance(a: str, b: str) -> int:
    """How many characters have to be put in, taken out or changed to come from one text to the other (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def _value(expression: str) -> int | None:
    """The value of an expression of whole numbers; None where it is none."""
    try:
        return _of(ast.parse(expression, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError):
        return None


def _of(node: ast.expr) -> int:
    match node:
        case ast.Constant(value=int() as number):
            return number
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            return -_of(operand) if isinstance(sign, ast.USub) else _of(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            return _OPERATIONS[type(op)](_of(left), _of(right))
    raise ValueError("not an expression of whole numbers")

"""The nearest valid name to one that was mistyped."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: object, known: Iterable[str], title: str = "the choices are") -> str:
    """`; did you mean 'x'?`, or the list of what is known where nothing is near, to end a sentence with."""
    names = list(dict.fromkeys(known))
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    if not names:
        return ""
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return f"; {title} {shown}"

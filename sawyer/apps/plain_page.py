"""Figures and plots as one HTML page that asks nothing of the network."""

from __future__ import annotations

import html
from collections.abc import Sequence

Line = tuple[str, str, str, str]
"""What was measured, the figure, its interval, and n."""


def plain_page(title: str, paragraphs: Sequence[str], plots: Sequence[str | None], lines: Sequence[Line]) -> str:
    """A page with a title, paragraphs of plain text, plots (SVG; None is left out) and a table."""
    name = html.escape(title)
    text = "".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in paragraphs)
    figures = "".join(f"<figure>{svg}</figure>" for svg in plots if svg is not None)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{name}</title><style>:root{{--grid:#c9ced6;color-scheme:light dark}}"
        "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}"
        "td{padding:.15rem .8rem .15rem 0}figure{margin:2rem 0}svg{max-width:100%;height:auto}</style></head><body>"
        f"<h1>{name}</h1>{text}"
        f"{figures}<table><tr><th></th><th></th><th>interval</th><th>n</th></tr>{rows}</table></body></html>\n"
    )

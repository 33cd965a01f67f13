"""Report artifact: ``report.html`` (self-contained), ``overview.png``, and a file of figures.

That is ``metrics.json``, or ``answers.json`` where no truth is known to measure against.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data.artifacts.store import write_text_atomic

HTML = "report.html"
METRICS = "metrics.json"
ANSWERS = "answers.json"
OVERVIEW = "overview.png"


@dataclass(frozen=True)
class ReportFiles:
    """What a report consists of, in memory; ``texts`` by the name of their file."""

    html: str
    texts: Mapping[str, str]
    overview_png: bytes


def write_report(folder: Path, files: ReportFiles) -> None:
    """Write all files into ``folder``, the page last."""
    for name, text in files.texts.items():
        write_text_atomic(folder / name, text)
    (folder / OVERVIEW).write_bytes(files.overview_png)
    write_text_atomic(folder / HTML, files.html)

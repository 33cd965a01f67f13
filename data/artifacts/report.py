"""Report artifact: ``report.html`` (self-contained), ``metrics.json`` and ``overview.png``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data.artifacts.store import write_text_atomic

HTML = "report.html"
METRICS = "metrics.json"
OVERVIEW = "overview.png"


@dataclass(frozen=True)
class ReportFiles:
    """What a report consists of, in memory."""

    html: str
    metrics_json: str
    overview_png: bytes


def write_report(folder: Path, files: ReportFiles) -> None:
    """Write the three files into ``folder``."""
    write_text_atomic(folder / METRICS, files.metrics_json)
    (folder / OVERVIEW).write_bytes(files.overview_png)
    write_text_atomic(folder / HTML, files.html)

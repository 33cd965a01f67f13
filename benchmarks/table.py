"""The table of results and the file of rows."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from benchmarks.harness import Row

_PACKAGES = ("numpy", "numba", "zarr", "pillow", "luigi", "open3d-cpu", "torch")
_HEADER = ("what", "ours", "reference", "ratio", "target", "")


def machine() -> str:
    """Processor, usable cores, system and versions, two lines."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    system = f"{platform.system()} {platform.machine()}"
    return (
        f"{_processor()}, {cores} cores, {system}\nPython {platform.python_version()}, {versions}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:
        return "absent"


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table; "missed" marks those under their target."""
    return markdown([_HEADER, *(_cells(row) for row in rows)])


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """A Markdown table of rows of one length, the first of which is its head."""
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths)) + " |"
        for line in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    verdict = "" if row.target is None else "met" if row.ratio >= row.target else "missed"
    target = "" if row.target is None else f"≥ {row.target:.3g}"
    figures = (f"{value:.3g} {row.unit}" for value in (row.ours, row.reference))
    return (row.name, *figures, f"{row.ratio:.3g}", target, verdict)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows as a JSON list of objects."""
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")

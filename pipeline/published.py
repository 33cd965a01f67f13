"""The latest results at fixed places: ``<output>/<scene set>/metrics.json`` and the report.

Artifacts live side by side by fingerprint; these copies say which of them the last run asked
for. Going back to an earlier config copies, and computes nothing.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

from data.artifacts.store import METADATA, ArtifactKey, is_complete, write_text_atomic

_POINTER = "latest.json"
_LOG = logging.getLogger("luigi-interface.results")


def is_current(output: Path, report: ArtifactKey) -> bool:
    """Whether the files in ``output`` are this report's, and all there."""
    try:
        pointer = json.loads((output / _POINTER).read_text())
        files = pointer["files"]
        same = pointer["report"] == report.fingerprint
        return bool(same and all((output / n).stat().st_size == files[n] for n in files))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def publish(output: Path, report: ArtifactKey) -> None:
    """Copy the report's files beside each other, the pointer last."""
    if not is_complete(report):
        raise RuntimeError(f"{report.folder}: the report is not finished")
    files = {}
    for path in sorted(report.folder.iterdir()):
        if path.name == METADATA or not path.is_file():
            continue
        aside = output / f".{path.name}.{os.getpid()}.tmp"
        shutil.copyfile(path, aside)
        os.replace(aside, output / path.name)
        files[path.name] = path.stat().st_size
    pointer = {"report": report.fingerprint, "folder": str(report.folder), "files": files}
    write_text_atomic(output / _POINTER, json.dumps(pointer, indent=1) + "\n")
    _LOG.info("results in %s: %s", output / "report.html", _headline(output / "metrics.json"))


def _headline(path: Path) -> str:
    metrics = json.loads(path.read_text())
    names = {"student": "student", "fusion_only": "lifted labels"}
    figures = {"miou": "mIoU", "acc25": "Acc@0.25", "acc50": "Acc@0.50"}
    parts = [
        f"{name} " + ", ".join(f"{label} {metrics[key][f]:.1%}" for f, label in figures.items())
        for key, name in names.items()
    ]
    text = f"{metrics['num_queries']} queries; " + "; ".join(parts)
    teacher = metrics["teacher_2d"]
    in_2d = {"mask_iou": "mask IoU", "presence": "presence"}
    told = [f"{name} {teacher[k]:.1%}" for k, name in in_2d.items() if teacher[k] is not None]
    return f"{text}; teacher in 2D {', '.join(told)}" if told else text

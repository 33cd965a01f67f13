"""Copies of the latest results at fixed paths: ``<output>/<scene set>/metrics.json`` and others.

Artifacts lie side by side by fingerprint; a pointer file names the one that was copied last, so
going back to an earlier config copies its files and computes nothing. Results of ablations and
error curves are copied too, each with a pointer file of its own.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from data.artifacts.store import METADATA, ArtifactKey, is_complete, write_text_atomic
from pipeline.process import full_disk

_POINTER = "latest.json"
_LOG = logging.getLogger("luigi-interface.results")


def is_current(output: Path, report: ArtifactKey, pointer_name: str = _POINTER) -> bool:
    """Whether the files in ``output`` are complete copies of this artifact's."""
    try:
        pointer = json.loads((output / pointer_name).read_text())
        files = pointer["files"]
        is_same = pointer["report"] == report.fingerprint
        return bool(is_same and all((output / n).stat().st_size == files[n] for n in files))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def publish(
    output: Path,
    report: ArtifactKey,
    pointer_name: str = _POINTER,
    names: Mapping[str, str] | None = None,
) -> None:
    """Copy a report's files to ``output``, the pointer file last.

    ``names`` maps the files to copy to their new names, for other artifacts than reports.
    """
    if not is_complete(report):
        raise RuntimeError(f"{report.folder}: the report is not finished")
    with full_disk.explained(output):
        files = _copied(output, report, names)
        pointer = {"report": report.fingerprint, "folder": str(report.folder), "files": files}
        write_text_atomic(output / pointer_name, json.dumps(pointer, indent=1) + "\n")
    if names is not None:
        _LOG.info("results in %s", ", ".join(str(output / name) for name in files))
        return
    results_text = (
        _headline(output / "metrics.json") if "metrics.json" in files else _answers(output)
    )
    _LOG.info("results in %s: %s", output / "report.html", results_text)


def _copied(output: Path, report: ArtifactKey, names: Mapping[str, str] | None) -> dict[str, int]:
    """Copy the files, each atomically; returns their sizes in bytes by name."""
    files = {}
    for path in sorted(report.folder.iterdir()):
        name = path.name if names is None else names.get(path.name)
        if path.name == METADATA or not path.is_file() or name is None:
            continue
        temporary = output / f".{name}.{os.getpid()}.tmp"
        try:
            shutil.copyfile(path, temporary)
            os.replace(temporary, output / name)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        files[name] = path.stat().st_size
    return files


def _answers(output: Path) -> str:
    rows = json.loads((output / "answers.json").read_text())
    num_masks = sum(row["num_points"] > 0 for row in rows)
    return f"{len(rows)} answers, {num_masks} with a mask; see also {output / 'answers.json'}"


def _headline(path: Path) -> str:
    metrics = json.loads(path.read_text())
    names = {"student": "student", "fusion_only": "lifted labels", "together": "together"}
    labels = {"miou": "mIoU", "acc25": "Acc@0.25", "acc50": "Acc@0.50"}
    parts = [
        f"{name} " + ", ".join(f"{label} {metrics[key][f]:.1%}" for f, label in labels.items())
        for key, name in names.items()
    ]
    text = f"{metrics['num_queries']} queries; " + "; ".join(parts)
    teacher = metrics["teacher_2d"]
    labels_2d = {"mask_iou": "mask IoU", "presence": "presence"}
    in_2d_texts = [
        f"{name} {teacher[k]:.1%}" for k, name in labels_2d.items() if teacher[k] is not None
    ]
    return f"{text}; teacher in 2D {', '.join(in_2d_texts)}" if in_2d_texts else text

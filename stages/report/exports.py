"""Export answers for other programs: coloured meshes, NumPy archives, instance benchmark files.

Masks are about the vertices of the scan's own mesh, in its order. Every file is written under a
temporary name and then renamed, so no incomplete file exists under its name.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from data.geometry.meshes import write_ply
from data.queries.classes import ClassTable
from data.types import Array, PointCloud

ANSWER_COLOR = (230, 50, 30)
_TINT = 0.75
MaskFiles = Literal["txt", "rle"]


@dataclass(frozen=True, eq=False)
class SceneAnswers:
    """The answers to Q queries on one scene of N vertices.

    ``masks`` (Q, N) bool; ``scores`` (Q,) float32 in [0, 1], the confidence that the object of the
    query exists.
    """

    scene_id: str
    prompt_ids: tuple[str, ...]
    texts: tuple[str, ...]
    tasks: tuple[str, ...]
    masks: Array
    scores: Array


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path, which is renamed to ``path`` when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file completely or not at all; a missing folder is made."""
    with _aside(path) as aside:
        aside.write_bytes(content)


def _write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_meshes(
    folder: Path, answers: SceneAnswers, cloud: PointCloud, triangles: Array
) -> list[Path]:
    """Write ``<scene>/<prompt>.ply`` for each query: the scan with the answer's vertices in red.

    A vertex of the answer keeps a quarter of its colour and has the property ``answer`` = 1.
    ``queries.json`` beside the meshes lists file, text, task and score. Returns the meshes' paths.
    """
    fields = [(axis, "f4") for axis in "xyz"]
    fields += [(name, "u1") for name in ("red", "green", "blue", "answer")]
    vertices = np.zeros(len(cloud), fields)
    for axis, name in enumerate("xyz"):
        vertices[name] = cloud.points[:, axis]
    paths = []
    for prompt_id, mask in zip(answers.prompt_ids, answers.masks, strict=True):
        tinted = (1 - _TINT) * cloud.colors + _TINT * np.asarray(ANSWER_COLOR)
        colors = np.where(mask[:, None], np.rint(tinted), cloud.colors).astype(np.uint8)
        for channel, name in enumerate(("red", "green", "blue")):
            vertices[name] = colors[:, channel]
        vertices["answer"] = mask
        path = folder / answers.scene_id / f"{prompt_id}.ply"
        with _aside(path) as aside:
            write_ply(aside, vertices, triangles)
        paths.append(path)
    rows = [
        {"file": path.name, "text": text, "task": task, "score": round(float(score), 4)}
        for path, text, task, score in zip(
            paths, answers.texts, answers.tasks, answers.scores, strict=True
        )
    ]
    _write_text(folder / answers.scene_id / "queries.json", _json(rows))
    return paths


def write_npz(folder: Path, answers: SceneAnswers) -> Path:
    """Write ``<scene>.npz``: ``masks`` (Q, N) bool, ``scores`` (Q,), and ids, texts and tasks.

    The file loads without pickle.
    """
    content = io.BytesIO()
    np.savez_compressed(
        content,
        scene_id=np.array(answers.scene_id),
        prompt_ids=np.array(answers.prompt_ids, np.str_),
        texts=np.array(answers.texts, np.str_),
        tasks=np.array(answers.tasks, np.str_),
        masks=np.asarray(answers.masks, bool),
        scores=np.asarray(answers.scores, np.float32),
    )
    path = folder / f"{answers.scene_id}.npz"
    write_bytes(path, content.getvalue())
    return path


@dataclass(frozen=True)
class BenchmarkCounts:
    """Numbers of a scene's answers: written, empty, and without a class."""

    written: int
    empty: int
    without_class: int


def write_benchmark(
    folder: Path,
    answers: SceneAnswers,
    classes: ClassTable | None = None,
    masks: MaskFiles = "txt",
) -> BenchmarkCounts:
    """Write answers in the format of ScanNet's and ScanNet++'s instance benchmarks.

    ``<scene>.txt`` has a line ``predicted_masks/<scene>_<k>.txt <label id> <confidence>`` for each
    instance. A mask is a text with one line, 0 or 1, for each vertex. With ``rle`` it is a JSON
    object ``{length, counts}`` as ScanNet++'s later toolkit reads it; ``counts`` is a text of
    alternating starts (from 1) and lengths.

    The label id is the number of the class that the query names; queries that name no class are
    omitted. Without ``classes`` the label id is the number of the query, from 1. An answer without
    a vertex is omitted. ``queries/<scene>.json`` lists the label and the mask of every query.
    """
    stem = "_".join(answers.scene_id.split())  # The benchmarks split lines at blanks.
    lines, rows = [], []
    empty = without_class = 0
    for number, mask in enumerate(answers.masks):
        text, score = answers.texts[number], float(answers.scores[number])
        label = number + 1 if classes is None else class_in(text, classes)
        name = None
        if not mask.any():
            empty += 1
        elif label is None:
            without_class += 1
        else:
            end = "json" if masks == "rle" else "txt"
            name = f"predicted_masks/{stem}_{number:03d}.{end}"
            _write_text(folder / name, _rle(mask) if masks == "rle" else _digits(mask))
            lines.append(f"{name} {label} {score:.6f}\n")
        prompt_id = answers.prompt_ids[number]
        rows.append({"prompt_id": prompt_id, "text": text, "label": label, "mask": name})
    _write_text(folder / f"{answers.scene_id}.txt", "".join(lines))
    _write_text(folder / "queries" / f"{answers.scene_id}.json", _json(rows))
    return BenchmarkCounts(len(lines), empty, without_class)


def class_in(text: str, classes: ClassTable) -> int | None:
    """Return the class whose whole name the query contains; of several, the longest name."""
    words = " ".join(re.findall(r"\w+", text.lower().replace("_", " ")))
    matches = []
    for index, name in classes.names.items():
        class_words = " ".join(re.findall(r"\w+", name.lower().replace("_", " ")))
        if class_words and f" {class_words} " in f" {words} ":
            matches.append((-len(class_words), index))
    return min(matches)[1] if matches else None


def _digits(mask: Array) -> str:
    digits = np.full((len(mask), 2), ord("\n"), np.uint8)
    digits[:, 0] = np.where(mask, ord("1"), ord("0"))
    return digits.tobytes().decode("ascii")


def _rle(mask: Array) -> str:
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
    starts, stops = edges[::2], edges[1::2]
    counts = np.stack([starts + 1, stops - starts], axis=1).ravel()
    return json.dumps({"length": len(mask), "counts": " ".join(map(str, counts.tolist()))})


def _json(rows: Sequence[object]) -> str:
    return json.dumps(list(rows), indent=1, ensure_ascii=False) + "\n"

"""The text-student artifact: what is written is read, and damage is told."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from data.artifacts.store import ArtifactKey, writing
from data.artifacts.student import (
    ADAPTER,
    FACTS,
    TextStudent,
    read_text_student,
    write_text_student,
)
from data.errors import ArtifactError
from tests.support.sealed import seal


def _tokens(rows: int, dim: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(rows, dim)).astype(np.float32)


def _student(**changed: Any) -> TextStudent:
    given: dict[str, Any] = {
        "encoder": "teacher",
        "identity": {"weights": "abc"},
        "weight": _tokens(5, 3),
        "bias": _tokens(1, 3)[0],
        "mean_tokens": _tokens(4, 8),
        "num_sentences": 9,
        "left_out_cosine": 0.75,
        "penalty": 0.1,
        "residual": False,
    }
    return TextStudent(**(given | changed))


def _written(root: Path, student: TextStudent) -> Path:
    key = ArtifactKey.make(root, "distil_text", 1, {}, {})
    with writing(key) as folder:
        assert folder is not None
        write_text_student(folder, student)
    return key.folder


@pytest.mark.parametrize(
    "changed", [{}, {"encoder": "clip", "mean_tokens": None}, {"left_out_cosine": None}]
)
def test_what_is_written_is_read(changed: dict[str, Any], tmp_path: Path) -> None:
    student = _student(**changed)
    old = os.umask(0o022)
    try:
        folder = _written(tmp_path, student)
    finally:
        os.umask(old)
    read = read_text_student(folder)
    assert read.facts() == student.facts()
    assert read.arrays().keys() == student.arrays().keys()
    for name, array in student.arrays().items():
        assert np.array_equal(read.arrays()[name], array)
    for name in (ADAPTER, FACTS):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o644
    assert set(load_file(folder / ADAPTER)) == set(student.arrays())
    assert json.loads((folder / FACTS).read_text())["num_sentences"] == 9


def _edit_facts(folder: Path, **changed: Any) -> None:
    facts = json.loads((folder / FACTS).read_text())
    (folder / FACTS).write_text(json.dumps(facts | changed))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "metadata.json").unlink(),
        lambda folder: (folder / ADAPTER).unlink(),
        lambda folder: (folder / ADAPTER).write_bytes(b"x" * 99),
        lambda folder: (folder / FACTS).unlink(),
        lambda folder: (folder / FACTS).write_text("{"),
        lambda folder: (folder / FACTS).write_text("[1]"),
        lambda folder: _edit_facts(folder, unknown=1),
        lambda folder: _edit_facts(folder, encoder="clip"),
        lambda folder: _edit_facts(folder, left_out_cosine=float("nan")),
    ],
)
def test_damage_is_an_artifact_error(damage: Callable[[Path], object], tmp_path: Path) -> None:
    folder = _written(tmp_path, _student())
    damage(folder)
    if (folder / "metadata.json").exists():  # Listed anew, so that the reader has to notice.
        seal(folder)
    with pytest.raises(ArtifactError, match="Run DistilText again"):
        read_text_student(folder)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"bias": _tokens(1, 4)[0]}, "do not fit"),
        ({"mean_tokens": None}, "mean image"),
        ({"mean_tokens": _tokens(1, 4)[0]}, "mean_tokens"),
        ({"weight": np.full((5, 3), np.nan, np.float32)}, "weight must be finite"),
        ({"weight": np.ones((5, 3))}, "weight must be finite float32"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        _student(**changed)

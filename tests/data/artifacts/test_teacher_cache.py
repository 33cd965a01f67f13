"""The teacher cache: what is written comes back, statuses mean what they say, damage is seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.artifacts import teacher
from data.artifacts.teacher import (
    FAILED,
    LOGIT_LIMIT,
    LOGIT_STEP,
    MASK,
    NO_SEG,
    TeacherWriter,
    ViewAnswers,
    quantise_logits,
    read_teacher,
)
from data.errors import ArtifactError
from tests.support.worlds.teacher_world import finish, write_cache


def _answers(status: list[int], logit: float = 0.0, shape: tuple[int, int] = (3, 4)) -> ViewAnswers:
    count = len(status)
    return ViewAnswers(
        np.array(status, np.uint8),
        np.full((count, *shape), logit, np.float32),
        np.full(count, 0.5, np.float32),
        np.ones((count, 2), np.float32),
        tuple(f"answer {k}" for k in range(count)),
    )


def _writer(folder: Path, num_views: int = 2, num_queries: int = 3) -> TeacherWriter:
    views, queries = (
        [f"{c}{i}" for i in range(n)] for c, n in (("v", num_views), ("q", num_queries))
    )
    writer = TeacherWriter(folder, views, queries)
    writer.begin((3, 4), (4.0, 2.5), 2)
    return writer


def _fill(folder: Path) -> Path:
    writer = _writer(folder)
    writer.write_view(0, _answers([MASK, NO_SEG, MASK], 1.25))
    writer.write_view(1, _answers([MASK, MASK, FAILED], -3.0))
    return finish(folder)


@given(st.lists(st.floats(-40, 40, width=32), min_size=1, max_size=50))
@settings(max_examples=50, deadline=None)
def test_quantisation_errs_by_half_a_step_at_most(values: list[float]) -> None:
    logits = np.array(values, np.float32)
    back = quantise_logits(logits).astype(np.float32) * LOGIT_STEP
    limited = np.clip(logits, -LOGIT_LIMIT, LOGIT_LIMIT)
    assert np.abs(back - limited).max() <= LOGIT_STEP / 2 + 1e-6
    assert quantise_logits(logits).min() > -128


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    status = rng.integers(1, 4, (4, 5)).astype(np.uint8)
    logits = rng.normal(0, 4, (4, 5, 6, 7)).astype(np.float32)
    iou = rng.random((4, 5), np.float32)
    embeddings = rng.normal(size=(4, 5, 3)).astype(np.float32)
    cache = write_cache(tmp_path, status, logits, iou, embeddings, (7.0, 4.67))
    has_mask = status == MASK
    np.testing.assert_array_equal(cache.status, status)
    np.testing.assert_array_equal(cache.predicted_iou, np.where(has_mask, iou, 0))
    np.testing.assert_array_equal(
        cache.seg_embeddings, np.where(has_mask[..., None], embeddings, 0)
    )
    np.testing.assert_array_equal(cache.mask_extent, [7.0, 4.67])
    assert (cache.mask_shape, cache.embedding_dim) == ((6, 7), 3)
    for view in range(4):
        error = np.abs(cache.mask_logits(view) - logits[view])[has_mask[view]]
        assert error.max(initial=0) <= LOGIT_STEP / 2 + 1e-6


@pytest.mark.parametrize("held", [0, 2**20])
def test_masks_are_the_same_however_many_records_an_open_cache_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    _fill(tmp_path)
    monkeypatch.setattr(teacher, "_HELD", held)
    cache = read_teacher(tmp_path)
    # -3.0 is 24 steps of 1/8; nothing is drawn where the answer failed.
    assert cache.mask_steps(1)[:, 0, 0].tolist() == [-24, -24, 0]
    assert cache.mask_logits(0)[:, 2, 3].tolist() == [1.25, 0, 1.25]
    assert cache.mask_steps(1).dtype == np.int8


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mask_logits", np.zeros((3, 3, 5), np.float32)),
        ("seg_embeddings", np.zeros((3, 1), np.float32)),
        ("predicted_iou", np.zeros(4, np.float32)),
        ("presence", np.zeros(2, np.float32)),
        ("texts", ("one",)),
    ],
)
def test_answers_of_another_size_are_refused(tmp_path: Path, name: str, value: Any) -> None:
    writer = _writer(tmp_path, num_views=1)
    with pytest.raises(ValueError, match=f"view v0: .*{name}"):
        writer.write_view(0, replace(_answers([NO_SEG] * 3), **{name: value}))
    assert writer.missing_views() == [0]


def test_one_file_a_view(tmp_path: Path) -> None:
    _fill(tmp_path)
    files = [p for p in (tmp_path / "teacher.zarr").rglob("*") if p.name != "zarr.json"]
    assert sum(p.is_file() for p in files) == 2


def test_a_mask_of_zeros_is_not_a_missing_mask(tmp_path: Path) -> None:
    writer = _writer(tmp_path, num_views=1, num_queries=1)
    writer.write_view(0, _answers([MASK], 0.0))
    cache = read_teacher(finish(tmp_path))
    assert cache.status[0, 0] == MASK
    np.testing.assert_array_equal(cache.mask_logits(0), np.zeros((1, 3, 4)))


def test_texts_survive_any_alphabet(tmp_path: Path) -> None:
    writer = _writer(tmp_path, num_views=1, num_queries=2)
    answers = _answers([NO_SEG, FAILED])
    texts = ("Ça, 椅子 \n \x1b[31m<b>", "x" * 3000)
    writer.write_view(0, replace(answers, texts=texts))
    assert read_teacher(finish(tmp_path)).answers == (texts,)


def test_a_reopened_cache_knows_what_is_missing(tmp_path: Path) -> None:
    writer = _writer(tmp_path, num_views=3)
    assert writer.missing_views() == [0, 1, 2]
    writer.write_view(1, _answers([NO_SEG] * 3))
    writer.write_view(2, _answers([FAILED] * 3))
    again = _writer(tmp_path, num_views=3)
    assert again.missing_views() == [0, 2], "failed views of an unfinished job are tried again"
    again.write_view(0, _answers([MASK] * 3, 2.0))
    again.write_view(2, _answers([MASK] * 3, 1.0))
    cache = read_teacher(finish(tmp_path))
    np.testing.assert_array_equal(cache.status, [[MASK] * 3, [NO_SEG] * 3, [MASK] * 3])
    assert cache.mask_logits(0)[0, 0, 0] == 2.0
    assert cache.answers[1] == ("answer 0", "answer 1", "answer 2")


def test_leftovers_of_a_kill_are_swept(tmp_path: Path) -> None:
    _writer(tmp_path)
    partial = tmp_path / "teacher.zarr" / "views" / "x.partial"
    partial.write_bytes(b"half")
    assert _writer(tmp_path).missing_views() == [0, 1]
    assert not partial.exists()


def test_no_queries_and_no_masks(tmp_path: Path) -> None:
    writer = _writer(tmp_path, num_queries=0)
    assert writer.missing_views() == []
    cache = read_teacher(finish(tmp_path))
    assert cache.status.shape == (2, 0)
    assert cache.mask_logits(1).shape == (0, 3, 4)


def test_another_teacher_or_scene_is_refused(tmp_path: Path) -> None:
    writer = _writer(tmp_path)
    with pytest.raises(ArtifactError, match="mask_shape"):
        writer.begin((3, 5), (5.0, 3.0), 2)
    with pytest.raises(ArtifactError, match="other views or queries"):
        TeacherWriter(tmp_path, ["v0", "v9"], ["q0", "q1", "q2"])


@pytest.mark.parametrize("name", ["mask_logits", "predicted_iou", "seg_embeddings"])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, name: str) -> None:
    writer = _writer(tmp_path)
    answers = _answers([MASK] * 3)
    getattr(answers, name)[0] = np.nan
    with pytest.raises(ValueError, match=name):
        writer.write_view(0, answers)
    with pytest.raises(ValueError, match="without an answer"):
        writer.write_view(0, _answers([MASK, 0, MASK]))
    assert writer.missing_views() == [0, 1]


def test_an_unfinished_cache_is_not_read(tmp_path: Path) -> None:
    writer = _writer(tmp_path)
    writer.write_view(0, _answers([MASK] * 3))
    with pytest.raises(ArtifactError, match="a finished artifact"):
        read_teacher(tmp_path)
    with pytest.raises(ArtifactError, match="3 answers are missing"):
        read_teacher(finish(tmp_path))


@pytest.mark.parametrize("damage", ["remove", "cut", "flip"])
@pytest.mark.parametrize(
    "name",
    [
        "zarr.json",
        "views/zarr.json",
        "views/c/0",
        "views/c/1",
    ],
)
def test_damage_is_an_artifact_error(tmp_path: Path, name: str, damage: str) -> None:
    path = _fill(tmp_path) / "teacher.zarr" / name
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 0x80]) + content[middle + 1 :])
    with pytest.raises(ArtifactError, match="RunTeacher"):
        cache = read_teacher(tmp_path)
        cache.mask_logits(0)

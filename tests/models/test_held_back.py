"""How likely [SEG] was, and masks that were withheld: from the teacher's answer to the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.artifacts.teacher import (
    FAILED,
    MASK,
    NO_SEG,
    TeacherCache,
    TeacherWriter,
    ViewAnswers,
    read_teacher,
)
from data.errors import ArtifactError
from data.types import Prompt, Scene
from models.teacher import MaskGrid, TeacherAnswer, WithheldMask
from stages.teacher import run_teacher
from tests.support.scans.tiny_scene import make_tiny_prompts, make_tiny_scene
from tests.support.worlds.teacher_world import finish, with_images

GRID = MaskGrid(3, 4, (4.0, 3.0))
QUERIES = ["said", "withheld", "nothing", "failed"]


def answers(**changed: Any) -> ViewAnswers:
    """A mask of 2s, a held-back mask of -3s, an answer without either, a failure."""
    levels = np.array([2, -3, 7, 7], np.float32)
    whole = ViewAnswers(
        np.array([MASK, NO_SEG, NO_SEG, FAILED], np.uint8),
        np.broadcast_to(levels[:, None, None], (4, 3, 4)).copy(),
        np.array([0.9, 0.25, 0.7, 0.7], np.float32),
        np.array([[1, 0], [0, 1], [7, 7], [7, 7]], np.float32),
        tuple(QUERIES),
        np.array([0.75, 0.375, 0.125, 0], np.float32),
        np.array([False, True, False, False]),
    )
    return replace(whole, **changed)


def writer_in(folder: Path, views: Sequence[str] = ("view0",)) -> TeacherWriter:
    writer = TeacherWriter(folder, views, QUERIES)
    writer.begin((3, 4), (4.0, 3.0), 2)
    return writer


def written(folder: Path, **changed: Any) -> TeacherCache:
    writer_in(folder).write_view(0, answers(**changed))
    return read_teacher(finish(folder))


def test_presence_and_held_back_masks_come_back(tmp_path: Path) -> None:
    cache = written(tmp_path)
    assert cache.drawn.tolist() == [[True, True, False, False]]
    assert cache.status.tolist() == [[MASK, NO_SEG, NO_SEG, FAILED]]
    assert cache.presence.tolist() == [[0.75, 0.375, 0.125, 0]]
    assert cache.predicted_iou.tolist() == [[np.float32(0.9), 0.25, 0, 0]]
    assert cache.seg_embeddings.tolist() == [[[1, 0], [0, 1], [0, 0], [0, 0]]]
    assert np.all(cache.mask_logits(0)[0] == 2) and np.all(cache.mask_logits(0)[1] == -3)


def test_a_teacher_that_cannot_tell_is_sure_of_what_it_says(tmp_path: Path) -> None:
    cache = written(tmp_path, presence=None, withheld=None)
    assert cache.presence.tolist() == [[1, 0, 0, 0]]
    assert cache.drawn.tolist() == [[True, False, False, False]]
    assert cache.predicted_iou[0, 1:].tolist() == [0, 0, 0]
    assert not cache.seg_embeddings[0, 1:].any()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"presence": np.array([0.5, np.nan, 0, 0], np.float32)}, "presence"),
        ({"presence": np.array([0.5, 1.5, 0, 0], np.float32)}, "presence"),
        ({"presence": np.array([0.5, -0.5, 0, 0], np.float32)}, "presence"),
        ({"withheld": np.array([True, False, False, False])}, "withheld"),
        ({"withheld": np.array([False, False, False, True])}, "withheld"),
        ({"predicted_iou": np.array([1, np.nan, 0, 0], np.float32)}, "predicted_iou"),
        ({"mask_logits": np.full((4, 3, 4), np.inf, np.float32)}, "mask_logits"),
        ({"seg_embeddings": np.full((4, 2), np.nan, np.float32)}, "seg_embeddings"),
        ({"status": np.array([MASK, NO_SEG, 0, FAILED], np.uint8)}, "without an answer"),
    ],
)
def test_what_no_cache_may_hold_is_refused(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    writer = writer_in(tmp_path)
    with pytest.raises(ValueError, match=f"view0: .*{message}"):
        writer.write_view(0, answers(**changed))
    assert writer.missing_views() == [0]


def test_a_reopened_cache_keeps_what_was_held_back(tmp_path: Path) -> None:
    views = ("view0", "view1")
    writer_in(tmp_path, views).write_view(0, answers(status=np.array([1, 2, 2, 2], np.uint8)))
    again = writer_in(tmp_path, views)
    assert again.missing_views() == [1]
    again.write_view(1, answers(presence=None, withheld=None))
    cache = read_teacher(finish(tmp_path))
    assert cache.drawn.tolist() == [[True, True, False, False], [True, False, False, False]]
    assert cache.presence.tolist() == [[0.75, 0.375, 0.125, 0], [1, 0, 0, 0]]
    assert np.all(cache.mask_logits(0)[1] == -3)


def test_a_view_tried_again_forgets_what_it_held_back(tmp_path: Path) -> None:
    writer_in(tmp_path).write_view(0, answers())
    again = writer_in(tmp_path)
    assert again.missing_views() == [0], "one of its answers had failed"
    none = np.full(4, NO_SEG, np.uint8)
    again.write_view(0, answers(status=none, presence=None, withheld=None))
    cache = read_teacher(finish(tmp_path))
    assert not cache.drawn.any() and not cache.presence.any() and not cache.predicted_iou.any()


def test_a_lost_view_of_held_back_masks_is_seen(tmp_path: Path) -> None:
    status = np.full(4, NO_SEG, np.uint8)
    writer_in(tmp_path).write_view(0, answers(status=status))
    (tmp_path / "teacher.zarr/views/c/0").unlink()
    with pytest.raises(ArtifactError, match="4 answers are missing. Run RunTeacher"):
        read_teacher(finish(tmp_path))


class Hesitant:
    """Says one mask, holds one back, has nothing for the rest; ``spoilt`` fields on one view."""

    name, embedding_dim = "hesitant", 2

    def __init__(self, **spoilt: Any) -> None:
        self.spoilt = spoilt

    def mask_grid(self, height: int, width: int) -> MaskGrid:
        return GRID

    def encode_view(self, image: Any, view_id: str) -> str:
        return view_id

    def answer(self, view: str, texts: Sequence[str]) -> list[TeacherAnswer]:
        mask, token = np.full((1, 3, 4), 5, np.float32), np.array([[3, 4]], np.float32)
        said = TeacherAnswer("[SEG]", mask, np.full(1, 0.5, np.float32), token, 0.875)
        held = WithheldMask(np.full((3, 4), -1, np.float32), 0.25, np.array([6, 8], np.float32))
        back = TeacherAnswer.without_mask("no", GRID, 2, 0.125, held)
        if view == "view1" and self.spoilt:
            back = replace(back, **self.spoilt)
        rest = TeacherAnswer.without_mask("never", GRID, 2)
        return [said, back, *[rest] * (len(texts) - 2)]


def asked(folder: Path, teacher: Hesitant) -> tuple[TeacherCache, run_teacher.TeacherReport]:
    scene, prompts = world(folder)
    ids = [view.view_id for view in scene.views], [prompt.prompt_id for prompt in prompts]
    report = run_teacher.run(scene, prompts, lambda: teacher, TeacherWriter(folder, *ids))
    return read_teacher(finish(folder)), report


def world(folder: Path) -> tuple[Scene, list[Prompt]]:
    scene, _ = make_tiny_scene(spacing=0.4)
    return with_images(scene, folder), make_tiny_prompts()[0]


def test_what_a_teacher_holds_back_reaches_the_cache(tmp_path: Path) -> None:
    cache, report = asked(tmp_path, Hesitant())
    assert (report.masks, report.no_seg, report.failed) == (6, 24, 0)
    assert cache.drawn[0].tolist() == [True, True, False, False, False]
    assert cache.presence[0].tolist() == [0.875, 0.125, 0, 0, 0]
    assert cache.predicted_iou[0].tolist() == [0.5, 0.25, 0, 0, 0]
    assert cache.seg_embeddings[0, :2].tolist() == [[3, 4], [6, 8]]
    assert np.all(cache.mask_logits(5)[1] == -1)


HELD = WithheldMask(np.zeros((3, 4), np.float32), 0.5, np.zeros(2, np.float32))


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        ({"withheld": replace(HELD, mask_logits=np.zeros((4, 3), np.float32))}, "(4, 3)"),
        ({"withheld": replace(HELD, mask_logits=np.zeros((1, 3, 4), np.float32))}, "(1, 3, 4)"),
        ({"withheld": replace(HELD, seg_embedding=np.zeros(3, np.float32))}, "(3,)"),
        ({"withheld": replace(HELD, mask_logits=np.full((3, 4), np.nan))}, "not finite"),
        ({"withheld": replace(HELD, predicted_iou=np.nan)}, "not finite"),
        ({"presence": 1.01}, "1.01 is not in [0, 1]"),
        ({"presence": np.nan}, "nan is not in [0, 1]"),
        (
            {
                "mask_logits": np.zeros((1, 3, 4), np.float32),
                "predicted_iou": np.zeros(1, np.float32),
                "seg_embeddings": np.zeros((1, 2), np.float32),
            },
            "a withheld mask beside 1 masks of",
        ),
    ],
)
def test_nonsense_held_back_fails_its_view_alone(
    tmp_path: Path, spoilt: dict[str, Any], reason: str
) -> None:
    cache, report = asked(tmp_path, Hesitant(**spoilt))
    ((view_id, told),) = report.failures
    assert view_id == "view1" and reason in told
    assert np.all(cache.status[1] == FAILED) and not np.any(cache.status[[0, 2]] == FAILED)
    assert not cache.drawn[1].any() and not cache.presence[1].any()
    assert cache.drawn[0].tolist() == [True, True, False, False, False]

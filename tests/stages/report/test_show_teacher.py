"""What a teacher answered, on sheets: which views, which pixels, which words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.artifacts.soft_masks import PseudoLabels
from data.artifacts.teacher import FAILED, MASK, NO_SEG, TeacherCache
from data.types import Array, Prompt, Scene
from stages.report import inspect
from stages.report.inspect import run_teacher, spread_views
from stages.report.pictures import SheetCell, contact_sheet
from stages.scene.view_images import mask_of
from tests.support.scans.tiny_scene import make_tiny_scene
from tests.support.worlds.teacher_world import with_images, write_cache

STATUS = np.array([[MASK], [NO_SEG], [MASK], [FAILED], [MASK], [NO_SEG]], np.uint8)
PROMPT = Prompt("q0", "00000000aa", "the red chair", "referring")


@pytest.fixture()
def scene(tmp_path: Path) -> Scene:
    return with_images(make_tiny_scene()[0], tmp_path)


@pytest.fixture()
def cache(tmp_path: Path) -> TeacherCache:
    """The left half of every view is masked, where one is drawn; the second view holds it back."""
    logits = np.full((6, 1, 4, 6), -1, np.float32)
    logits[..., :3] = 1
    iou = np.array([[0.5], [0.9], [0.8], [0], [0.2], [0]], np.float32)
    presence = np.array([[1], [0.3], [0.9], [0], [1], [0.1]], np.float32)
    withheld = np.zeros((6, 1), bool)
    withheld[1] = True
    vectors = np.ones((6, 1, 4), np.float32)
    return write_cache(
        tmp_path / "cache", STATUS, logits, iou, vectors, withheld=withheld, presence=presence
    )


def _labels(scene: Scene) -> PseudoLabels:
    """Views 0 and 2 count; the last but one was dropped."""
    weights = np.array([[0.25, 0, 0.75, 0, 0, 0]], np.float32)
    points = np.zeros((1, len(scene.cloud)), np.float32)
    tokens = np.zeros((1, 6, 4), np.float32)
    reasons = (("", "no [SEG]", "", "failed", "no other view agrees", "no [SEG]"),)
    views = tuple(view.view_id for view in scene.views)
    threshold = np.full(1, 0.5, np.float32)
    told = (weights, reasons, tokens[:, 0], threshold, tokens, weights, np.ones((1, 3), np.float32))
    return PseudoLabels(scene.scene_id, ("q0",), views, points, points, *told)


def test_a_mask_is_that_of_the_cells(cache: TeacherCache) -> None:
    mask = mask_of(cache, 0, 0, (8, 12))
    expected = np.zeros((8, 12), bool)
    expected[:, :6] = True
    np.testing.assert_array_equal(mask, expected)


def test_views_go_from_the_surest_down_with_seg_first(cache: TeacherCache) -> None:
    """Presence times predicted IoU with [SEG]: 0.5, 0.72, 0.2; then without: 0.27, 0, 0."""
    assert spread_views(cache, 0, 6) == [2, 0, 4, 1, 3, 5]
    assert spread_views(cache, 0, 99) == [2, 0, 4, 1, 3, 5]
    assert spread_views(cache, 0, 2) == [2, 5]
    assert spread_views(cache, 0, 1) == [2]


@pytest.fixture()
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[SheetCell]:
    """Panels as they are put on a contact_sheet."""
    seen: list[SheetCell] = []

    def noted(heading: str, about: str, cells: list[SheetCell], columns: int) -> object:
        seen.extend(cells)
        return contact_sheet(heading, about, cells, columns)

    monkeypatch.setattr(inspect, "contact_sheet", noted)
    return seen


def _notes(cells: list[SheetCell]) -> list[tuple[str, ...]]:
    return [panel.notes for panel in cells]


def test_each_view_tells_status_figures_weight_and_answer(
    scene: Scene, cache: TeacherCache, drawn: list[SheetCell]
) -> None:
    ((prompt, _),) = run_teacher(scene, cache, [PROMPT], _labels(scene), range(6))
    assert prompt is PROMPT
    assert [panel.title for panel in drawn] == [f"{i + 1}. view{i}" for i in range(6)]
    assert _notes(drawn) == [
        ("[SEG]; presence 1.00, predicted IoU 0.50", "gate weight 0.250", '"[SEG]"'),
        ("none (no [SEG]); presence 0.30, predicted IoU 0.90", "dropped: no [SEG]", '"no"'),
        ("[SEG]; presence 0.90, predicted IoU 0.80", "gate weight 0.750", '"[SEG]"'),
        ("failed; presence 0.00", "dropped: failed", "failed: no"),
        ("[SEG]; presence 1.00, predicted IoU 0.20", "dropped: no other view agrees", '"[SEG]"'),
        ("none (no [SEG]); presence 0.10", "dropped: no [SEG]", '"no"'),
    ]


def test_without_labels_nothing_is_said_of_weights(
    scene: Scene, cache: TeacherCache, drawn: list[SheetCell]
) -> None:
    others = replace(_labels(scene), prompt_ids=("q7",))
    for labels in (None, others):
        list(run_teacher(scene, cache, [PROMPT], labels, [0]))
    assert _notes(drawn) == [("[SEG]; presence 1.00, predicted IoU 0.50", '"[SEG]"')] * 2


def test_masks_are_drawn_where_there_are_some_and_nowhere_else(
    scene: Scene, cache: TeacherCache, drawn: list[SheetCell]
) -> None:
    """Pictures are grey all over, so that left and right halves tell what was tinted."""
    list(run_teacher(scene, cache, [PROMPT], None, range(6)))
    for index, panel in enumerate(drawn):
        half = panel.picture.shape[1] // 2
        left, right = panel.picture[:, :half], panel.picture[:, half + 1 :]
        assert (right == 40 * index).all()
        tinted = (left != 40 * index).any(axis=2)
        assert tinted.all() if index in (0, 1, 2, 4) else not tinted.any()

    def blue(picture: Array) -> bool:
        return bool(picture[5, 5, 2] > picture[5, 5, 0])

    assert [blue(drawn[index].picture) for index in (0, 1, 2, 4)] == [False, True, False, False]


@pytest.mark.parametrize(
    "text",
    [
        "<img src=x onerror=alert(1)>",
        "one\nline\r\nor\tmore\x1b[2J",
        "\u202e\u05d0\u05d9\u05e4\u05d4 \u05d4\u05db\u05d9\u05e1\u05d0?",
        "a very long answer " * 2000,
        "W" * 50_000,
        "",
    ],
)
def test_what_is_asked_and_answered_may_be_anything(
    scene: Scene, cache: TeacherCache, text: str
) -> None:
    cache.answers = tuple((text,) for _ in range(6))
    prompt = replace(PROMPT, text=text, task=text)
    ((_, image),) = run_teacher(scene, cache, [prompt], _labels(scene), 8)
    assert image.width == 1400 and image.height < 1100


def test_a_query_that_the_cache_lacks_is_refused(scene: Scene, cache: TeacherCache) -> None:
    with pytest.raises(ValueError, match="not in"):
        list(run_teacher(scene, cache, [replace(PROMPT, prompt_id="q9")], None, 2))

"""The teacher's views of a query: which are shown, with what words and which mask."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.configs import ReportConfig
from stages.report.query_cards import (
    TINT,
    ViewThumbnail,
    ViewThumbnails,
    view_thumbnails,
    within_budget,
)
from tests.support.scans.tiny_scene import make_tiny_prompts, make_tiny_scene
from tests.support.worlds.report_world import labels_of, teacher_of
from tests.support.worlds.teacher_world import with_images

CFG = ReportConfig(views=2, dropped_views=2, view_width=64)


@pytest.fixture()
def made(tmp_path: Path) -> dict[str, ViewThumbnails]:
    scene = with_images(make_tiny_scene()[0], tmp_path)
    (tmp_path / "view2.png").unlink()
    prompts, _ = make_tiny_prompts()
    teacher = teacher_of(scene, prompts, tmp_path / "cache", "it is")
    asked = [prompts[1].prompt_id, "a search that no room was asked as a whole"]
    return view_thumbnails(scene, teacher, labels_of(scene, prompts), asked, CFG)


def test_the_heaviest_kept_and_the_most_believed_dropped_are_shown(
    made: dict[str, ViewThumbnails],
) -> None:
    ((name, thumbnails),) = made.items()
    assert name.endswith("_0001") and (thumbnails.num_kept, thumbnails.num_views) == (3, 6)
    assert [view.view_id for view in thumbnails.views] == ["view0", "view2", "view1", "view4"]
    assert [round(view.weight, 2) for view in thumbnails.views] == [0.6, 0.3, 0, 0]
    assert [view.reason for view in thumbnails.views] == ["", "", "reason 1", "reason 4"]
    assert thumbnails.views[3].answer == "it is 4" and thumbnails.views[3].mask == "answered"


def test_the_mask_is_tinted_on_the_small_image_and_nothing_else(
    made: dict[str, ViewThumbnails],
) -> None:
    first = next(iter(made.values())).views[0]
    picture = np.asarray(Image.open(io.BytesIO(first.picture)).convert("RGB")).astype(int)
    assert picture.shape == (48, 64, 3)
    # View 0's image is black: half the tint on the left, black on the right.
    assert np.abs(picture[10:38, 6:26] - np.array(TINT) / 2).max() < 25
    assert picture[:, 36:].max() < 25


def test_an_image_that_is_gone_leaves_its_words(made: dict[str, ViewThumbnails]) -> None:
    gone = next(iter(made.values())).views[1]
    assert gone.missing and gone.uri == "" and gone.answer == "it is 2"


def test_where_room_is_short_each_query_has_its_first_picture() -> None:
    view = ViewThumbnail("v", 0.5, "", "yes", "answered", b"1234567890")
    two, one = ViewThumbnails((view, view), 2, 2), ViewThumbnails(
        (replace(view, picture=b"12345"),), 1, 2
    )
    kept = within_budget({"a": two, "b": one}, 16)
    assert [[len(v.picture) for v in kept[name].views] for name in "ab"] == [[10, 0], [5]]
    assert kept["a"].views[1].answer == "yes"
    assert within_budget({"a": two, "b": one}, 25) == {"a": two, "b": one}
    assert not any(view.picture for view in within_budget({"a": two}, 0)["a"].views)

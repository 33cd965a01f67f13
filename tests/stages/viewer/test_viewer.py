"""What the viewer shows, by hand: colours, answer_facts, sides, the best views, the teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError, UserError
from data.types import PointCloud, Scene
from models.teacher import MaskGrid, TeacherAnswer
from stages.report.pictures import BOTH, MISSED, ONLY
from stages.viewer.content import QueryAnswer, ViewedScene, answer_facts, ask_views, best_views
from stages.viewer.scene3d import GLOW, colored, emphasised
from tests.support.scans.tiny_scene import make_tiny_scene

WHITE = np.full((4, 3), 255, np.uint8)
MASK = np.array([True, True, False, False])
TRUTH = np.array([True, False, True, False])
PROBS = np.array([1.0, 0.75, 0.25, 0.0], np.float32)
DIMMED = [153, 153, 153]


def test_an_answer_glows_on_the_dimmed_scan() -> None:
    shown = colored(WHITE, PROBS, MASK, TRUTH, "answer")
    assert shown.tolist() == [list(GLOW)] * 2 + [DIMMED] * 2
    assert colored(WHITE, PROBS, MASK, None, "right or wrong").tolist() == shown.tolist()
    black = colored(np.zeros((4, 3), np.uint8), PROBS, MASK, None, "answer")
    assert black[0].tolist() == [140, 97, 18] and black[2].tolist() == [0, 0, 0]


def test_right_wrong_and_missed_have_the_colours_of_the_report() -> None:
    shown = colored(WHITE, PROBS, MASK, TRUTH, "right or wrong").tolist()
    assert shown == [list(BOTH), list(ONLY), list(MISSED), DIMMED]
    assert emphasised(MASK, TRUTH, "right or wrong").tolist() == [True, True, True, False]
    assert emphasised(MASK, TRUTH, "answer").tolist() == MASK.tolist()
    assert not emphasised(MASK, TRUTH, "scan alone").any()


def test_how_sure_is_a_ramp_and_the_scan_alone_is_the_scan() -> None:
    shown = colored(WHITE, PROBS, MASK, None, "how sure").tolist()
    assert shown == [[255, 234, 70], [187, 175, 113], [60, 77, 110], [0, 32, 76]]
    assert colored(WHITE, PROBS, MASK, TRUTH, "scan alone") is WHITE


def test_figures_and_beliefs_by_hand() -> None:
    points = np.array([[0, 0, 0], [1, 2, 4], [5, 5, 5], [6, 6, 6]], np.float32)
    told = answer_facts(points, MASK, 0.876)
    assert told == {
        "Score": "0.88",
        "Points": "2 of 4",
        "Size": "1.00 x 2.00 x 4.00 m",
        "Centre": "0.50, 1.00, 2.00 m",
    }
    assert answer_facts(points, np.zeros(4, bool), None)["Centre"] == "nothing fits"
    known = QueryAnswer.of_mask("truth", MASK)
    assert (known.probs >= known.threshold).tolist() == MASK.tolist()
    empty = QueryAnswer.of_mask("truth", np.zeros(4, bool))
    assert not (empty.probs >= empty.threshold).any() and empty.threshold > 1


def _box(sign: float) -> PointCloud:
    """The middles of a box's six sides with normals into it (or out of it), and one inside."""
    points = [[0.05, 2, 1], [2, 0, 1], [2, 2, -0.3], [3.95, 2, 1], [2, 4.2, 1], [2, 2, 1.95]]
    normals = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0], [0, -1, 0], [0, 0, -1], [0.6, 0.8, 0]]
    at = np.array([*points, [2, 2, 1]], np.float32)
    return PointCloud(at, np.zeros((7, 3), np.uint8), np.array(normals, np.float32) * sign)


@pytest.mark.parametrize("sign", [1.0, -1.0, 0.0])
def test_sides_of_a_box_by_hand(sign: float) -> None:
    pytest.importorskip("viser")
    from stages.viewer.scene3d import INSIDE, sides

    low, high, cloud = np.zeros(3), np.array([4.0, 4, 2]), _box(sign)
    found = {k: part.tolist() for k, part in sides(cloud, low, high).items()}
    assert found == {INSIDE: [6], 0: [0], 1: [1], 2: [2], 3: [3], 4: [4], 5: [5]}


def test_a_wall_further_in_is_of_its_side() -> None:
    pytest.importorskip("viser")
    from stages.viewer.scene3d import sides

    cloud = _box(1.0)
    cloud.points[6], cloud.normals[6] = (1, 2, 1), (1, 0, 0)
    assert sides(cloud, np.zeros(3), np.array([4.0, 4, 2]))[0].tolist() == [0, 6]


def _viewed(scene: Scene, seen: list[list[int]] | None) -> ViewedScene:
    points = [np.array(ids, np.int32) for ids in seen or ()]
    return ViewedScene(scene, (), None if seen is None else lambda view: points[view])


def test_the_best_views_see_most_of_the_answer() -> None:
    scene = make_tiny_scene()[0]
    mask = np.zeros(len(scene.cloud), bool)
    mask[[3, 4, 5]] = True
    seen = [[3, 9, 10, 11], [3, 4, 5], [], [4, 5]] + [[1]] * (len(scene.views) - 4)
    assert best_views(_viewed(scene, seen), mask, 3) == [1, 3, 0]
    assert best_views(_viewed(scene, seen), np.zeros_like(mask), 2) == [0, 1]
    assert best_views(_viewed(scene, None), mask, 2) == [0, 1]


class LeftHalf:
    """Masks the left half of any picture, and has no mask for "nothing"."""

    name, embedding_dim = "left", 2

    def mask_grid(self, height: int, width: int) -> MaskGrid:
        return MaskGrid(4, 8, (8.0, 4.0))

    def encode_view(self, image: Any, view_id: str) -> Any:
        return image

    def answer(self, view: Any, texts: Any) -> list[TeacherAnswer]:
        if list(texts) == ["nothing"]:
            return [TeacherAnswer.without_mask("no", self.mask_grid(1, 1), 2)]
        logits = np.full((1, 4, 8), -4, np.float32)
        logits[:, :, :4] = 4
        said = np.ones((1, 2), np.float32)
        return [TeacherAnswer("It is [SEG].", logits, np.ones(1, np.float32), said)]


def test_the_teachers_masks_are_tinted(tmp_path: Path) -> None:
    from tests.support.worlds.teacher_world import with_images

    scene = with_images(make_tiny_scene()[0], tmp_path)
    viewed = _viewed(scene, None)
    (seen,) = ask_views(viewed, [1], "the left", LeftHalf)
    image = np.asarray(Image.open(scene.views[1].image_path).convert("RGB"), np.float32)
    half = image.shape[1] // 2
    assert (seen.view_id, seen.num_masks) == (scene.views[1].view_id, 1)
    assert np.array_equal(seen.picture[:, half:], image[:, half:])
    expected = np.rint(0.4 * image[:, :half] + 0.6 * np.array(ONLY))
    np.testing.assert_allclose(seen.picture[:, :half], expected, atol=1)
    (none,) = ask_views(viewed, [0], "nothing", LeftHalf)
    assert none.num_masks == 0 and none.text == "no"
    scene.views[0].image_path.unlink()
    with pytest.raises(DataError, match="expected an image"):
        list(ask_views(viewed, [0], "the left", LeftHalf))


def test_runs_that_cannot_be_viewed_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.__main__ import main

    assert main(["view", "--scene-set", "demo", "--no-browser"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "none of the 18 scenes of demo is prepared" in told
    assert "luigi --module pipeline RunAll --scene-set demo" in told
    assert main(["view", "--scene-set", "nowhere"]) == 2
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["view", "--scene-set", "demo", "--port", "70000"])
    assert "a port from 1 to 65535" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["view", "--scene-set", "demo"]) == 2
    assert "pip install -e .[view]" in capsys.readouterr().err


def test_the_oracle_answers_no_new_sentence(tmp_path: Path) -> None:
    from pipeline.commands.view import _teacher
    from pipeline.plan import load_plan
    from tests.support.tiny_set import write_set

    plan = load_plan(write_set(tmp_path / "tiny.yaml"))
    with pytest.raises(UserError, match="the oracle"):
        _teacher(plan, "cpu")

"""The animation: the choice of queries, the content of its frames, and equal bytes each time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageSequence

from data.artifacts.soft_masks import Predictions
from data.artifacts.teacher import MASK
from data.types import Array, Prompt
from stages.report import animation, scan_renderer
from stages.report.animation import SIZE, AnimatedQuery, Candidate, candidates, choose, run
from stages.report.scan_renderer import render_orbit
from tests.support.scans.tiny_scene import make_tiny_prompts, make_tiny_scene
from tests.support.worlds.teacher_world import with_images, write_cache
from tests.support.worlds.tiny_training import tiny_training_scene


def _candidate(name: str, task: str, score: float, text: str = "") -> Candidate:
    scene, _, number = name.partition("/")
    return Candidate(Prompt(f"{scene}_{number}", scene, text or name, task), score, 5)


def test_implicit_queries_come_first_then_the_surest_of_other_scenes() -> None:
    found = [
        _candidate("a/0", "referring", 0.99),
        _candidate("a/1", "implicit", 0.8),
        _candidate("a/2", "implicit", 0.7),
        _candidate("b/0", "implicit", 0.6),
        _candidate("b/1", "implicit", 0.9, "a/1"),
        _candidate("c/0", "referring", 0.5),
    ]

    def names(count: int) -> list[str]:
        return [prompt.prompt_id for prompt in choose(found, count)]

    # b/1 is the surest; a/1 has its sentence; then each scene once before any a second time.
    assert names(2) == ["b_1", "a_2"]
    assert names(4) == ["b_1", "a_2", "c_0", "b_0"]
    assert names(99) == ["b_1", "a_2", "c_0", "b_0", "a_0"]
    assert choose([], 3) == []


def test_only_answered_queries_are_candidates() -> None:
    prompts = [Prompt(f"q{i}", "s", f"text {i}", "referring") for i in range(3)]
    masks = np.array([[0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], bool)
    presences = np.array([[0.1, 0.9, 0.9], [0.2, 0.8, 0.8], [0.3, 0.7, 0.7]], np.float32)
    order = ("q2", "q1", "q0")
    probs = masks * np.float32(1)
    found = candidates(
        prompts, Predictions("s", order, probs, masks, masks, presences, 1 - presences)
    )
    assert [(one.prompt.prompt_id, one.points) for one in found] == [("q0", 4), ("q2", 2)]
    assert [one.score for one in found] == pytest.approx([0.3, 0.1])


@pytest.fixture(scope="module")
def shot(tmp_path_factory: pytest.TempPathFactory) -> AnimatedQuery:
    """The tiny room, grey photographs, every teacher's mask the left half, the bed as answer."""
    folder = tmp_path_factory.mktemp("shot")
    training = tiny_training_scene()
    _, truth = make_tiny_scene()
    scene = with_images(training.scene, folder)
    prompts, _ = make_tiny_prompts(scene.scene_id)
    count = len(prompts)
    logits = np.full((6, count, 4, 6), -1, np.float32)
    logits[..., :3] = 1
    cache = write_cache(
        folder / "cache",
        np.full((6, count), MASK, np.uint8),
        logits,
        np.full((6, count), 0.5, np.float32),
        np.ones((6, count, 4), np.float32),
        more_ids=[prompt.prompt_id for prompt in prompts],
    )
    masks = np.zeros((count, len(scene.cloud)), bool)
    masks[0] = truth.mask([11])
    sure = np.full((count, 3), 0.5, np.float32)
    ids = tuple(prompt.prompt_id for prompt in prompts)
    found = Predictions(scene.scene_id, ids, masks * np.float32(1), masks, masks, sure, sure)
    return AnimatedQuery(scene, prompts[0], cache, training.labels, found)


@pytest.fixture(scope="module", autouse=True)
def _fewer_pictures() -> Iterator[None]:
    """A turn takes few pictures, and a ray is cast for a pixel, not for each sample of it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(animation, "STEPS", 6)
        patched.setattr(scan_renderer, "_SUPERSAMPLE", 1)
        yield


@pytest.fixture(scope="module")
def made(shot: AnimatedQuery) -> bytes:
    return run([shot])


def _frames(content: bytes) -> Iterator[tuple[Array, int]]:
    with Image.open(io.BytesIO(content)) as image:
        for frame in ImageSequence.Iterator(image):
            yield np.asarray(frame.convert("RGB")).astype(int), frame.info["duration"]


def _vermilion(frame: Array) -> Array:
    """(H, W) bool: red well above green, green well above blue, as nothing else in the room is."""
    return np.asarray((frame[..., 0] - frame[..., 2] > 110) & (frame[..., 0] - frame[..., 1] > 60))


def test_the_answer_lights_up_and_turns(made: bytes) -> None:
    frames = list(_frames(made))
    assert len(frames) == 8 and frames[0][0].shape == (SIZE[1], SIZE[0], 3)
    scan = [frame[56:-34, 208:] for frame, _ in frames]
    lit = [int(np.count_nonzero(_vermilion(part))) for part in scan]
    assert lit[0] == lit[1] == 0 and min(lit[5:]) > 500
    for before, after in zip(scan[1:-1], scan[2:], strict=True):
        assert (before != after).any()
    assert frames[0][1] > 1000 and frames[-1][1] > 1000


def test_masks_are_drawn_on_the_photographs_after_the_question(made: bytes) -> None:
    first, second = (frame for frame, _ in list(_frames(made))[:2])
    for top in (56, 181, 306):
        assert not _vermilion(first[top : top + 117, 16:192]).any()
        assert _vermilion(second[top + 3 : top + 114, 19:98]).mean() > 0.95
        assert not _vermilion(second[top : top + 117, 110:192]).any()


def test_the_page_is_white(made: bytes) -> None:
    for frame, _ in _frames(made):
        assert (frame[:, :16] == 255).all() and (frame[:10] == 255).all()
        assert (frame[60, 600:] == 255).all()


def test_what_does_not_move_does_not_flicker(made: bytes) -> None:
    frames = [frame for frame, _ in _frames(made)]
    for frame in frames[2:]:
        np.testing.assert_array_equal(frame[:56], frames[1][:56])
        np.testing.assert_array_equal(frame[:, :208], frames[1][:, :208])


def test_it_is_the_same_again(made: bytes, shot: AnimatedQuery) -> None:
    assert run([shot]) == made


@pytest.mark.parametrize("text", ["<img src=x onerror=alert(1)>\n\u202e\u05d0", "W" * 9000])
def test_a_sentence_may_be_anything(
    made: bytes, shot: AnimatedQuery, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(animation, "STEPS", 2)  # The first picture has the sentence.
    first, _ = next(_frames(run([replace(shot, prompt=replace(shot.prompt, text=text))])))
    plain, _ = next(_frames(made))
    assert (first[:56] != plain[:56]).any()
    assert (first[:56, :16] == 255).all() and (first[:56, -16:] == 255).all()


def test_a_turning_scan_keeps_its_size(shot: AnimatedQuery) -> None:
    """The room's height in the picture changes little; fitted anew each time it would pump."""
    angles = np.linspace(0, np.pi / 2, 5)
    turned = list(render_orbit(shot.scene, [float(a) for a in angles], 96, 72))
    assert len(turned) == 5
    seen = [np.argwhere(one.picture[..., 3] > 0) for one in turned]
    for pixels in seen:
        assert pixels.min() >= 1 and (pixels.max(axis=0) <= (70, 94)).all()
    area = np.array([len(pixels) for pixels in seen])
    assert area.max() < 1.25 * area.min()


def test_nothing_to_show_is_refused(shot: AnimatedQuery) -> None:
    with pytest.raises(ValueError, match="nothing to show"):
        run([])
    flat = replace(shot.scene, triangles=shot.scene.triangles[:0])
    with pytest.raises(ValueError, match="no triangles"):
        run([replace(shot, scene=flat)])

"""The teacher stage: once per view, once per wording, resumable, failures counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.artifacts.teacher import FAILED, MASK, NO_SEG, read_teacher
from data.errors import DataError, UserError
from data.types import Prompt, Scene
from models.oracle import OracleTeacher
from models.teacher import MaskGrid, TeacherAnswer
from stages.teacher import run_teacher
from tests.support.asked_scene import asked_scene, bytes_of, writer_of
from tests.support.worlds.teacher_world import CountingTeacher, finish


@pytest.fixture()
def world(tmp_path: Path) -> tuple[Scene, list[Prompt], OracleTeacher]:
    return asked_scene(tmp_path)


def test_the_cache_holds_what_the_teacher_said(tmp_path: Path, world: Any) -> None:
    scene, prompts, teacher = world
    counting = CountingTeacher(teacher)
    shown: list[tuple[int, int]] = []
    report = run_teacher.run(
        scene,
        prompts,
        lambda: counting,
        writer_of(tmp_path / "a", scene, prompts),
        lambda done, total: shown.append((done, total)),
    )
    cache = read_teacher(finish(tmp_path / "a"))
    assert counting.encoded == [view.view_id for view in scene.views]
    assert counting.asked == [[prompt.text for prompt in prompts]] * 6
    assert shown == [(k, 6) for k in range(7)]
    assert (report.masks, report.no_seg) == tuple(
        int(np.sum(cache.status == s)) for s in (MASK, NO_SEG)
    )
    assert (report.failed, report.failures) == (0, ())
    assert min(report.masks, report.no_seg) > 3
    image = np.zeros((1, 1, 3), np.uint8)
    for index, view in enumerate(scene.views):
        encoded = teacher.encode_view(image, view.view_id)
        for query, answer in enumerate(teacher.answer(encoded, [p.text for p in prompts])):
            assert cache.answers[index][query] == answer.text
            assert (cache.status[index, query] == MASK) == len(answer.mask_logits)
            if len(answer.mask_logits):
                stored = cache.mask_logits(index)[query]
                assert np.abs(stored - answer.mask_logits[0]).max() <= 1 / 16
                np.testing.assert_array_equal(
                    cache.seg_embeddings[index, query], answer.seg_embeddings[0]
                )


def test_a_killed_job_goes_on_where_it_was(tmp_path: Path, world: Any) -> None:
    scene, prompts, teacher = world
    run_teacher.run(scene, prompts, lambda: teacher, writer_of(tmp_path / "whole", scene, prompts))

    def kill(view_id: str) -> None:
        if view_id == "view3":
            raise KeyboardInterrupt

    first, second = CountingTeacher(teacher, before=kill), CountingTeacher(teacher)
    with pytest.raises(KeyboardInterrupt):
        run_teacher.run(
            scene, prompts, lambda: first, writer_of(tmp_path / "parts", scene, prompts)
        )
    shown: list[tuple[int, int]] = []
    run_teacher.run(
        scene,
        prompts,
        lambda: second,
        writer_of(tmp_path / "parts", scene, prompts),
        lambda done, total: shown.append((done, total)),
    )
    assert first.encoded == ["view0", "view1", "view2"]
    assert second.encoded == ["view3", "view4", "view5"]
    assert shown == [(3, 6), (4, 6), (5, 6), (6, 6)]
    assert bytes_of(tmp_path / "parts") == bytes_of(tmp_path / "whole")


def test_a_kill_inside_a_write_loses_that_view_only(
    tmp_path: Path, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zarr

    scene, prompts, teacher = world
    run_teacher.run(scene, prompts, lambda: teacher, writer_of(tmp_path / "whole", scene, prompts))
    written = zarr.Array.__setitem__
    count = 0

    def dying(self: Any, key: Any, value: Any) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        written(self, key, value)

    monkeypatch.setattr(zarr.Array, "__setitem__", dying)
    with pytest.raises(KeyboardInterrupt):
        run_teacher.run(
            scene, prompts, lambda: teacher, writer_of(tmp_path / "parts", scene, prompts)
        )
    monkeypatch.undo()
    again = CountingTeacher(teacher)
    run_teacher.run(scene, prompts, lambda: again, writer_of(tmp_path / "parts", scene, prompts))
    assert again.encoded == ["view2", "view3", "view4", "view5"]
    assert bytes_of(tmp_path / "parts") == bytes_of(tmp_path / "whole")


def test_a_whole_cache_needs_no_teacher(tmp_path: Path, world: Any) -> None:
    scene, prompts, teacher = world
    first = run_teacher.run(
        scene, prompts, lambda: teacher, writer_of(tmp_path / "a", scene, prompts)
    )

    def never() -> OracleTeacher:
        raise AssertionError("made a teacher for nothing")

    writer = writer_of(tmp_path / "a", scene, prompts)
    assert run_teacher.run(scene, prompts, never, writer) == first


def test_equal_wordings_are_asked_once(tmp_path: Path, world: Any) -> None:
    scene, prompts, teacher = world
    twin = replace(prompts[0], prompt_id="twin")
    counting = CountingTeacher(teacher)
    asked = [prompts[0], prompts[1], twin]
    run_teacher.run(scene, asked, lambda: counting, writer_of(tmp_path / "a", scene, asked))
    assert counting.asked == [[prompts[0].text, prompts[1].text]] * 6
    cache = read_teacher(finish(tmp_path / "a"))
    np.testing.assert_array_equal(cache.status[:, 0], cache.status[:, 2])
    np.testing.assert_array_equal(cache.mask_logits(1)[0], cache.mask_logits(1)[2])


def test_several_segs_become_one_mask(tmp_path: Path, world: Any) -> None:
    scene, prompts, _ = world
    low, high = np.full((2, 2), -4, np.float32), np.array([[5, -8], [-8, 3]], np.float32)

    class Twice:
        name, embedding_dim = "twice", 2

        def mask_grid(self, height: int, width: int) -> MaskGrid:
            return MaskGrid(2, 2, (2.0, 1.5))

        def encode_view(self, image: Any, view_id: str) -> str:
            assert image.shape == (96, 128, 3) and image.dtype == np.uint8
            return view_id

        def answer(self, view: str, texts: Any) -> list[TeacherAnswer]:
            iou, tokens = np.array([0.4, 0.8], np.float32), np.eye(2, dtype=np.float32)
            return [TeacherAnswer("[SEG] [SEG]", np.stack([low, high]), iou, tokens)] * len(texts)

    run_teacher.run(scene, prompts, Twice, writer_of(tmp_path / "a", scene, prompts))
    cache = read_teacher(finish(tmp_path / "a"))
    np.testing.assert_array_equal(cache.mask_logits(0)[0], [[5, -4], [-4, 3]])
    assert cache.predicted_iou[0, 0] == pytest.approx(0.6)
    np.testing.assert_array_equal(cache.seg_embeddings[0, 0], [0.5, 0.5])
    np.testing.assert_array_equal(cache.mask_extent, [2.0, 1.5])


@pytest.mark.parametrize("how", ["raises", "too few", "wrong shape", "not finite"])
def test_a_view_that_fails_is_counted_and_tried_again(tmp_path: Path, world: Any, how: str) -> None:
    scene, prompts, teacher = world

    class Flaky(CountingTeacher):
        def answer(self, view: Any, texts: Any) -> list[TeacherAnswer]:
            answers = super().answer(view, texts)
            if view.view_id != "view1":
                return answers
            if how == "raises":
                raise RuntimeError("out of " + "memory " * 200)
            if how == "too few":
                return answers[1:]
            tokens = np.zeros((1, 7 if how == "wrong shape" else 64), np.float32)
            mask = np.full((1, 48, 64), np.nan if how == "not finite" else 0, np.float32)
            return [TeacherAnswer("!", mask, np.ones(1, np.float32), tokens)] * len(texts)

    writer = writer_of(tmp_path / "a", scene, prompts)
    report = run_teacher.run(scene, prompts, lambda: Flaky(teacher), writer)
    assert report.failed == len(prompts)
    ((view_id, reason),) = report.failures
    assert view_id == "view1" and 0 < len(reason) <= 500
    assert writer.missing_views() == [1]
    cache = read_teacher(finish(tmp_path / "a"))
    assert np.all(cache.status[1] == FAILED) and not np.any(cache.status[[0, 2]] == FAILED)
    assert cache.answers[1] == (reason,) * len(prompts)


def test_failing_on_every_view_is_an_error(tmp_path: Path, world: Any) -> None:
    scene, prompts, teacher = world

    def fail(view_id: str) -> None:
        raise RuntimeError("no such device")

    failing = CountingTeacher(teacher, before=fail)
    with pytest.raises(UserError, match="all 6 views.*no such device"):
        run_teacher.run(scene, prompts, lambda: failing, writer_of(tmp_path / "a", scene, prompts))


def test_bad_images_are_named(tmp_path: Path, world: Any) -> None:
    scene, prompts, teacher = world
    path = scene.views[2].image_path
    whole = path.read_bytes()

    def run() -> None:
        run_teacher.run(scene, prompts, lambda: teacher, writer_of(tmp_path / "a", scene, prompts))

    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="view2.png: expected an image of 128x96"):
        run()
    path.write_bytes(b"not an image")
    with pytest.raises(DataError, match="view2.png"):
        run()
    path.unlink()
    with pytest.raises(DataError, match="found no file"):
        run()
    Image.new("RGB", (64, 96)).save(path)
    with pytest.raises(DataError, match="found an image of 64x96"):
        run()
    path.write_bytes(whole)
    run()


def test_prompts_of_another_scene_are_refused(tmp_path: Path, world: Any) -> None:
    scene, prompts, teacher = world
    stranger = replace(prompts[0], scene_id="elsewhere")
    with pytest.raises(ValueError, match="another scene"):
        run_teacher.run(
            scene, [stranger], lambda: teacher, writer_of(tmp_path / "a", scene, [stranger])
        )


def test_a_scene_without_prompts_is_an_empty_cache(tmp_path: Path, world: Any) -> None:
    scene, _, teacher = world
    report = run_teacher.run(scene, [], lambda: teacher, writer_of(tmp_path / "a", scene, []))
    assert (report.masks, report.no_seg, report.failed) == (0, 0, 0)
    assert read_teacher(finish(tmp_path / "a")).status.shape == (6, 0)

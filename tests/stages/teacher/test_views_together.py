"""Teachers that take several views together, and images that are read ahead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data.artifacts.teacher import FAILED, read_teacher
from data.types import Prompt, Scene
from models.oracle import OracleTeacher
from stages.teacher import run_teacher
from tests.support.asked_scene import asked_scene, bytes_of, writer_of
from tests.support.worlds.teacher_world import CountingTeacher, finish


@pytest.fixture()
def world(tmp_path: Path) -> tuple[Scene, list[Prompt], OracleTeacher]:
    return asked_scene(tmp_path)


class Several(CountingTeacher):
    """Takes two views at once, and fails where the view ``bad`` is among them."""

    bad = ""
    views_at_once = 2

    def encode_views(self, images: Any, view_ids: Any) -> list[Any]:
        return [self.encode_view(*pair) for pair in zip(images, view_ids, strict=True)]

    def answer_views(self, views: Any, texts: Any) -> list[Any]:
        return [self.answer(view, texts) for view in views]

    def encode_view(self, image: Any, view_id: str) -> Any:
        if view_id == self.bad:
            raise RuntimeError("out of memory")
        return super().encode_view(image, view_id)


def test_views_asked_together_and_images_read_ahead_change_nothing(
    tmp_path: Path, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, prompts, teacher = world
    run_teacher.run(scene, prompts, lambda: teacher, writer_of(tmp_path / "a", scene, prompts))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    several = Several(teacher)
    run_teacher.run(scene, prompts, lambda: several, writer_of(tmp_path / "b", scene, prompts))
    assert several.encoded == [view.view_id for view in scene.views]
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_a_failure_among_views_asked_together_costs_its_own_view_only(
    tmp_path: Path, world: Any
) -> None:
    scene, prompts, teacher = world
    several = Several(teacher)
    several.bad = scene.views[3].view_id
    report = run_teacher.run(
        scene, prompts, lambda: several, writer_of(tmp_path / "a", scene, prompts)
    )
    assert report.failures == ((several.bad, "RuntimeError: out of memory"),)
    cache = read_teacher(finish(tmp_path / "a"))
    assert (cache.status == FAILED).all(axis=1).tolist() == [False] * 3 + [True] + [False] * 2

"""Teachers that take several views together, and images that are read ahead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data.artifacts.teacher import FAILED, TeacherWriter, read_teacher
from data.types import Prompt, Scene
from models.oracle import OracleTeacher
from stages import run_teacher
from stages.configs import TeacherConfig
from stages.oracle import make_oracle
from stages.teacher_config import OracleConfig
from tests.teacher_world import CountingTeacher, finish, with_images
from tests.tiny_scene import make_tiny_prompts, make_tiny_scene

CFG = TeacherConfig(seed=5, oracle=OracleConfig(stride=2, hallucinate=0.5, miss=0.3))


@pytest.fixture()
def world(tmp_path: Path) -> tuple[Scene, list[Prompt], OracleTeacher]:
    scene, truth = make_tiny_scene(spacing=0.2)
    (tmp_path / "images").mkdir()
    scene = with_images(scene, tmp_path / "images")
    prompts, truths = make_tiny_prompts()
    return scene, prompts, make_oracle(scene, truth, prompts, truths, CFG)


def _writer(folder: Path, scene: Scene, prompts: list[Prompt]) -> TeacherWriter:
    folder.mkdir(exist_ok=True)
    return TeacherWriter(folder, [v.view_id for v in scene.views], [p.prompt_id for p in prompts])


def _bytes(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


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
    run_teacher.run(scene, prompts, lambda: teacher, _writer(tmp_path / "a", scene, prompts))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    several = Several(teacher)
    run_teacher.run(scene, prompts, lambda: several, _writer(tmp_path / "b", scene, prompts))
    assert several.encoded == [view.view_id for view in scene.views]
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")


def test_a_failure_among_views_asked_together_costs_its_own_view_only(
    tmp_path: Path, world: Any
) -> None:
    scene, prompts, teacher = world
    several = Several(teacher)
    several.bad = scene.views[3].view_id
    report = run_teacher.run(
        scene, prompts, lambda: several, _writer(tmp_path / "a", scene, prompts)
    )
    assert report.failures == ((several.bad, "RuntimeError: out of memory"),)
    cache = read_teacher(finish(tmp_path / "a"))
    assert (cache.status == FAILED).all(axis=1).tolist() == [False] * 3 + [True] + [False] * 2

"""A tiny scene with images and an oracle teacher, and the cache that the teacher stage writes."""

from __future__ import annotations

from pathlib import Path

from data.artifacts.teacher import TeacherWriter
from data.types import Prompt, Scene
from models.oracle import OracleTeacher
from stages.configs import TeacherConfig
from stages.network_configs import OracleConfig
from stages.teacher.oracle import make_oracle
from tests.support.scans.tiny_scene import make_tiny_prompts, make_tiny_scene
from tests.support.worlds.teacher_world import with_images

CFG = TeacherConfig(seed=5, oracle=OracleConfig(stride=2, hallucinate=0.5, miss=0.3))


def asked_scene(folder: Path) -> tuple[Scene, list[Prompt], OracleTeacher]:
    """Scene, queries and a teacher that answers them."""
    scene, truth = make_tiny_scene(spacing=0.2)
    (folder / "images").mkdir()
    scene = with_images(scene, folder / "images")
    prompts, truths = make_tiny_prompts()
    return scene, prompts, make_oracle(scene, truth, prompts, truths, CFG)


def writer_of(folder: Path, scene: Scene, prompts: list[Prompt]) -> TeacherWriter:
    """Open a writer of the scene's cache; a missing folder is made."""
    folder.mkdir(exist_ok=True)
    return TeacherWriter(folder, [v.view_id for v in scene.views], [p.prompt_id for p in prompts])


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Return the content of every file by its path below the folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}

"""What a teacher's cache depends on: exactly what changes its answers, found without torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data.errors import ConfigError, UserError
from pipeline.config import parse_overrides
from pipeline.plan import load_experiment, load_plan
from stages.configs import TeacherConfig
from stages.teacher import identity as teacher_identity
from stages.teacher.identity import find_source, locate_weights
from tests.support.cli import REPOSITORY

MODULE = "class MyTeacher:\n    pass\n"


def teacher(text: str) -> TeacherConfig:
    """The teacher of an overrides string."""
    return load_experiment([("--overrides", parse_overrides(text))]).teacher


def identity(text: str) -> tuple[dict[str, Any], dict[str, str]]:
    return teacher_identity.teacher_identity(teacher(text))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder that may hold modules, forgotten afterwards."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder that looks like a checkpoint, its tower beside it."""
    folder = tmp_path / "lisa"
    folder.mkdir()
    (folder / "config.json").write_text('{"mm_vision_tower": "tower"}')
    (folder / "a.bin").write_bytes(b"weights")
    (tmp_path / "tower").mkdir()
    (tmp_path / "tower" / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("ORACLE", "ORACLE,teacher.seed=1", False),
        ("ORACLE", "ORACLE,teacher.oracle.miss=0.2", False),
        ("ORACLE", "ORACLE,teacher.lisa.max_new_tokens=9", True),
        ("ORACLE", "ORACLE,teacher.options.size=3", True),
        ("LISA", "LISA,teacher.seed=3", True),
        ("LISA", "LISA,teacher.oracle.miss=0.2", True),
        ("LISA", "LISA,teacher.lisa.max_new_tokens=9", False),
        ("LISA", "LISA,teacher.lisa.masks=best_of_three", False),
        ("LISA", "LISA,teacher.lisa.dtype=bfloat16", True),
        ("LISA", "LISA,teacher.lisa.dtype=float32", False),
        ("LISA", "LISA,teacher.lisa.use_start_end=true", True),
        ("LISA", "LISA,teacher.lisa.use_start_end=false", False),
        ("OWN", "OWN,teacher.options.size=3", False),
        ("OWN", "OWN,teacher.seed=3", False),
        ("OWN", "OWN,teacher.oracle.miss=0.2,teacher.lisa.max_new_tokens=9", True),
    ],
)
def test_only_what_matters_to_the_chosen_teacher_counts(
    before: str, after: str, same: bool, weights: Path, here: Path
) -> None:
    (here / "own_teacher.py").write_text(MODULE)

    def of(text: str) -> Any:
        text = text.replace("ORACLE", "teacher.name=oracle")
        text = text.replace("LISA", f"teacher.name=lisa,teacher.lisa.weights={weights}")
        return identity(text.replace("OWN", "teacher.class=own_teacher:MyTeacher"))

    assert (of(before) == of(after)) is same


def test_weights_are_known_by_their_content_wherever_they_lie(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(folder: Path) -> Any:
        return identity(f"teacher.name=lisa,teacher.lisa.weights={folder}")

    first = of(weights)
    (weights / "README.md").write_text("a model card")
    (weights / ".cache").mkdir()
    (weights / ".cache" / "lock").write_text("")
    shutil.copytree(weights, tmp_path / "copies" / "moved")
    shutil.copytree(tmp_path / "tower", tmp_path / "copies" / "tower")
    assert of(tmp_path / "copies" / "moved") == first == of(weights)
    monkeypatch.setenv("WEIGHTS", str(tmp_path))
    assert of(Path("$WEIGHTS/lisa")) == first

    (weights / "a.bin").write_bytes(b"Weights")
    second = of(weights)
    (weights / "a.bin").rename(weights / "b.bin")
    third = of(weights)
    (tmp_path / "tower" / "config.json").write_text("{} ")
    assert first != second != third != of(weights) != first


def test_of_big_files_size_and_both_ends_count(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_identity, "_MIB", 4)

    def of(content: bytes) -> Any:
        (weights / "a.bin").write_bytes(content)
        return identity(f"teacher.name=lisa,teacher.lisa.weights={weights}")

    whole = of(b"head-middle-tail")
    assert whole == of(b"head=mIddle=tail")
    assert len({str(of(c)) for c in (b"Head-middle-tail", b"head-middle-taiL", b"headtail")}) == 3
    assert whole != of(b"head-middle--tail")
    assert of(b"12345678") != of(b"12345x78")


def test_a_hub_id_stands_for_itself() -> None:
    config, content = identity("teacher.name=lisa,teacher.lisa.weights=xinlai/LISA-7B-v1")
    assert content == {"weights": "xinlai/LISA-7B-v1@main"}
    assert config["name"] == "lisa" and "weights" not in config["lisa"]
    plus = identity("teacher.name=lisa_plus,teacher.lisa.weights=Senqiao/LISA_Plus_7b")[0]
    assert plus["lisa"]["use_start_end"] is False and plus["lisa"]["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("teacher.name=lisa", "set teacher.lisa.weights to the folder"),
        ("teacher.name=lisa_plus", "the teacher 'lisa_plus' needs weights"),
        ("teacher.name=lisa,teacher.lisa.weights=/no/such/place", "/no/such/place: expected"),
        ("teacher.name=lisa,teacher.lisa.weights=.", "without config.json"),
        (
            "teacher.name=lisa,teacher.lisa.weights=$NOT_SET/lisa",
            "variable in teacher.lisa.weights",
        ),
        ("teacher.name=lisa_nano", "not in this installation"),
        ("teacher.class=no_such_module:A", "no module 'no_such_module'"),
        ("teacher.class=json.nothing.more:A", "no module 'json.nothing.more'"),
        ("teacher.class=itertools:chain", "with a source file"),
    ],
)
def test_what_is_missing_is_told_while_planning(
    text: str, message: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_identity, "NANO", here / "nowhere")
    monkeypatch.delenv("NOT_SET", raising=False)
    plan = load_plan("demo", "", text)
    with pytest.raises(UserError) as caught:
        plan.key("fuse_masks", plan.scenes("val")[0])
    assert message in str(caught.value)
    assert plan.key("prepare_scene", plan.scenes("val")[0]).fingerprint


def test_a_tower_of_the_users_own_goes_before_the_named_one(weights: Path, tmp_path: Path) -> None:
    cfg = teacher(f"teacher.name=lisa,teacher.lisa.weights={weights}")
    assert locate_weights(cfg).vision_tower == tmp_path / "tower"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    text = f"teacher.name=lisa,teacher.lisa.weights={weights},teacher.lisa.vision_tower="
    assert locate_weights(teacher(f"{text}{tmp_path}/other")).vision_tower == tmp_path / "other"
    (weights / "config.json").write_text('{"mm_vision_tower": "openai/clip"}')
    assert locate_weights(cfg).vision_tower is None


def test_the_nano_weights_may_be_replaced(weights: Path) -> None:
    text = f"teacher.name=lisa_nano,teacher.lisa.weights={weights}"
    assert locate_weights(teacher(text)).checkpoint == weights
    assert teacher(text).dtype == "float32" and teacher(text).use_start_end


def test_source_is_found_without_being_run(here: Path) -> None:
    (here / "package" / "inner").mkdir(parents=True)
    (here / "package" / "__init__.py").write_text("raise RuntimeError\n")
    (here / "package" / "inner" / "deep.py").write_text("raise RuntimeError\n")
    assert find_source("package.inner.deep") == here / "package" / "inner" / "deep.py"
    assert find_source("package") == here / "package" / "__init__.py"
    for wrong in ("package.inner", "package.deep", "package.inner.deep.deeper"):
        with pytest.raises(ConfigError):
            find_source(wrong)


def test_changed_source_is_another_teacher(here: Path) -> None:
    path = here / "own_teacher.py"
    path.write_text(MODULE)
    first = identity("teacher.class=own_teacher:MyTeacher")
    assert first == identity("teacher.class=own_teacher:MyTeacher")
    path.write_text(MODULE + "\n")
    second = identity("teacher.class=own_teacher:MyTeacher")
    assert first[0] == second[0] and first[1] != second[1]


def test_planning_imports_neither_torch_nor_numpy_nor_the_teacher(tmp_path: Path) -> None:
    (tmp_path / "own_teacher.py").write_text("raise RuntimeError\n")
    code = (
        "import sys; from pipeline.plan import load_plan\n"
        "plan = load_plan('demo', '', 'teacher.class=own_teacher:MyTeacher')\n"
        "plan.key('run_teacher', plan.scenes()[0])\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'own_teacher'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_the_lisa_experiment_is_that_of_the_paper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LISA-7B-v1", "clip-vit-large-patch14"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    monkeypatch.setenv("MLLM3D_WEIGHTS", str(tmp_path))
    plan = load_plan("demo", str(REPOSITORY / "configs/experiments/lisa.yaml"))
    config = plan.key("run_teacher", plan.scenes()[0]).config
    assert config["lisa"]["dtype"] == "bfloat16" and config["lisa"]["use_start_end"]

"""Making teachers: the right one, once, without labels, and clear words when it cannot be."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from data.artifacts.teacher import MASK, NO_SEG, read_teacher
from data.errors import UserError
from models.lisa.prompts import TASK_SUFFIXES, Conversation, QuestionForm
from pipeline.config import parse_overrides
from pipeline.plan import load_experiment, load_plan
from pipeline.steps import STEPS
from pipeline.tasks.steps import task_of
from stages.configs import TeacherConfig
from stages.network_configs import LisaConfig
from stages.teacher import make_teacher as teachers
from stages.teacher.make_teacher import make_custom, make_teacher
from tests.support.cli import luigi, tasks_done
from tests.support.finished_run import SCENES_MADE, FinishedRun
from tests.support.sealed import seal
from tests.support.tiny_set import write_set

GOLDEN = Path(__file__).parents[2] / "golden" / "lisa" / "v1"
GOOD = """
from models.teacher import MaskGrid, TeacherAnswer
import numpy as np

class MyTeacher:
    name = "mine"
    embedding_dim = 2

    def __init__(self, seed, size=4):
        self.seed, self.size = seed, size

    def mask_grid(self, height, width):
        return MaskGrid(self.size, self.size, (float(self.size), float(self.size)))

    def encode_view(self, image, view_id):
        return int(image.sum()) % 2

    def answer(self, view, texts):
        return [self.one(text) for text in texts]

    def one(self, text):
        if "chair" not in text:
            return TeacherAnswer.without_mask("no", self.mask_grid(1, 1), 2)
        masks = np.ones((1, self.size, self.size), np.float32)
        return TeacherAnswer("[SEG]", masks, np.ones(1, np.float32), np.ones((1, 2), np.float32))
"""


def teacher(text: str) -> TeacherConfig:
    return load_experiment([("--overrides", parse_overrides(text))]).teacher


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module ``own_teacher`` in the current folder, forgotten afterwards."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_teacher", raising=False)
    path = tmp_path / "own_teacher.py"
    path.write_text(GOOD)
    return path


def test_the_configs_choices_are_those_of_the_model() -> None:
    fields = LisaConfig.model_fields
    assert set(get_args(fields["conversation"].annotation)) == set(get_args(Conversation))
    assert set(get_args(fields["question_form"].annotation)) == set(get_args(QuestionForm))
    assert set(get_args(fields["task_suffix"].annotation)) == {"", *TASK_SUFFIXES}


def test_the_defaults_are_those_of_mllm_for_3d() -> None:
    cfg = teacher("teacher.name=lisa")
    assert (cfg.lisa.conversation, cfg.use_start_end, cfg.lisa.max_new_tokens) == (
        "llava_v1",
        True,
        32,
    )


def test_a_class_means_custom_and_custom_needs_a_class() -> None:
    assert teacher("teacher.class=a:B").name == "custom"
    assert teacher("teacher.name=lisa,teacher.class=a:B").name == "custom"
    with pytest.raises(UserError, match=r"teacher\.class: .*needs a class"):
        teacher("teacher.name=custom")
    with pytest.raises(UserError, match=r"teacher\.class"):
        teacher("teacher.class=MyTeacher")
    with pytest.raises(UserError, match=r"did you mean teacher\.class"):
        teacher("teacher.clas=a:B")


def test_only_the_oracle_is_made_with_labels() -> None:
    source = inspect.getsource(teachers)
    assert not [word for word in ("GroundTruth", "PromptTruth", "truths") if word in source]
    with pytest.raises(ValueError, match="ground truth"):
        make_teacher(TeacherConfig(name="oracle"), "cpu")


def test_lisa_is_loaded_once_per_config_and_asked_as_configured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = f"teacher.name=lisa,teacher.lisa.weights={GOLDEN / 'checkpoint'}"
    cfg = teacher(f"{text},teacher.lisa.dtype=float32,teacher.lisa.question_form=raw")
    made = make_teacher(cfg, "cpu")
    assert made is make_teacher(teacher(cfg_text(cfg)), "cpu")
    assert (made.name, made.embedding_dim) == ("lisa", 32)
    image = np.array(Image.open(GOLDEN / "images" / "img1.png").convert("RGB"))
    clock, lamp = made.answer(
        made.encode_view(image, "view"),
        ["What is the time?", "Can you segment the lamp near the window"],
    )
    assert clock.text == "There is no clock." and len(clock.mask_logits) == 0
    assert lamp.text.startswith("[SEG]") and lamp.mask_logits.shape == (1, 32, 32)


def cfg_text(cfg: TeacherConfig) -> str:
    """The same LISA, spelled anew."""
    return (
        f"teacher.lisa.question_form=raw,teacher.lisa.weights={cfg.lisa.weights},"
        "teacher.lisa.dtype=float32,teacher.name=lisa"
    )


def test_a_class_gets_its_options_and_the_seed(own: Path) -> None:
    cfg = teacher("teacher.class=own_teacher:MyTeacher,teacher.options.size=3,teacher.seed=5")
    made: Any = make_teacher(cfg, "cpu")
    assert (made.seed, made.size) == (5, 3)
    assert make_teacher(cfg, "cpu") is made
    own_seed = teacher("teacher.class=own_teacher:MyTeacher,teacher.options.seed=8")
    made = make_custom(own_seed, "cpu")
    assert made.seed == 8


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("class Other: ...", "", "has no 'MyTeacher'"),
        ("MyTeacher = 3", "", "holds no class 'MyTeacher'"),
        ("import no_such_thing", "", "cannot be imported: ModuleNotFoundError"),
        ("def broken(:", "", "cannot be imported: SyntaxError"),
        ("1 / 0", "", "own_teacher.py, line 1"),
        (GOOD, ",teacher.options.weight=3", "options {weight=3}: TypeError"),
        ("class MyTeacher:\n    def __init__(self):\n        1 / 0", "", "own_teacher.py, line 3"),
        ("class MyTeacher:\n    name = 'x'", "", "lacks embedding_dim, mask_grid, encode_view"),
    ],
)
def test_a_class_that_cannot_be_made_is_one_clear_error(
    own: Path, source: str, options: str, message: str
) -> None:
    own.write_text(source)
    with pytest.raises(UserError) as caught:
        make_custom(teacher(f"teacher.class=own_teacher:MyTeacher{options}"), "cpu")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_big_teachers_take_turns_on_a_machine(own: Path) -> None:
    def of(name: str, scene: str | None) -> dict[str, int]:
        return task_of(STEPS["run_teacher"])(
            scene_set="demo", overrides=name, scene=scene
        ).process_resources()

    scene = load_plan("demo").scenes()[0]
    big = "teacher.class=own_teacher:MyTeacher"
    assert of("", scene) == {} == of(big, None)
    assert list(of(big, scene).values()) == [1]


def test_a_plugged_in_teacher_runs_without_labels_and_again_when_its_source_changes(
    tiny_run: FinishedRun, tmp_path: Path
) -> None:
    (tmp_path / "own_teacher.py").write_text(GOOD)
    scene_set = write_set(tmp_path / "tiny.yaml")
    tiny_run.copy_stages(tmp_path, SCENES_MADE)
    (truths,) = (tmp_path / "output/tiny/prepare_prompts").glob("*/truths.json")
    truths.write_bytes(b"#" * truths.stat().st_size)
    seal(truths.parent)
    line = ["RunTeacher", "--scene-set", scene_set, "--device", "cpu", "--overrides"]
    line += ["teacher.class=own_teacher:MyTeacher,teacher.options.size=5"]
    first = luigi(tmp_path, *line)
    assert first.returncode == 0, first.stdout
    folders = sorted((tmp_path / "output/tiny/run_teacher").glob("*/*/metadata.json"))
    assert len(folders) == 3
    status = np.concatenate([read_teacher(path.parent).status.ravel() for path in folders])
    assert {MASK, NO_SEG} == set(status.tolist())
    (tmp_path / "own_teacher.py").write_text(GOOD.replace("np.ones((1, 2)", "2 * np.ones((1, 2)"))
    changed = luigi(tmp_path, *line)
    assert set(tasks_done(changed.stdout)) == {"RunTeacher"}, changed.stdout
    assert len(list((tmp_path / "output/tiny/run_teacher").glob("*/*/metadata.json"))) == 6


def test_one_process_makes_a_teacher_once_for_all_scenes(
    tiny_run: FinishedRun, tmp_path: Path
) -> None:
    tiny_run.copy_stages(tmp_path, SCENES_MADE)
    told = tmp_path / "made.txt"
    noted = f"self.seed, self.size = seed, size; print('made', file=open({str(told)!r}, 'a'))"
    (tmp_path / "own_teacher.py").write_text(
        GOOD.replace("self.seed, self.size = seed, size", noted)
    )
    scene_set = write_set(tmp_path / "tiny.yaml")
    line = [
        "RunTeacher",
        "--scene-set",
        scene_set,
        "--overrides",
        "teacher.class=own_teacher:MyTeacher",
    ]
    config = Path(__file__).parents[3] / "configs" / "one_process.cfg"
    run = luigi(tmp_path, *line, LUIGI_CONFIG_PATH=str(config))
    assert run.returncode == 0, run.stdout
    assert tasks_done(run.stdout)["RunTeacher"] == 3
    assert told.read_text().split() == ["made"]


def test_lisa_without_weights_is_refused_before_any_work(tmp_path: Path) -> None:
    scene_set = write_set(tmp_path / "tiny.yaml")
    run = luigi(tmp_path, "RunAll", "--scene-set", scene_set, "--overrides", "teacher.name=lisa")
    assert run.returncode == 40, run.stdout
    assert "set teacher.lisa.weights to the folder" in run.stdout
    assert "Traceback" not in run.stdout and not tasks_done(run.stdout)

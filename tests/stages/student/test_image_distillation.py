"""The student learns to be like the teacher's image features, where it is asked to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from luigi.task import flatten

from data.artifacts import store
from data.artifacts import student as artifact
from data.artifacts.embeddings import LiftedFeatures
from data.errors import UserError
from models.student import Student
from pipeline.plan import load_plan
from pipeline.steps import STEPS
from pipeline.tasks.arm_rows import own_keys
from pipeline.tasks.arms import ARMS
from pipeline.tasks.steps import task_of
from stages.configs import PredictConfig
from stages.network_configs import LossConfig
from stages.student import predict_masks, train_student, training_samples
from stages.student.training_samples import Augmentation, SampleSettings, TrainingScene
from tests.support.cli import luigi, tasks_done
from tests.support.tiny_set import ROOMS, STUDENT, write_set
from tests.support.worlds.tiny_training import four_points, tiny_training_scene
from tests.support.worlds.training_runs import CFG, Killed, killer, outcome, shallow

IMAGE = CFG.model_copy(update={"loss": LossConfig(image=1.0)})


def with_features(scene_id: str = "00000000aa", dim: int = 6) -> TrainingScene:
    """The tiny room; three of its four superpoints have features of lengths other than 1."""
    features = np.random.default_rng(3).normal(size=(4, dim)).astype(np.float32)
    features[1] = 0
    lifted = LiftedFeatures(scene_id, features, np.array([True, False, True, True]))
    return replace(tiny_training_scene(scene_id), image_features=lifted)


SCENES = [with_features(f"{index:08d}aa") for index in range(3)]


def train(folder: Path, scenes: Sequence[TrainingScene] = SCENES, **arguments: Any) -> Path:
    folder.mkdir(exist_ok=True)
    train_student.run(scenes, arguments.pop("cfg", IMAGE), folder, **arguments)
    return folder


def test_superpoints_have_unit_features_or_none() -> None:
    scene = training_samples.compact(SCENES[0])
    assert scene.image is not None and scene.image.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(scene.image, axis=1), [1, 0, 1, 1], atol=1e-6)
    plain = training_samples.compact(tiny_training_scene())
    assert plain.image is None and scene.num_bytes == plain.num_bytes + 4 * 6 * 4
    few = LiftedFeatures("s", np.ones((3, 6), np.float32), np.ones(3, bool))
    with pytest.raises(ValueError, match="3 superpoints of 4"):
        training_samples.compact(replace(SCENES[0], image_features=few))


def test_samples_carry_them() -> None:
    settings, none = SampleSettings(1.0, 5, 0, Augmentation()), np.zeros((0, 8), np.float32)
    image = np.eye(2, 3, dtype=np.float32)
    for scene, expected in ((four_points(image=image), image), (four_points(), None)):
        rng = training_samples.sample_generator(0, 0, 0)
        assert training_samples.draw_sample(scene, none, settings, rng).image is expected


def test_the_head_is_of_its_own_and_changes_no_other_weight() -> None:
    plain = Student("tiny", 5, 8, seed=0, learnt_fusion=True).state_dict()
    headed = Student("tiny", 5, 8, seed=0, learnt_fusion=True, image_dim=4).state_dict()
    assert {name: tuple(headed[name].shape) for name in headed.keys() - plain.keys()} == {
        "image_head.weight": (4, headed["image_head.weight"].shape[1]),
        "image_head.bias": (4,),
    }
    assert all(torch.equal(plain[name], headed[name]) for name in plain)


@pytest.fixture(scope="module", autouse=True)
def _shallow() -> Iterator[None]:
    """Training is of a network of one level."""
    with shallow():
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = train(tmp_path_factory.mktemp("student"))
    (folder / store.METADATA).write_text("{}")
    return folder


def test_the_loss_falls_to_almost_nothing(tmp_path: Path) -> None:
    cfg = IMAGE.model_copy(update={"epochs": 15, "feature_dim": 64, "lr": 0.02})
    _, log = outcome(train(tmp_path, SCENES[:1], cfg=cfg))
    assert log[0]["image"] > 0.5 and log[-1]["image"] < 0.15


@pytest.mark.parametrize("steps", [(1, 4), (5,)])
def test_killed_and_resumed_equals_uninterrupted(
    finished: Path, tmp_path: Path, steps: tuple[int, ...]
) -> None:
    for step in steps:
        with pytest.raises(Killed):
            train(tmp_path / "a", progress=killer(step))
    assert outcome(train(tmp_path / "a")) == outcome(finished)


def test_such_a_student_answers(finished: Path) -> None:
    assert artifact.read_model(finished)[1]["network"]["image_dim"] == 6
    scene, labels = SCENES[0].scene, SCENES[0].labels
    found = predict_masks.run(scene, labels, finished, PredictConfig(turns=1))
    assert found.probs.shape == (5, len(scene.cloud))


def test_without_a_weight_features_change_nothing(tmp_path: Path) -> None:
    plain = [replace(scene, image_features=None) for scene in SCENES]
    given = outcome(train(tmp_path / "a", cfg=CFG))
    assert given == outcome(train(tmp_path / "b", plain, cfg=CFG))
    assert "image" not in given[1][0]


@pytest.mark.parametrize("other", [tiny_training_scene("00000000bb"), with_features(dim=5)])
def test_scenes_without_features_or_of_other_lengths_are_refused(
    tmp_path: Path, other: TrainingScene
) -> None:
    with pytest.raises(UserError, match=r"image features of all training scenes.*\[(0|5), 6\]"):
        train(tmp_path, [SCENES[0], other])


@pytest.fixture
def scene_set(tmp_path: Path) -> str:
    """Tiny rooms under LISA-nano."""
    config = {"generate": ROOMS, "teacher": {"name": "lisa_nano"}, "student": STUDENT}
    return write_set(tmp_path / "tiny.yaml", config=config)


def needed(task: Any) -> set[tuple[str, str]]:
    """(Stage, scene) of a task and of all that it needs."""
    own = {(task.task_family, getattr(task, "scene", None) or "")}
    return own.union(*(needed(other) for other in flatten(task.requires())))


def test_only_the_option_asks_for_features(scene_set: str) -> None:
    plain, on = load_plan(scene_set), load_plan(scene_set, "", "student.loss.image=0.5")
    more = load_plan(scene_set, "", "student.loss.image=0.7")
    assert len({plan.student().fingerprint for plan in (plain, on, more)}) == 3
    train_scenes = on.scenes("train")
    assert set(on.student().inputs) - set(plain.student().inputs) == {
        f"features {scene}" for scene in train_scenes
    }
    for scene in train_scenes:
        assert on.key("lift_features", scene) == more.key("lift_features", scene)
        assert on.key("fuse_masks", scene).fingerprint == plain.key("fuse_masks", scene).fingerprint
    stages = {stage for stage, _ in needed(task_of(STEPS["train_student"])(scene_set=scene_set))}
    assert "LiftFeatures" not in stages and "FuseMasks" in stages
    asked = needed(
        task_of(STEPS["train_student"])(scene_set=scene_set, overrides="student.loss.image=0.5")
    )
    assert {scene for stage, scene in asked if stage == "LiftFeatures"} == set(train_scenes)
    (arm,) = (arm for arm in ARMS if arm.name == "F")
    cost = [key.stage for key in own_keys(arm, on, "val")]
    assert cost.count("lift_features") == len(train_scenes)


def test_features_depend_on_teacher_superpoints_and_links_but_on_no_query(scene_set: str) -> None:
    plain = load_plan(scene_set)
    scene = plain.scenes("train")[0]
    for change, same in (
        ("teacher.lisa.dtype=bfloat16", False),
        ("link.near=0.2", False),
        ("prepare.superpoint_threshold=0.1", False),
        ("prompts.bank=[chair]", True),
        ("fuse.prior=3", True),
    ):
        key = load_plan(scene_set, "", change).key("lift_features", scene)
        assert (key.fingerprint == plain.key("lift_features", scene).fingerprint) is same, change


def test_the_oracle_has_none_and_says_so_before_any_work(scene_set: str) -> None:
    overrides = "teacher.name=oracle,student.loss.image=0.5"
    with pytest.raises(UserError, match="'oracle' has no image features"):
        load_plan(scene_set, "", overrides).student()
    with pytest.raises(UserError, match="'oracle' has no image features"):
        task_of(STEPS["lift_features"])(scene_set=scene_set, overrides=overrides)
    assert load_plan(scene_set, "", "teacher.name=oracle").student()


def test_the_whole_way_from_pictures_to_a_trained_student(scene_set: str, tmp_path: Path) -> None:
    overrides = "student.loss.image=0.5,generate.train_rooms=1,generate.views=2"
    run = luigi(tmp_path, "TrainStudent", "--scene-set", scene_set, "--overrides", overrides)
    assert run.returncode == 0, run.stdout
    assert tasks_done(run.stdout)["LiftFeatures"] == 1
    (log,) = (tmp_path / "output/tiny/train_student").glob("*/metrics.jsonl")
    epochs = [json.loads(line) for line in log.read_text().splitlines()]
    assert 0 < epochs[-1]["image"] < epochs[0]["image"]

"""Training: exact resumption after kills, a task it must solve, and inputs it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.artifacts import store
from data.artifacts import student as artifact
from data.batches import TrainingScene
from data.errors import ArtifactError, UserError
from models import losses
from stages import predict_masks, sample_loader, train_student
from stages.configs import PredictConfig, StudentConfig
from tests.test_batches import tiny_training_scene

CFG = StudentConfig(
    preset="tiny", voxel_size=0.2, feature_dim=8, epochs=4, batch_scenes=2, queries_per_scene=3
)


class Lazy(Sequence[TrainingScene]):
    """Scenes made when asked for, with a count of how often."""

    def __init__(self, num: int) -> None:
        self.num, self.reads = num, 0

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self.num:
            raise IndexError(index)
        self.reads += 1
        return tiny_training_scene(f"{index:08d}aa")


class Killed(Exception):
    pass


def killer(at: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        assert 0 < done <= total
        if done == at:
            raise Killed

    return progress


def train(folder: Path, cfg: StudentConfig = CFG, **arguments: Any) -> Path:
    folder.mkdir(exist_ok=True)
    train_student.run(Lazy(3), cfg, folder, **arguments)
    return folder


def outcome(folder: Path) -> tuple[bytes, list[dict[str, float]]]:
    log = [json.loads(line) for line in (folder / artifact.METRICS).read_text().splitlines()]
    for line in log:
        del line["seconds"]
    return (folder / artifact.MODEL).read_bytes(), log


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = train(tmp_path_factory.mktemp("student"))
    (folder / store.METADATA).write_text("{}")
    return folder


def test_files_and_log(finished: Path) -> None:
    _, log = outcome(finished)
    assert [line["epoch"] for line in log] == [1, 2, 3, 4]
    names = {"lr", "loss", "bce", "dice", "superpoint", "feature", "absent", "epoch"}
    assert set(log[0]) == names
    weights, config = artifact.read_model(finished)
    assert config["network"]["token_dim"] == 8 and config["training"] == CFG.model_dump()
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert artifact.read_log(finished)[0]["epoch"] == 1


@pytest.mark.parametrize("step", [1, 4, 5])  # Two steps an epoch: first, ends an epoch, amid one.
def test_killed_and_resumed_equals_uninterrupted(finished: Path, tmp_path: Path, step: int) -> None:
    with pytest.raises(Killed):
        train(tmp_path / "a", progress=killer(step))
    assert not (tmp_path / "a" / artifact.MODEL).exists()
    assert outcome(train(tmp_path / "a")) == outcome(finished)


def test_kill_between_checkpoint_and_log(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def dies(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise Killed
        artifact_write_log(*arguments)

    artifact_write_log = artifact.write_log
    monkeypatch.setattr(artifact, "write_log", dies)
    with pytest.raises(Killed):
        train(tmp_path / "a")
    monkeypatch.undo()
    assert len(artifact.read_log(tmp_path / "a")) == 1
    state = artifact.read_state(tmp_path / "a")
    assert state is not None and len(state["log"]) == 2
    assert outcome(train(tmp_path / "a")) == outcome(finished)


def test_kill_while_the_checkpoint_is_written(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = torch.save, []

    def dies(state: Any, stream: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            stream.write(b"half a checkpoint")
            raise Killed
        save(state, stream)

    monkeypatch.setattr(torch, "save", dies)
    with pytest.raises(Killed):
        train(tmp_path / "a")
    monkeypatch.undo()
    assert outcome(train(tmp_path / "a")) == outcome(finished)


def test_finished_training_is_not_repeated(finished: Path) -> None:
    before = outcome(finished)
    train(finished, progress=killer(1))
    assert outcome(finished) == before


def test_sgd_trains_and_resumes(tmp_path: Path) -> None:
    cfg = CFG.model_copy(update={"optimizer": "sgd", "epochs": 2, "lr": 0.01})
    with pytest.raises(Killed):
        train(tmp_path / "a", cfg, progress=killer(3))
    assert outcome(train(tmp_path / "a", cfg)) == outcome(train(tmp_path / "b", cfg))


def test_number_of_threads_does_not_matter(finished: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert outcome(train(tmp_path / str(count))) == outcome(finished)
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)


def test_scenes_are_kept_within_the_budget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cfg = CFG.model_copy(update={"epochs": 2})
    for budget, reads in ((1 << 30, 3), (0, 9)):
        scenes = Lazy(3)
        monkeypatch.setattr(sample_loader, "KEEP_BYTES", budget)
        folder = tmp_path / str(budget)
        folder.mkdir()
        train_student.run(scenes, cfg, folder)
        assert scenes.reads == reads
    assert outcome(tmp_path / "0") == outcome(tmp_path / str(1 << 30))


def test_global_settings_and_random_numbers_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), str(np.random.get_state())
    train(tmp_path / "a", CFG.model_copy(update={"epochs": 1}))
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == str(np.random.get_state())


@pytest.mark.parametrize("damage", ["no labels", "no token", "no scene"])
def test_nothing_to_learn_from_is_refused(tmp_path: Path, damage: str) -> None:
    training = tiny_training_scene()
    labels = training.labels
    if damage == "no labels":
        labels = replace(labels, confidence=np.zeros_like(labels.confidence))
    if damage == "no token":
        labels = replace(labels, query_tokens=np.zeros_like(labels.query_tokens))
    scenes = [] if damage == "no scene" else [replace(training, labels=labels)]
    with pytest.raises(UserError, match="no scene" if damage == "no scene" else "confident"):
        train_student.run(scenes, CFG, tmp_path)


def test_tokens_of_two_lengths_are_refused(tmp_path: Path) -> None:
    scenes = [tiny_training_scene(), tiny_training_scene("00000000bb", token_dim=6)]
    with pytest.raises(UserError, match=r"\[6, 8\]"):
        train_student.run(scenes, CFG, tmp_path)


def test_a_loss_that_is_not_finite_ends_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice, calls = losses.dice, []

    def breaks(*arguments: Any) -> Any:
        calls.append(1)
        return dice(*arguments) * (float("nan") if len(calls) > 4 else 1)

    monkeypatch.setattr(losses, "dice", breaks)
    with pytest.raises(UserError, match="epoch 2.*student.lr"):
        train(tmp_path / "a")
    state = artifact.read_state(tmp_path / "a")
    assert state is not None and len(state["log"]) == 1
    assert all(torch.isfinite(value).all() for value in state["model"].values())


def test_foreign_or_damaged_checkpoints_are_refused(finished: Path, tmp_path: Path) -> None:
    state = (finished / artifact.STATE).read_bytes()
    (tmp_path / artifact.STATE).write_bytes(state)
    with pytest.raises(ArtifactError, match="another run"):
        train(tmp_path, CFG.model_copy(update={"lr": 0.5}))
    (tmp_path / artifact.STATE).write_bytes(state[: len(state) // 2])
    with pytest.raises(ArtifactError, match=r"state\.pt"):
        train(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_missing_cuda_is_said(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no CUDA"):
        train(tmp_path / "a", device="cuda")
    training = tiny_training_scene()
    with pytest.raises(UserError, match="no CUDA"):
        predict_masks.run(training.scene, training.labels, finished, PredictConfig(), "cuda")


def test_the_wrong_wheel_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise ImportError("The CPU-only wheel 'spconv' is installed")

    monkeypatch.setattr("models.sparse.load_spconv", refuse)
    with pytest.raises(UserError, match="CPU-only wheel"):
        train(tmp_path / "a")

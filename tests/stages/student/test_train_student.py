"""Training: exact resumption after kills, what learns, and memory within its budget."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.artifacts import store
from data.artifacts import student as artifact
from models.student import Student
from stages.network_configs import SelfTrainingConfig
from stages.student import sample_loader, train_student
from tests.support.worlds.training_runs import CFG, Killed, Lazy, killer, outcome, shallow, train


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


def test_files_and_log(finished: Path) -> None:
    _, log = outcome(finished)
    assert [line["epoch"] for line in log] == [1, 2, 3, 4]
    names = {"lr", "loss", "bce", "dice", "neighbours", "feature", "absent", "epoch"}
    assert set(log[0]) == names
    weights, config = artifact.read_model(finished)
    assert config["network"]["token_dim"] == 8 and config["training"] == CFG.model_dump()
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert artifact.read_log(finished)[0]["epoch"] == 1


# Two steps an epoch: the first one, one that ends an epoch, one amid an epoch.
@pytest.mark.parametrize("steps", [(1, 4), (5,)])
def test_killed_and_resumed_equals_uninterrupted(
    finished: Path, tmp_path: Path, steps: tuple[int, ...]
) -> None:
    for step in steps:
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


def moved(folder: Path, start: str) -> list[str]:
    """Names of the weights that begin with ``start`` and are not those of a new network."""
    weights, config = artifact.read_model(folder)
    new = Student(**config["network"], seed=CFG.seed).state_dict()
    assert new.keys() == weights.keys()
    return [n for n in new if n.startswith(start) and not torch.equal(weights[n], new[n])]


def test_the_fusion_of_views_learns_with_the_student(finished: Path, tmp_path: Path) -> None:
    network = artifact.read_model(finished)[1]["network"]
    assert network["learnt_fusion"] is True
    assert {"fusion.enter.weight", "fusion.leave.weight"} <= set(moved(finished, "fusion."))
    assert {"token_map.weight", "mask_head.weight", "token_head.weight", "scale", "bias"} <= set(
        moved(finished, "")
    )
    cfg = CFG.model_copy(update={"fusion": "closed_form", "epochs": 1})
    closed = train(tmp_path / "a", cfg)
    (closed / store.METADATA).write_text("{}")
    assert moved(closed, "fusion.") == [] and moved(closed, "token_map.") == ["token_map.weight"]
    names = artifact.read_model(closed)[0]
    assert not any(name.startswith("fusion.") for name in names)


MENDING = CFG.model_copy(update={"self_training": SelfTrainingConfig(start=0.5, sure=0.0)})


@pytest.fixture(scope="module")
def mended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("mended"), MENDING)


@pytest.mark.parametrize("step", [3, 5])  # Labels are mended before step 5, the third epoch's.
def test_self_training_resumes(mended: Path, tmp_path: Path, step: int) -> None:
    with pytest.raises(Killed):
        train(tmp_path / "a", MENDING, progress=killer(step))
    assert outcome(train(tmp_path / "a", MENDING)) == outcome(mended)


def test_self_training_begins_when_it_is_told_to(finished: Path, mended: Path) -> None:
    (_, plain), (_, other) = outcome(finished), outcome(mended)
    assert plain[:2] == other[:2] and plain[2] != other[2]


def test_truth_is_never_mended(tmp_path: Path) -> None:
    truth = CFG.model_copy(update={"supervision": "oracle", "epochs": 2})
    mending = truth.model_copy(update={"self_training": SelfTrainingConfig(start=0.5)})
    never, asked = (train(tmp_path / name, cfg) for name, cfg in (("a", truth), ("b", mending)))
    assert outcome(never) == outcome(asked)


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

"""Training in two processes: the curve of one, the same bits again, kills and resumption."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch.multiprocessing.spawn import ProcessRaisedException

from data.artifacts import student as artifact
from data.errors import ConfigError, DataError, UserError
from pipeline.steps import STEPS
from pipeline.tasks.steps import task_of
from stages.configs import StudentConfig
from stages.network_configs import SelfTrainingConfig
from stages.student import distributed, train_student
from tests.support.cli import luigi, tasks_done
from tests.support.finished_run import LABELS_MADE, FinishedRun
from tests.support.tiny_set import write_set
from tests.support.warm import forkserver
from tests.support.worlds.rank_work import (
    Troubled,
    breaks,
    start_warm,
    tells_and_waits,
    train_endlessly,
)
from tests.support.worlds.training_runs import CFG, Killed, killer, outcome, train

# Adam divides gradients by their size, those that are nothing but rounding, too: at its usual
# rate one process parts with itself as fast when a batch's scenes are merely put in reverse.
RATES = {"sgd": 5e-4, "adamw": 1e-5}
Log = list[dict[str, float]]


@pytest.fixture(scope="module", autouse=True)
def _warm_processes() -> Iterator[None]:
    """Training processes find their imports done."""
    with patch.object(distributed, "start_processes", start_warm):
        yield


def config(optimizer: str) -> StudentConfig:
    """Three scenes in batches of two, so that each epoch's last has none for one process."""
    mending = SelfTrainingConfig(start=0.5, sure=0.0)
    changes = {"optimizer": optimizer, "lr": RATES[optimizer], "self_training": mending}
    return CFG.model_copy(update=changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("students")


@pytest.fixture(scope="module")
def one(folder: Path) -> dict[str, tuple[bytes, Log]]:
    """What one process gives, by optimiser."""
    return {name: outcome(train(folder / f"{name} 1", config(name))) for name in RATES}


@pytest.fixture(scope="module")
def two(folder: Path) -> tuple[bytes, Log]:
    """What two processes give, with sgd, telling each step once and in order."""
    told: list[tuple[int, int]] = []
    cfg = config("sgd")
    train(folder / "sgd 2", cfg, processes=2, progress=lambda *step: told.append(step))
    assert told == [(step, 8) for step in range(1, 9)]
    return outcome(folder / "sgd 2")


def assert_same_curve(log: Log, wanted: Log) -> None:
    assert [line["epoch"] for line in log] == [line["epoch"] for line in wanted] == [1, 2, 3, 4]
    for line, other in zip(log, wanted, strict=True):
        assert line.keys() == other.keys()
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-4)
        for name in other:
            assert line[name] == pytest.approx(other[name], rel=1e-4, abs=1e-4), name


def test_two_processes_give_the_curve_of_one(
    one: dict[str, tuple[bytes, Log]], two: tuple[bytes, Log]
) -> None:
    assert_same_curve(two[1], one["sgd"][1])
    losses = [line["loss"] for line in one["sgd"][1]]
    assert losses[0] - losses[1] > 0.01  # It learns, by far more than the tolerance.


def test_two_processes_give_the_weights_of_one(
    folder: Path, one: dict[str, tuple[bytes, Log]], two: tuple[bytes, Log]
) -> None:
    theirs, ours = (artifact.read_state(folder / f"sgd {number}") for number in (1, 2))
    assert theirs is not None and ours is not None
    assert ours["model"].keys() == theirs["model"].keys()
    for name, value in theirs["model"].items():
        torch.testing.assert_close(ours["model"][name], value, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("rank", "then"), [(0, 2), (1, 1)])
def test_a_killed_process_ends_all_and_training_goes_on(
    tmp_path: Path,
    one: dict[str, tuple[bytes, Log]],
    two: tuple[bytes, Log],
    rank: int,
    then: int,
) -> None:
    cfg = config("sgd")
    # Scenes are read once, and again for the third epoch, when their labels have been mended.
    scenes = Troubled(3, rank, read=4, killed=True)
    with pytest.raises(UserError, match=r"One of the 2 training processes.*SIGKILL.*resume"):
        train_student.run(scenes, cfg, tmp_path, processes=2)
    assert multiprocessing.active_children() == []
    assert 1 <= len(artifact.read_log(tmp_path)) <= 2
    assert not (tmp_path / artifact.MODEL).exists()
    ended = outcome(train(tmp_path, cfg, processes=then))
    assert_same_curve(ended[1], one["sgd"][1])
    if then == 2:  # To the bit, as one that was not killed: sums of two have one order.
        assert ended == two


def test_two_processes_go_on_from_what_one_did(
    tmp_path: Path, one: dict[str, tuple[bytes, Log]]
) -> None:
    cfg = config("adamw")
    with pytest.raises(Killed):
        train(tmp_path, cfg, progress=killer(3))
    assert_same_curve(outcome(train(tmp_path, cfg, processes=2))[1], one["adamw"][1])


def test_a_mistake_one_process_meets_is_told_as_it_is(tmp_path: Path) -> None:
    scenes = Troubled(3, rank=1, read=2, killed=False)
    with pytest.raises(DataError, match=r"^scene\.h5: expected a scene, found half of one"):
        train_student.run(scenes, CFG, tmp_path, processes=2)


def test_a_loss_that_is_not_finite_ends_all_with_a_message(tmp_path: Path) -> None:
    cfg = CFG.model_copy(update={"optimizer": "sgd", "lr": 1e38})
    with pytest.raises(UserError, match=r"broke down in epoch 1.*student\.lr"):
        train(tmp_path, cfg, processes=2)


def test_a_bug_in_one_process_is_told_with_its_traceback() -> None:
    with pytest.raises(ProcessRaisedException, match="ZeroDivisionError: a bug of rank 1"):
        distributed.run(breaks, (), "cpu", 2, lambda done, total: None)
    assert multiprocessing.active_children() == []


def test_whoever_is_told_of_progress_may_end_it() -> None:
    with pytest.raises(Killed):
        distributed.run(tells_and_waits, (), "cpu", 2, killer(1))
    assert multiprocessing.active_children() == []


def _is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_processes_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    parent = forkserver().Process(target=train_endlessly, args=(tmp_path,))
    parent.start()
    end = time.monotonic() + 120
    while len(list(tmp_path.glob("*.pid"))) < 2 and time.monotonic() < end:
        assert parent.is_alive()
        time.sleep(0.05)
    pids = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert len(pids) == 2 and parent.pid not in pids and all(_is_running(pid) for pid in pids)
    parent.kill()
    parent.join()
    while any(_is_running(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(_is_running(pid) for pid in pids)


@pytest.mark.parametrize(
    ("processes", "told"), [(0, "at least 1, found 0"), (3, "at most student.batch_scenes")]
)
def test_numbers_that_scenes_cannot_be_dealt_to_are_refused(
    tmp_path: Path, processes: int, told: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^--train-processes: expected {told}"):
        train(tmp_path, processes=processes)
    scene_set = write_set(tmp_path / "tiny.yaml")
    for task in (task_of(STEPS["train_student"]), task_of(STEPS["finetune_student"])):
        with pytest.raises(ConfigError, match=told):
            task(scene_set=scene_set, train_processes=processes)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    distributed.check_device("cuda", 1)
    distributed.check_device("cpu", 8)
    with pytest.raises(ConfigError, match=r"--train-processes.*at most 1, the number of GPUs"):
        distributed.check_device("cuda", 2)


def test_the_whole_through_luigi(tiny_run: FinishedRun, tmp_path: Path) -> None:
    scene_set = write_set(tmp_path / "tiny.yaml")
    tiny_run.copy_stages(tmp_path, LABELS_MADE)
    asked = ("TrainStudent", "--scene-set", scene_set)
    run = luigi(tmp_path, *asked, "--train-processes", "2")
    assert run.returncode == 0, run.stdout
    assert tasks_done(run.stdout)["TrainStudent"] == 1
    (student,) = (tmp_path / "output/tiny/train_student").glob("[!.]*")
    log = artifact.read_log(student)
    assert len(log) == 2 and np.isfinite([line["loss"] for line in log]).all()
    # How many trained is no part of what was trained.
    again = luigi(tmp_path, *asked)
    assert again.returncode == 0 and not tasks_done(again.stdout)

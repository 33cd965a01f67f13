"""When checkpoints are written, and that it makes no difference to what is learnt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from data.artifacts import student as artifact
from stages.student import train_student
from stages.student.train_student import CheckpointPace
from tests.support.worlds.training_runs import CFG, Killed, Lazy, killer, outcome, shallow, train


@pytest.fixture(scope="module", autouse=True)
def _shallow() -> Iterator[None]:
    """Training is of a network of one level."""
    with shallow():
        yield


def test_next_is_due_when_the_last_has_cost_a_fiftieth() -> None:
    now = [100.0]
    pace = CheckpointPace(lambda: now[0])
    assert pace.due()
    with pace.written():
        now[0] += 2
    for passed, due in ((0, False), (99.9, False), (100, True), (5000, True)):
        now[0] = 102 + passed
        assert pace.due() is due


def test_one_that_could_not_be_written_stays_due() -> None:
    now = [0.0]
    pace = CheckpointPace(lambda: now[0])
    with pytest.raises(OSError, match="full"), pace.written():
        now[0] += 2
        raise OSError("full")
    assert pace.due()


def test_epochs_too_short_for_a_checkpoint_are_done_again_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.student.train_student._SHARE", 1e-9)
    with pytest.raises(Killed):
        train_student.run(Lazy(3), CFG, tmp_path, progress=killer(7))
    state = artifact.read_state(tmp_path)
    assert state is not None and [line["epoch"] for line in state["log"]] == [1]
    train_student.run(Lazy(3), CFG, tmp_path)
    state = artifact.read_state(tmp_path)
    assert state is not None and len(state["log"]) == CFG.epochs
    assert outcome(tmp_path) == outcome(train(tmp_path / "whole"))

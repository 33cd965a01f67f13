"""Whole runs that are killed, told to stop, or run beside each other on one output folder."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.torture import Pipeline, torture
from pipeline.workers.worker import INTERRUPTED
from tests.support.worlds.forked_runs import ForkedPipeline


def wait_for(condition: Callable[[], bool], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    assert condition()


def test_a_run_that_is_killed_again_and_again_ends_as_an_untouched_one(
    tmp_path: Path, untouched: Pipeline
) -> None:
    outcome = torture(
        tmp_path / "runs", kills=3, seed=5, longest=5, kind=ForkedPipeline, untouched=untouched
    )
    assert outcome.wrong == []
    assert sum(outcome.kills.values()) == 3 and outcome.runs >= 4
    assert outcome.files > 200 and outcome.views == 12 and outcome.compared >= 1
    assert 0 <= outcome.views_again <= 2 * 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_told_to_stop_does_so_at_once_and_goes_on(
    tmp_path: Path, number: signal.Signals
) -> None:
    pipeline = ForkedPipeline(tmp_path / "run")
    run = pipeline.start()
    wait_for(lambda: bool(pipeline.answered()) or run.poll() is not None)
    run.send_signal(number)
    # The run ends 2 s after the signal; where other tests share the cores these become longer.
    assert run.wait(timeout=15) == INTERRUPTED
    wait_for(lambda: not pipeline.processes(), 2)
    printed = (pipeline.folder / "log").read_text()
    assert printed.count("Stopped. Finished artifacts are kept") == 1 and "Traceback" not in printed
    done = pipeline.digests()
    whole = tuple(
        f"{marked.parent.relative_to(pipeline.output)}/"
        for marked in pipeline.output.rglob("metadata.json")
    )
    assert pipeline.start().wait(timeout=240) == 0
    after = pipeline.digests()
    finished = [
        name for name in done if name.endswith((".ply", ".h5", ".json")) and name.startswith(whole)
    ]
    assert finished and [name for name in finished if after.get(name) != done[name]] == []
    assert not pipeline.litter() and sum(pipeline.answered().values()) <= 12 + 2


def test_two_runs_at_once_do_each_thing_once_and_both_end_well(tmp_path: Path) -> None:
    pipeline = ForkedPipeline(tmp_path / "run")
    runs = [pipeline.start() for _ in range(2)]
    assert [run.wait(timeout=240) for run in runs] == [0, 0]
    assert set(pipeline.answered().values()) == {1} and len(pipeline.answered()) == 12
    assert not pipeline.litter() and not pipeline.processes()
    assert len(list((pipeline.output / "tiny" / "train_student").glob("[!.]*"))) == 1

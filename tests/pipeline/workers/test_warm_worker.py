"""Tasks are forked from a process that has imported what they need, and may be forked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import MagicMock

import luigi
import pytest
import torch

import pipeline
from pipeline.process.process import limit_threads
from pipeline.workers.worker import INTERRUPTED, WarmWorker
from tests.support.cli import environment

assert pipeline.__all__  # Installs the worker.


class Once(luigi.Task):
    """Writes the parent's process number, as the forked process sees it."""

    folder = luigi.Parameter()
    number = luigi.IntParameter()
    preloads: ClassVar[list[int]] = []

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(Path(self.folder) / f"{self.number}.txt"))

    def preload(self) -> None:
        self.preloads.append(os.getpid())

    def run(self) -> None:
        with self.output().open("w") as file:
            file.write(f"{os.getpid()} {self.preloads}")


def _printed(folder: Path, code: str, **extra: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(folder / "output", **extra),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_tasks_of_a_kind_are_preloaded_once_and_by_the_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Once, "preloads", [])
    assert issubclass(luigi.worker.Worker, WarmWorker)
    tasks = [Once(folder=str(tmp_path), number=number) for number in range(3)]
    assert luigi.build(tasks, local_scheduler=True, workers=2)
    assert Once.preloads == [os.getpid()]
    for number in range(3):
        ran_in, _, seen = (tmp_path / f"{number}.txt").read_text().partition(" ")
        assert int(ran_in) != os.getpid()
        assert seen == str([os.getpid()])


class Slow(luigi.Task):
    """Ends when what follows was preloaded, which it knows by a file."""

    folder = luigi.Parameter()

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(Path(self.folder) / "slow.txt"))

    def run(self) -> None:
        for _ in range(600):
            if (Path(self.folder) / "preloaded").exists():
                break
            time.sleep(0.1)
        else:
            raise TimeoutError("what follows is not preloaded while this runs")
        with self.output().open("w") as file:
            file.write("done")


class Next(Once):
    """Is preloaded while ``Slow`` runs."""

    def requires(self) -> Slow:
        return Slow(folder=self.folder)

    def preload(self) -> None:
        (Path(self.folder) / "preloaded").touch()


def test_tasks_to_come_are_preloaded_while_others_run(tmp_path: Path) -> None:
    assert luigi.build([Next(folder=str(tmp_path), number=0)], local_scheduler=True, workers=2)
    assert (tmp_path / "0.txt").exists()


@pytest.fixture
def usual_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("usual_signals")
def test_a_stop_that_was_swallowed_ends_the_run_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Dying:
        """Python swallows what is raised here, as in a fork."""

        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(threading, "Timer", MagicMock())
    monkeypatch.setattr("pipeline.process.progress.report_to", lambda _: Dying() and None)
    with pytest.raises(SystemExit) as ended:
        luigi.build([Slow(folder=str(tmp_path))], local_scheduler=True, workers=2)
    assert ended.value.code == INTERRUPTED and "Traceback" not in capfd.readouterr().err


@pytest.mark.usefixtures("usual_signals")
def test_a_stop_that_became_another_error_ends_the_run_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise SystemError("an extension met an exception") from None

    monkeypatch.setattr(threading, "Timer", MagicMock())
    monkeypatch.setattr("pipeline.process.progress.report_to", fails)
    with pytest.raises(SystemExit) as ended:
        luigi.build([Slow(folder=str(tmp_path))], local_scheduler=True, workers=2)
    assert ended.value.code == INTERRUPTED


def test_nothing_is_preloaded_for_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Once, "preloads", [])
    (tmp_path / "0.txt").write_text("done")
    assert luigi.build([Once(folder=str(tmp_path), number=0)], local_scheduler=True)
    assert Once.preloads == []


_PRELOAD_AND_RUN_A_SCENE = """
import json, sys, threading
from pathlib import Path
from numba.core.dispatcher import Dispatcher
from pipeline.steps import STEPS
from pipeline.tasks.preload import preload
from stages.configs import Experiment
experiment = Experiment.model_validate({"teacher": {"name": "lisa_nano"}})
for step in STEPS.values():
    preload(step, experiment)
import torch
found = {
    "threads": threading.active_count(),
    "cuda": torch.cuda.is_initialized(),
    "imported": [name for name in ("numba", "open3d", "transformers") if name in sys.modules],
}
loops = [
    loop
    for module in list(sys.modules.values())
    if module.__name__.startswith(("data.", "stages.", "models."))
    for loop in vars(module).values()
    if isinstance(loop, Dispatcher)
]
def signatures():
    return {f.py_func.__module__ + "." + f.py_func.__name__: len(f.signatures) for f in loops}
before = signatures()
from benchmarks import chain, networks
from stages.scene import generate_rooms
from stages.configs import GenerateConfig
folder = Path(sys.argv[1])
generate_rooms.run_room(folder, "train", 0, GenerateConfig(views=2, height=32, width=48))
chain.run(chain.make_inputs(chain.Size(1000, 3, 4, 48, 72, (18, 27))), folder / "scene")
networks.student_seconds([500], 0)
after = signatures()
found["loops"] = len(before)
found["compiled by the scene"] = [name for name in before if before[name] != after[name]]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a new process holds after preloading all steps, and what a scene adds to its loops."""
    folder = tmp_path_factory.mktemp("scene")
    code = _PRELOAD_AND_RUN_A_SCENE
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env=environment(folder / "output"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_preloading_everything_leaves_a_process_that_can_be_forked(
    preloaded: dict[str, Any],
) -> None:
    assert preloaded["threads"] == 1 and not preloaded["cuda"]
    assert preloaded["imported"] == ["numba", "open3d", "transformers"]


def test_loaded_loops_are_those_that_a_scene_runs(preloaded: dict[str, Any]) -> None:
    assert preloaded["loops"] > 20 and preloaded["compiled by the scene"] == []


def test_only_a_lisa_needs_transformers(tmp_path: Path) -> None:
    code = """
import sys
from stages.configs import Experiment
from pipeline.tasks.preload import preload
from pipeline.steps import STEPS
preload(STEPS["run_teacher"], Experiment.model_validate({"teacher": {"name": "oracle"}}))
print("transformers" in sys.modules, "stages.teacher.run_teacher" in sys.modules)
"""
    assert _printed(tmp_path, code) == ["False", "True"]


_THREADS = """
import torch
from pipeline.process.process import limit_threads
limit_threads(1)
print(torch.get_num_threads())
"""


def test_torch_imported_before_is_told_its_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = torch.get_num_threads()
    unset = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}
    monkeypatch.setattr(os, "environ", unset)
    try:
        torch.set_num_threads(2)
        limit_threads(1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_the_users_number_of_threads_is_kept(tmp_path: Path) -> None:
    assert _printed(tmp_path, _THREADS, OMP_NUM_THREADS="2") == ["2"]

"""Shared by all tests: reproducible hypothesis runs, and a folder of one's own for outputs."""

from __future__ import annotations

import gc
import re
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.cli import REPOSITORY
from tests.support.warm import Forker, share_forker

if TYPE_CHECKING:
    from benchmarks.torture import Pipeline
    from tests.support.faulty_store import FaultyStore
    from tests.support.finished_run import FinishedRun

settings.register_profile(
    "project",
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("project")


_LONGEST = (
    *("test_two_hosts", "test_distributed_training", "test_ablation_run", "test_slurm"),
    *("test_stopping", "test_central", "test_object_storage", "test_viewer_browser"),
    *("test_warm_worker", "test_train_student", "test_remote_faults", "test_report_browser"),
    *("test_own_scan", "test_verify", "test_nano_command", "test_label_free", "test_pipeline"),
    *("test_compare_browser", "test_image_distillation", "test_nano_training", "test_benchmarks"),
)
"""The files that take longest; those that wait for others stand beside some that compute."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that none of them is left to one worker's end."""
    ranks = {name: rank for rank, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


_FORK_SERVER = "test_distributed_training"
_TOGETHER = {
    name: _FORK_SERVER
    for name in ("test_nano_training", "test_batch_norm", "test_rooms_files", "test_store")
}
"""Files whose tests go to the process that ran another's, and so has started a fork server."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where files are dealt to the processes that test, deal those that belong together to one."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    def group(nodeid: str) -> str:
        stem = Path(nodeid.split("::", 1)[0]).stem
        return _TOGETHER.get(stem, stem)

    scheduler = LoadFileScheduling(config, log)
    scheduler._split_scope = group
    return scheduler


_FORKER = pytest.StashKey[Forker]()


def pytest_configure(config: pytest.Config) -> None:
    """Let the processes that test share the process that forks runs.

    What is imported until all tests are found stays, so that no garbage is looked for among it.
    """
    gc.disable()
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        config.stash[_FORKER] = share_forker()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Collect garbage from now on, seldom, and not among what stays.

    Where several processes test, each computes with one thread: they share the cores.
    """
    if hasattr(session.config, "workerinput") and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the process that forks runs."""
    if _FORKER in config.stash:
        config.stash[_FORKER].end()


@pytest.fixture(autouse=True, scope="module")
def _frozen() -> None:
    """Look for no garbage among what the files before imported and made."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes outside its temporary folder, or reads the user's datasets."""
    monkeypatch.setenv("MLLM3D_OUTPUT", str(tmp_path / "output"))
    for name in ("MLLM3D_CACHE", "MLLM3D_DATA", "MLLM3D_SCAN", "MLLM3D_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """One RunAll of very small rooms, made once for all processes that test; only to read."""
    from tests.support.finished_run import FinishedRun, made_once, run_all

    return FinishedRun(made_once(tmp_path_factory, "tiny_run", run_all))


@pytest.fixture(scope="session")
def smallest_run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """One RunAll of two rooms, made once for all processes that test; only to read."""
    from tests.support.finished_run import SMALLEST, FinishedRun, made_once, run_all

    make = partial(run_all, config=SMALLEST)
    return FinishedRun(made_once(tmp_path_factory, "smallest_run", make))


@pytest.fixture(scope="session")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """The run of ``benchmarks.torture``, made in one process for all that test; only to read."""
    from benchmarks.torture import Pipeline
    from tests.support.finished_run import made_once
    from tests.support.worlds.forked_runs import run_untouched

    return Pipeline(made_once(tmp_path_factory, "untouched", run_untouched))


@pytest.fixture(scope="session")
def store_server() -> Iterator[FaultyStore]:
    """A local S3 server, one for the process: fsspec would not notice another address."""
    from tests.support.faulty_store import faulty_store

    with faulty_store() as running:
        yield running


@pytest.fixture
def store(store_server: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> FaultyStore:
    """The server, empty, as this process's S3, which is given up soon."""
    import fsspec.config

    from tests.support.remote_world import QUICK

    for name, value in store_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": QUICK})
    store_server.clear()
    return store_server


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole ScanNet++ tree of one small scene, to read."""
    from tests.support.scans.scannetpp_tree import write_tree

    root = tmp_path_factory.mktemp("whole")
    write_tree(root)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy of the whole tree, to break."""
    shutil.copytree(whole, tmp_path / "root")
    return tmp_path / "root"


@pytest.fixture
def color_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example of CONTRIBUTING.md as a module in the current folder."""
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "CONTRIBUTING.md").read_text(), re.S)
    (code,) = (block for block in blocks if "class ColorTeacher" in block)
    path = tmp_path / "color_teacher.py"
    path.write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "color_teacher", raising=False)
    return path

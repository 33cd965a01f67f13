"""Luigi's traps, one by one: each of these goes wrong with Luigi's own defaults."""

from __future__ import annotations

import configparser
import inspect
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import luigi as luigi_package
import pytest
import yaml

import pipeline
from data.errors import ConfigError
from pipeline.tasks.steps import PipelineTask, SceneTask
from pipeline.workers import worker
from stages.configs import Experiment
from tests.support.cli import REPOSITORY, command, environment, forking_luigi, tasks_done
from tests.support.luigid import luigid, wait_for
from tests.support.warm import forker

TRAPS = "tests.support.luigi_traps"
PATH = {"PYTHONPATH": str(REPOSITORY)}
TASKS = [getattr(pipeline, name) for name in pipeline.__all__ if name != "STEP_TASKS"]
TASKS += pipeline.STEP_TASKS.values()

TINY_ROOMS = {
    "train_rooms": 1,
    "val_rooms": 1,
    "views": 2,
    "height": 48,
    "width": 64,
    "vertex_spacing": 0.3,
}


@pytest.fixture
def tiny_set(tmp_path: Path) -> str:
    """Path of a scene set of two rooms that are made in a second or two."""
    path = tmp_path / "tiny.yaml"
    content = {
        "generated": True,
        "splits": {"train": "nvs_sem_train", "val": "nvs_sem_val"},
        "queries": {"train": "queries/train.json", "val": "queries/val.json"},
        "config": {"generate": TINY_ROOMS},
    }
    path.write_text(yaml.safe_dump(content))
    return str(path)


def processes_naming(folder: Path) -> set[int]:
    """Running processes with ``folder`` in their command line: a run and all it started."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(folder) in (entry / "cmdline").read_text():
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def test_runs_from_any_folder_without_a_scheduler_and_twice_does_nothing(
    tmp_path: Path, tiny_set: str
) -> None:
    first = forking_luigi(tmp_path, "GenerateRooms", "--scene-set", tiny_set)
    assert first.returncode == 0, first.stdout
    assert tasks_done(first.stdout) == {"GenerateRoom": 2, "GenerateRooms": 1}
    assert "\r" not in first.stdout  # A file holds lines, no bars that are drawn again.
    (made,) = (p for p in (tmp_path / "output/tiny/generate_rooms").iterdir() if p.is_dir())
    assert (made / "metadata.json").is_file()
    again = forking_luigi(tmp_path, "GenerateRooms", "--scene-set", tiny_set)
    assert again.returncode == 0 and not tasks_done(again.stdout)
    assert "GenerateRooms: nothing to do" in again.stdout and f"results: {made}" in again.stdout


def test_a_users_own_luigi_cfg_wins(tmp_path: Path) -> None:
    (tmp_path / "luigi.cfg").write_text("[retcode]\ntask_failed=77\n")
    run = forking_luigi(tmp_path, "WritesNothing", "--folder", str(tmp_path), module=TRAPS, **PATH)
    assert run.returncode == 77, run.stdout


@pytest.mark.parametrize(
    ("task", "code"),
    [("WritesNothing", 30), ("RaisesInRequires", 35), ("NeedsMissingInput", 20)],
)
def test_what_goes_wrong_exits_non_zero(tmp_path: Path, task: str, code: int) -> None:
    run = forking_luigi(tmp_path, task, "--folder", str(tmp_path), module=TRAPS, **PATH)
    assert run.returncode == code, run.stdout


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("--overrides", "student.lrr=1"), ("--overrides", "student.lrr", "student.lr?")),
        (("--scene-set", "dmeo"), ("dmeo", "demo", "scannetpp")),
        (("--scene-set", "scannetpp"), ("MLLM3D_DATA", "scannetpp.yaml")),
        (("--config", "none.yaml"), ("none.yaml",)),
    ],
)
def test_a_users_mistake_is_one_message_before_any_work(
    tmp_path: Path, arguments: tuple[str, ...], names: tuple[str, ...]
) -> None:
    run = forking_luigi(tmp_path, "RunAll", *arguments)
    assert run.returncode != 0
    assert "Traceback" not in run.stdout
    assert run.stdout.count("ERROR") == 1
    for name in names:
        assert name in run.stdout
    assert not (tmp_path / "output").exists()


def test_an_unknown_scene_is_refused_before_any_work(tmp_path: Path, tiny_set: str) -> None:
    run = forking_luigi(tmp_path, "PrepareScene", "--scene-set", tiny_set, "--scene", "nowhere")
    assert run.returncode != 0 and "nowhere" in run.stdout and "Traceback" not in run.stdout


def test_two_runs_at_once_both_succeed_on_one_artifact(tmp_path: Path, tiny_set: str) -> None:
    line = command("GenerateRooms", "--scene-set", tiny_set)
    env = environment(tmp_path / "output")
    with open(tmp_path / "printed", "w") as printed:
        runs = [forker().start(line, tmp_path, env, printed.fileno()) for _ in range(2)]
        codes = [run.wait(timeout=300) for run in runs]
    assert codes == [0, 0], (tmp_path / "printed").read_text()
    assert not list(tmp_path.rglob("*.tmp"))
    rooms = tmp_path / "output/tiny/generate_rooms"
    (made,) = (path for path in rooms.iterdir() if path.is_dir())
    assert (made / "metadata.json").is_file()


def test_a_killed_run_leaves_no_workers_behind(tmp_path: Path) -> None:
    run = subprocess.Popen(
        command("TwoSleepers", "--folder", str(tmp_path), "--workers", "2", module=TRAPS),
        cwd=tmp_path,
        env=environment(tmp_path / "output", **PATH),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    notes = [tmp_path / f"pid{number}" for number in range(2)]
    wait_for(lambda: all(n.exists() and n.read_text() for n in notes), 60, "two workers")
    assert {int(note.read_text()) for note in notes} < processes_naming(tmp_path)
    run.send_signal(signal.SIGKILL)
    run.wait()
    wait_for(lambda: not processes_naming(tmp_path), 10, "every process of the run to die")


def test_no_boolean_parameter_defaults_to_true() -> None:
    for task in TASKS:
        for name, parameter in task.get_params():
            if isinstance(parameter, luigi_package.BoolParameter):
                assert parameter._default is False, f"{task.__name__}.{name}"


def test_no_dynamic_dependencies() -> None:
    for task in TASKS:
        assert not inspect.isgeneratorfunction(task.run)


def test_no_task_asks_for_a_resource_nobody_declared() -> None:
    declared = luigi_package.configuration.get_config().getintdict("resources")
    for task in TASKS:
        assert set(task.resources) <= set(declared)


def test_two_configs_never_share_a_task_or_an_artifact() -> None:
    one = pipeline.STEP_TASKS["TrainStudent"](scene_set="demo")
    two = pipeline.STEP_TASKS["TrainStudent"](scene_set="demo", overrides="student.lr=0.5")
    default = Experiment().student.lr
    same = pipeline.STEP_TASKS["TrainStudent"](scene_set="demo", overrides=f"student.lr={default}")
    assert one.task_id != two.task_id
    assert one.key() and one.key() != two.key()
    assert same.key() == one.key()


def test_the_graph_stays_small() -> None:
    seen: dict[str, PipelineTask] = {}

    def visit(task: PipelineTask) -> None:
        if task.task_id not in seen:
            seen[task.task_id] = task
            for needed in luigi_package.task.flatten(task.requires()):
                visit(needed)

    visit(pipeline.RunAll(scene_set="demo"))
    scenes = len(pipeline.RunAll(scene_set="demo").plan.scenes())
    assert len(seen) <= 6 * scenes + 7
    assert sum(isinstance(task, SceneTask) for task in seen.values()) > 0


def test_chatter_is_dropped_and_mistakes_lose_their_traceback() -> None:
    log = worker.ReadableLog()

    def record(message: str, *args: object, error: Exception | None = None) -> logging.LogRecord:
        info = (type(error), error, None) if error else None
        level = logging.ERROR if error else logging.INFO
        return logging.LogRecord("luigi-interface", level, "", 0, message, args, info)

    for chatter in (
        record("Informed scheduler that task   %s   has status   %s", "A", "DONE"),
        record("[pid 3] Worker W running   A"),
        record("\n===== Luigi Execution Summary =====\n"),
    ):
        assert not log.filter(chatter)
    mistake = record("[pid %s] failed %s", 3, "Task(x)", error=ConfigError("student.lr: too 100%"))
    assert log.filter(mistake)
    assert mistake.getMessage() == "Task(x)\n  student.lr: too 100%" and not mistake.exc_info
    other = record("failed %s", "Task(x)", error=RuntimeError("a bug"))
    assert log.filter(other) and other.exc_info


def test_luigid_makes_again_what_was_deleted_a_moment_ago(tmp_path: Path, tiny_set: str) -> None:
    rooms = tmp_path / "output/tiny/generate_rooms"
    with luigid(tmp_path) as daemon:
        for _ in range(2):
            run = forking_luigi(
                tmp_path, "GenerateRooms", "--scene-set", tiny_set, "--scheduler-url", daemon.url
            )
            assert run.returncode == 0, run.stdout
            (made,) = [path for path in rooms.iterdir() if path.is_dir()]
            assert (made / "metadata.json").is_file()
            for path in sorted(made.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()


def test_luigid_recovers_fast_from_a_lost_worker(tmp_path: Path) -> None:
    daemon = configparser.ConfigParser()
    daemon.read(REPOSITORY / "configs/luigid.cfg")
    assert daemon.getboolean("scheduler", "prune_on_get_work")
    # Both pass, one after the other, before a lost worker's task is given to another.
    delays = ("worker_disconnect_delay", "retry_delay")
    assert sum(daemon.getfloat("scheduler", delay) for delay in delays) <= 40
    (tmp_path / "luigi.cfg").write_text("[core]\nlocal_scheduler=false\n")
    code = (
        "import pipeline, luigi; c = luigi.configuration.get_config();"
        "assert c.getboolean('worker', 'keep_alive')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_the_defaults_are_set_by_import_alone(tmp_path: Path) -> None:
    code = (
        "import pipeline, luigi, sys; c = luigi.configuration.get_config();"
        "assert c.getboolean('core', 'local_scheduler') and c.getboolean('core', 'no_lock');"
        "assert c.getboolean('worker', 'force_multiprocessing');"
        "assert 'torch' not in sys.modules and 'open3d' not in sys.modules;"
        "assert 'numpy' not in sys.modules, 'numpy';"
    )
    env = {**os.environ, "MLLM3D_OUTPUT": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True)

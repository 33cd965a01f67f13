"""Whole runs with their caches in a bucket: the same results, other machines, faults and kills."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import fsspec.config
import pytest

from pipeline.__main__ import main
from tests.support.cli import command, environment, luigi, tasks_done
from tests.support.faulty_store import BUCKET, CACHE, Fault, FaultyStore
from tests.support.finished_run import FinishedRun
from tests.support.warm import forker

QUICK = {"config_kwargs": {"retries": {"mode": "standard", "max_attempts": 2}}}


@dataclass(frozen=True)
class World:
    """A finished run without a bucket, in ``local``, one with, in ``remote``, and its store."""

    store: FaultyStore
    local: Path
    remote: Path
    scene_set: str

    def told(self) -> dict[str, str]:
        """The environment that says where caches lie."""
        told = {"MLLM3D_CACHE": CACHE, "FSSPEC_S3": json.dumps(QUICK)}
        return {**self.store.environment(), **told}

    def luigi(self, folder: Path, task: str) -> subprocess.CompletedProcess[str]:
        """Run a task with caches in the bucket."""
        return luigi(folder, task, "--scene-set", self.scene_set, **self.told())

    def copy_scenes(self, folder: Path) -> None:
        """The local run's rooms and scenes for a run in ``folder``, which then has its caches."""
        for stage in ("generate_rooms", "prepare_scene", "prepare_prompts"):
            made = Path("output", "tiny", stage)
            shutil.copytree(self.local / made, folder / made)


@pytest.fixture(scope="module")
def world(
    store_server: FaultyStore, smallest_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory
) -> World:
    root = tmp_path_factory.mktemp("bucket")
    store_server.clear()
    made = World(store_server, smallest_run.folder, root / "remote", smallest_run.scene_set)
    made.remote.mkdir()
    made.copy_scenes(made.remote)
    done = made.luigi(made.remote, "RunAll")
    assert done.returncode == 0, done.stdout
    return made


class Ask:
    """Runs ``python -m pipeline`` in this process, with caches in the bucket."""

    def __init__(
        self, world: World, patch: pytest.MonkeyPatch, captured: pytest.CaptureFixture[str]
    ) -> None:
        for name, value in world.told().items():
            patch.setenv(name, value)
        patch.setitem(fsspec.config.conf, "s3", QUICK)
        self._patch, self._captured = patch, captured

    def __call__(self, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Return exit code and output of a command that finds its results in ``folder``."""
        self._patch.setenv("MLLM3D_OUTPUT", str(folder / "output"))
        self._captured.readouterr()
        code = main(list(arguments))
        told = self._captured.readouterr()
        return subprocess.CompletedProcess(list(arguments), code, told.out + told.err)


@pytest.fixture
def ask(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    return Ask(world, monkeypatch, capsys)


def contents(folder: Path, *stages: str) -> dict[str, bytes]:
    """Files of finished artifacts of some stages, but for their metadata and logs of time."""
    found = (path for stage in stages for path in (folder / "output" / "tiny" / stage).rglob("*"))
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in found
        if path.is_file()
        and not path.name.startswith(".")
        and path.name not in ("metadata.json", "metrics.jsonl")
    }


def test_results_are_those_of_a_run_without_a_bucket_byte_by_byte(world: World) -> None:
    stages = ("fuse_masks", "predict_masks", "evaluate_teacher_2d", "answer_questions", "evaluate")
    results = contents(world.local, *stages)
    assert len(results) > 20 and results == contents(world.remote, *stages)
    (model,) = (world.remote / "output").rglob("model.safetensors")
    (same,) = (world.local / "output").rglob("model.safetensors")
    assert model.read_bytes() == same.read_bytes()
    # The bucket holds what the disk holds, under the same names.
    caches = ("run_teacher", "link_points")
    assert contents(world.remote, *caches) == {}
    stored = {
        f"output/{name.removeprefix('runs/')}": content
        for name, content in world.store.objects().items()
        if not name.endswith("metadata.json")
    }
    assert stored == contents(world.local, *caches)
    # Of every artifact the metadata was put last.
    puts = [path for path in world.store.paths("PUT") if ".holder" not in path]
    folders = {re.sub(r"^(/.*/[0-9a-f]{12})/.*", r"\1", path) for path in puts}
    assert len(folders) == 4
    for folder in folders:
        of_one = [path for path in puts if path.startswith(folder)]
        assert of_one.index(f"{folder}/metadata.json") == len(of_one) - 1


def test_another_machine_asks_the_teacher_nothing(world: World, tmp_path: Path) -> None:
    world.store.requests.clear()
    world.copy_scenes(tmp_path)
    done = world.luigi(tmp_path, "FuseMasks")
    assert done.returncode == 0, done.stdout
    tasks = tasks_done(done.stdout)
    assert tasks["FuseMasks"] == 2 and not {"RunTeacher", "LinkPoints"} & set(tasks)
    assert not world.store.paths("PUT") and not world.store.paths("DELETE")
    assert contents(tmp_path, "fuse_masks") == contents(world.local, "fuse_masks")
    world.store.requests.clear()
    again = world.luigi(tmp_path, "FuseMasks")
    assert again.returncode == 0 and not tasks_done(again.stdout)
    assert world.store.paths("GET") == [] and len(world.store.requests) == 1  # The bucket is there.


def test_commands_know_the_caches(world: World, ask: Ask) -> None:
    status = ask(world.remote, "status", "--scene-set", world.scene_set)
    rows = dict(line.split(maxsplit=1) for line in status.stdout.splitlines() if " " in line)
    assert f"caches of teacher and links: {CACHE}/tiny" in status.stdout
    assert rows["RunTeacher"].split()[:5] == rows["LinkPoints"].split()[:5] == ["2", *"----"]
    plan = ask(world.remote, "plan", "--scene-set", world.scene_set)
    assert "RunAll has nothing to do" in plan.stdout and "RunTeacher" in plan.stdout
    other = [
        *("plan", "--scene-set", world.scene_set),
        "--overrides",
        "teacher.oracle.token_noise=0.5",
    ]
    reasons = ask(world.remote, *other).stdout
    assert "RunTeacher x 2: never run" in reasons
    labels, _ = sorted((world.remote / "output/tiny/fuse_masks").glob("*/*/metadata.json"))
    told = ask(world.remote, "explain", str(labels.parent)).stdout
    assert re.search(r"teacher: run_teacher \w+ [0-9a-f]{12}, on ", told)
    assert re.search(r"links: link_points \w+ [0-9a-f]{12}, on ", told)
    whole = ask(world.remote, "verify", "--scene-set", world.scene_set)
    assert whole.returncode == 0 and f"and {CACHE}/tiny: " in whole.stdout
    before = world.store.objects()
    freed = ask(world.remote, "gc", "--scene-set", world.scene_set, "--keep-days", "0")
    assert freed.returncode == 0 and f"{CACHE}: unchanged" in freed.stdout
    assert world.store.objects() == before


def test_a_damaged_object_is_named_removed_when_asked_and_made_anew(
    world: World, ask: Ask, tmp_path: Path
) -> None:
    before = world.store.objects()
    name = next(one for one in before if "views/c/" in one)
    world.store.put(name, before[name][:-1] + bytes([before[name][-1] ^ 1]))
    shutil.copytree(world.remote, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "output" / "tiny" / "fuse_masks")
    run = world.luigi(tmp_path / "copy", "FuseMasks")
    assert run.returncode == 30 and f"s3://{BUCKET}/{name}: expected" in run.stdout
    assert "Traceback" not in run.stdout
    line = ("verify", f"{CACHE}/tiny/run_teacher")
    told = ask(tmp_path, *line)
    assert told.returncode == 1 and f"s3://{BUCKET}/{name}: damaged" in told.stdout
    removed = ask(tmp_path, *line, "--remove")
    assert removed.returncode == 1 and "1 removed" in removed.stdout
    folder = name.split("/teacher.zarr")[0]
    assert world.store.objects(folder) == {}
    run = world.luigi(tmp_path / "copy", "FuseMasks")
    assert run.returncode == 0 and tasks_done(run.stdout)["RunTeacher"] == 1
    after = world.store.objects()
    assert {n: c for n, c in after.items() if not n.endswith("metadata.json")} == {
        n: c for n, c in before.items() if not n.endswith("metadata.json")
    }


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    assert condition()


def test_killed_and_failing_runs_go_on_from_the_views_that_are_there(
    world: World, tmp_path: Path
) -> None:
    store = world.store
    before = store.objects()
    good = {n: c for n, c in before.items() if not n.endswith("metadata.json")}
    for name in store.names("runs/tiny/run_teacher"):
        store.delete(name)
    shutil.copytree(world.remote, tmp_path / "copy")
    store.requests.clear()
    # Killed while it puts the second view.
    store.faults.append(Fault("PUT", r"views/c/1", seconds=30))
    env = environment(tmp_path / "copy" / "output", **world.told())
    line = command("RunTeacher", "--scene-set", world.scene_set, "--workers", "1")
    with (tmp_path / "log").open("w") as log:
        run = forker().start(line, tmp_path, env, log.fileno())
    wait_for(lambda: len(store.paths("PUT", r"views/c/1")) > 0)
    run.kill()
    assert run.wait() == -signal.SIGKILL
    (first,) = {path.split("/")[5] for path in store.paths("PUT", "views/c/0")}
    # The third view cannot be put, however often it is tried.
    store.faults[:] = [Fault("PUT", rf"{first}/.*views/c/2", 500)]
    store.requests.clear()
    failed = world.luigi(tmp_path / "copy", "RunTeacher")
    assert failed.returncode == 30 and "Traceback" not in failed.stdout
    printed = failed.stdout.partition("\nfailed:\n")[0]
    told = [line for line in printed.splitlines() if "could not be written" in line]
    assert len(told) == 1 and "views/c/2" in told[0] and "run the same" in told[0]
    assert not store.paths("PUT", rf"{first}/.*views/c/0")
    assert store.paths("PUT", rf"{first}/.*views/c/1")
    assert not [name for name in store.names(f"runs/tiny/run_teacher/{first}") if "meta" in name]
    store.faults.clear()
    store.requests.clear()
    done = world.luigi(tmp_path / "copy", "RunTeacher")
    assert done.returncode == 0 and tasks_done(done.stdout)["RunTeacher"] >= 1
    assert not store.paths("PUT", rf"{first}/.*views/c/[01]")
    now = store.objects()
    assert {n: c for n, c in now.items() if not n.endswith("metadata.json")} == good
    assert set(now) == set(before)

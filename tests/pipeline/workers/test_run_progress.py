"""What is told of a whole run: counts, estimates, the bar, the summary and the tasks' logs."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import pty
import re
import struct
import termios
from pathlib import Path

import luigi as luigi_package
import pytest

from data.artifacts.store import ArtifactKey, writing
from pipeline.process import progress
from pipeline.tasks.base import ArtifactTask
from pipeline.workers import run_progress
from pipeline.workers.run_progress import RunDisplay, RunProgress, TaskState, summary
from tests.pipeline.runs.test_shards import tiny
from tests.support.cli import command, environment, forking_luigi, tasks_done
from tests.support.warm import forker


class Stage(ArtifactTask):
    """Something made, of a scene or of the whole set."""

    folder = luigi_package.Parameter()
    name = luigi_package.Parameter(default="stage")
    scene = luigi_package.OptionalParameter(default=None)

    def unit(self) -> str | None:
        return self.scene

    def key(self) -> ArtifactKey:
        return ArtifactKey.make(Path(self.folder), self.name, 1, {}, {}, self.scene)

    def make(self, key: ArtifactKey) -> None:
        raise NotImplementedError


class Other(Stage):
    """Another kind."""


class All(ArtifactTask):
    """Stands for others, and makes nothing."""

    def make(self, key: ArtifactKey) -> None:
        raise NotImplementedError


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("pipeline.workers.run_progress.time.monotonic", lambda: now[0])
    return now


def run(
    run_progress: RunProgress, task: luigi_package.Task, clock: list[float], seconds: float
) -> TaskState:
    state = run_progress.start(task)
    assert state is not None
    clock[0] += seconds
    run_progress.record(task, "DONE")
    return state


def scheduled(
    run_progress: RunProgress, *tasks: luigi_package.Task, status: str = "PENDING"
) -> None:
    for task in tasks:
        run_progress.record(task, status)


def test_work_is_counted_by_what_became_of_it(tmp_path: Path, clock: list[float]) -> None:
    run_progress = RunProgress()
    tasks = [Stage(folder=str(tmp_path), scene=scene) for scene in "abc"]
    scheduled(run_progress, *tasks, All())
    scheduled(run_progress, Other(folder=str(tmp_path)), status="DONE")
    run_progress.record(tasks[2], "RUNNING")  # Luigi's word for what another worker does.
    assert (
        len(run_progress.states) == 4
        and len(run_progress.with_status("cached")) == 1
        and run_progress.scenes() == (0, 3)
    )
    assert run(run_progress, tasks[0], clock, 4).seconds == 4
    run_progress.start(tasks[1])
    assert run_progress.scenes() == (1, 3) and [
        state.unit for state in run_progress.with_status("running")
    ] == ["b"]
    run_progress.record(tasks[1], "FAILED", json.dumps("scan.ply: expected points\n  found none"))
    (failed,) = run_progress.with_status("failed")
    assert failed.error == "scan.ply: expected points" and failed.title == "Stage b"
    assert run_progress.scenes() == (2, 3)
    trace = 'Traceback (most recent call last):\n  File "x.py", line 1\nKeyError: 7\n'
    run_progress.record(tasks[1], "FAILED", json.dumps(f"Runtime error:\n{trace}"))
    assert failed.error == "KeyError: 7"


def test_time_left_is_that_of_the_stages(tmp_path: Path, clock: list[float]) -> None:
    """Hand-computed: scenes in pairs, a stage of the whole set alone."""
    run_progress = RunProgress(num_workers=2)
    scenes = [Stage(folder=str(tmp_path), scene=scene) for scene in "abcd"]
    whole = Other(folder=str(tmp_path))
    scheduled(run_progress, *scenes, whole)
    assert run_progress.seconds_left({}) is None
    assert run_progress.seconds_left({"Stage": 3.0, "Other": 10.0}) == 4 * 3 / 2 + 10
    assert run_progress.seconds_left({"Stage": 3.0}) == 4 * 3 / 2 + 3
    run(run_progress, scenes[0], clock, 8)
    assert run_progress.seconds_left({"Stage": 3.0, "Other": 10.0}) == 3 * 8 / 2 + 10
    begun = run_progress.start(scenes[1])
    assert begun is not None and begun.share == 0
    begun.slot.write(3, 4)
    assert begun.share == 0.75 and run_progress.seconds_left({"Other": 10.0}) == 2.25 * 8 / 2 + 10
    other = run_progress.start(whole)
    clock[0] += 6
    assert other is not None
    other.slot.write(1, 4)  # A quarter in 6 s: 18 s to go.
    assert run_progress.seconds_left({}) == 2.25 * 8 / 2 + 18


def test_a_log_gets_a_line_every_half_minute(
    tmp_path: Path, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    run_progress = RunProgress()
    tasks = [Stage(folder=str(tmp_path), scene=scene) for scene in "abc"]
    scheduled(run_progress, *tasks)
    with caplog.at_level(logging.INFO, "luigi-interface.run"):
        display = RunDisplay(run_progress)
        display.begin()
        run(run_progress, tasks[0], clock, 20)
        begun = run_progress.start(tasks[1])
        assert begun is not None
        begun.slot.write(2, 8)
        for _ in range(5):
            clock[0] += 8
            display.show()
        begun.slot.write(4, 8)
        for _ in range(3):
            clock[0] += 8
            display.show()
    assert [record.getMessage() for record in caplog.records] == [
        "1 of 3 scenes, 1 of 3 tasks, about 35 s left; Stage b 2/8",
        "1 of 3 scenes, 1 of 3 tasks, about 30 s left; Stage b 4/8",
    ]


def test_earlier_artifacts_tell_how_long_a_stage_takes(tmp_path: Path) -> None:
    for scene, seconds in (("a", 2.0), ("b", 30.0), ("c", 4.0)):
        key = Stage(folder=str(tmp_path), scene=scene).key()
        with writing(key) as folder:
            assert folder is not None
        content = json.loads((key.folder / "metadata.json").read_text())
        (key.folder / "metadata.json").write_text(json.dumps({**content, "wall_seconds": seconds}))
    key = Stage(folder=str(tmp_path), scene="d").key()
    assert run_progress._recorded(key) == 4.0
    assert run_progress._recorded(Stage(folder=str(tmp_path / "no"), scene="d").key()) is None
    for path in tmp_path.rglob("metadata.json"):
        path.write_text("[")
    assert run_progress._recorded(key) is None


def test_the_summary_tells_what_ran_and_where_results_are(
    tmp_path: Path, clock: list[float]
) -> None:
    run_progress = RunProgress()
    tasks = [Stage(folder=str(tmp_path), scene=scene) for scene in "ab"]
    whole = Other(folder=str(tmp_path), name="whole")
    run_progress.roots.append(whole)
    scheduled(run_progress, whole, *tasks)
    with writing(tasks[0].key()) as folder:
        assert folder is not None
    for task, seconds in ((tasks[0], 65.0), (tasks[1], 90.0), (whole, 2.0)):
        run(run_progress, task, clock, seconds)
    told = summary(run_progress).splitlines()
    assert told[0].startswith("Other: done in 2 min 37 s; peak memory of a process ")
    assert told[2].split()[:9] == ["Stage", "2", *"---", "2", "min", "35", "s"]
    assert re.search(r"  90 s +\d+ MB  b$", told[2])
    assert told[3].split() == ["Other", "1", "-", "-", "-", "2.0", "s", "2.0", "s", "-"]
    assert told[-1] == f"results: {whole.key().folder}" and len(told) == 5
    again = RunProgress()
    again.roots.append(whole)
    scheduled(again, whole, status="DONE")
    assert summary(again).splitlines() == [
        "Other: nothing to do, all artifacts exist already",
        f"results: {whole.key().folder}",
    ]


def test_a_slot_is_seen_by_the_parent() -> None:
    slot = progress.Slot()
    assert slot.read() == (0, 0)
    child = os.fork()
    if child == 0:
        progress.report_to(slot)
        progress.reporter("Work")(7, 9)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0 and slot.read() == (7, 9)


BROKEN = """
import logging, os

logging.getLogger("luigi-interface.stages").warning("seen by all")


class Broken:
    name = "broken"
    embedding_dim = 4

    def mask_grid(self, height, width):
        print("printed")
        os.system("echo by a program >&2")
        raise RuntimeError("no grid today")

    def encode_view(self, image, view_id):
        return None

    def answer(self, view, texts):
        return []
"""


def test_every_task_has_a_log_and_failures_are_told(tmp_path: Path) -> None:
    scene_set = tiny(tmp_path)
    (tmp_path / "broken.py").write_text(BROKEN)
    ran = forking_luigi(
        tmp_path,
        *("RunTeacher", "--scene-set", scene_set, "--overrides", "teacher.class=broken:Broken"),
        PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
    )
    assert ran.returncode == 30
    assert "WARNING: seen by all" in ran.stdout and "Traceback" in ran.stdout
    assert "printed" not in ran.stdout and "by a program" not in ran.stdout
    logs = sorted((tmp_path / "output/tiny/logs/run_teacher").iterdir())
    assert logs and len(logs) == ran.stdout.count("no grid today (log: "), ran.stdout
    for path in logs:
        text = path.read_text()
        assert f"(log: {path})" in ran.stdout
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d RunTeacher\(", text)
        assert text.count("printed\n") == text.count("by a program\n") == 1
        assert "RuntimeError: no grid today\n" in text and "failed: RuntimeError after" in text
    prepared = sorted((tmp_path / "output/tiny/logs/prepare_scene").iterdir())
    assert len(prepared) == len(logs)
    assert all(re.search(r" done after .*, \d+ MB\n\n$", path.read_text()) for path in prepared)


def on_a_terminal(folder: Path, *arguments: str) -> str:
    """What a run draws on a terminal 110 columns wide."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 110, 0, 0))
    env = environment(folder / "output", TERM="xterm")
    run = forker().start(command(*arguments), folder, env, theirs)
    os.close(theirs)
    drawn = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # Linux's word for the end.
            break
        if not part:
            break
        drawn += part
    os.close(ours)
    assert run.wait(timeout=60) == 0, drawn.decode()
    return drawn.decode()


def test_a_terminal_shows_one_bar_over_all_scenes(tmp_path: Path) -> None:
    drawn = on_a_terminal(tmp_path, "PrepareScene", "--scene-set", tiny(tmp_path))
    frames = [frame for frame in drawn.split("\r") if "|" in frame]
    shares = [int(found[1]) for frame in frames if (found := re.match(r" *(\d+)%", frame))]
    assert len(shares) > 3 and shares == sorted(shares)
    assert any("scenes" in frame and "GenerateRoom " in frame for frame in frames)
    lines = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", drawn.replace("\r", "\n")).splitlines()
    assert sum(line.startswith("INFO: PrepareScene: ") for line in lines) == 2
    assert set(tasks_done("\n".join(lines))) == {"GenerateRoom", "PrepareScene"}

"""Scheduling as many scenes as ScanNet++ has, from nothing and when all is done, with limits.

The scenes are stubs and no artifact is computed. From nothing, the graph of RunAll is built and
given to a scheduler in memory, as Luigi does before its first task. When all is done, the commands
run as users run them, on artifacts that hold only metadata.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import Row, Scale, require, row

_SCENES = {True: 1006, False: 40}
_FIRST_LIMIT, _NOTHING_LIMIT = 60.0, 10.0  # Seconds.
_SET = """
generated: true
splits: {{train: nvs_sem_train, val: nvs_sem_val}}
queries: {{train: queries/train.json, val: queries/val.json}}
config:
  generate: {{train_rooms: {train}, val_rooms: {val}}}
"""
_SCHEDULE = """
import sys, time
import pipeline
from luigi import scheduler, worker
start = time.perf_counter()
task = pipeline.RunAll(scene_set=sys.argv[1])
state = scheduler.Scheduler()
worker.Worker(scheduler=state, worker_processes=1).add(task)
print(time.perf_counter() - start, len(state._state._tasks))
"""
_STUBS = """
import json, sys
import pipeline
from luigi.task import flatten
seen = set()
def stub(task):
    if task.task_id in seen:
        return
    seen.add(task.task_id)
    key = task.key()
    if key is not None:
        key.folder.mkdir(parents=True, exist_ok=True)
        content = {"fingerprint": key.fingerprint, "files": {}}
        (key.folder / "metadata.json").write_text(json.dumps(content))
    for needed in flatten(task.requires()):
        stub(needed)
stub(pipeline.STEP_TASKS["Report"](scene_set=sys.argv[1]))
"""


def run(scale: Scale, folder: Path, repeats: int) -> list[Row]:
    """Return medians of both; all scenes must be scheduled, and none when all is done."""
    scenes = _SCENES[scale.points >= 1_000_000]
    first, path = scheduled(folder, scenes)
    _python(folder, _STUBS, str(path))
    line = ["RunTeacher", "--scene-set", str(path)]
    printed = _luigi(folder, *line)
    require("nothing to do" in printed, f"schedule: not done: {printed[-300:]}")
    if not repeats:
        return []
    again = [_elapsed(lambda: _luigi(folder, *line)) for _ in range(min(repeats, 3))]
    return [
        row(f"schedule {scenes} scenes: limit of time", first, _FIRST_LIMIT, "s", 1, 1),
        row(
            f"nothing to do for {scenes} scenes: limit of time",
            statistics.median(again),
            _NOTHING_LIMIT,
            "s",
            1,
            len(again),
        ),
    ]


def scheduled(folder: Path, scenes: int) -> tuple[float, Path]:
    """Time the scheduling of RunAll on a set of stub scenes; also return the set's file."""
    val = max(1, scenes // 6)
    path = folder / f"stubs{scenes}.yaml"
    path.write_text(_SET.format(train=scenes - val, val=val))
    seconds, tasks = _python(folder, _SCHEDULE, str(path)).split()
    require(int(tasks) > 5 * scenes, f"schedule: {tasks} tasks for {scenes} scenes")
    return float(seconds), path


def _elapsed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _python(folder: Path, code: str, *arguments: str) -> str:
    return _call(folder, [sys.executable, "-c", code, *arguments])


def _luigi(folder: Path, *arguments: str) -> str:
    return _call(
        folder, [str(Path(sys.executable).parent / "luigi"), "--module", "pipeline", *arguments]
    )


def _call(folder: Path, command: list[str]) -> str:
    environment = os.environ | {"MLLM3D_OUTPUT": str(folder / "output")}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    require(done.returncode == 0, f"schedule: {done.stderr[-500:]}")
    return done.stdout + done.stderr

"""Start-up of the command line in a new process, with a limit of one second."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.harness import Row, Scale, require, row

_LIMIT = 1.0  # Seconds.
_HEAVY = ("torch", "spconv", "open3d", "numba", "transformers", "scipy")
_COMMANDS = {
    "luigi --module pipeline RunAll --help": "--scene-set",
    "python -m pipeline plan --scene-set demo": "TrainStudent",
    "python -m pipeline status --scene-set demo": "TrainStudent",
}
"""Each with a word that its answer holds."""


def run(scale: Scale, folder: Path, repeats: int) -> list[Row]:
    """Return median wall times; commands must succeed without importing heavy packages."""
    return [row for command in _COMMANDS for row in _rows(command, folder, repeats)]


def _rows(command: str, folder: Path, repeats: int) -> list[Row]:
    log = _call(command, folder, PYTHONPROFILEIMPORTTIME="1").stderr
    modules = {line.rsplit("|", 1)[-1].strip() for line in log.splitlines() if "|" in line}
    require("luigi" in modules, f"startup: the imports of {command} were not logged")
    loaded = sorted(modules.intersection(_HEAVY))
    require(not loaded, f"startup: {command} imports {', '.join(loaded)}")
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        _call(command, folder)
        times.append(time.perf_counter() - start)
    if not times:
        return []
    seconds = statistics.median(times)
    return [row(f"start-up of {command}: limit of time", seconds, _LIMIT, "s", 1, repeats)]


def _call(command: str, folder: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    name, *words = command.split()
    environment = os.environ | {"MLLM3D_OUTPUT": str(folder / "output")} | extra
    call = [str(Path(sys.executable).parent / name), *words]
    done = subprocess.run(
        call, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    answered = done.returncode == 0 and _COMMANDS[command] in done.stdout
    require(answered, f"startup: {command} answered {done.stdout[-300:]}{done.stderr[-300:]}")
    return done

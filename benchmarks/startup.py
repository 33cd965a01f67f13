"""Start-up of the command line, as a user runs it, against a limit of one second."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.harness import Row, Scale, require, row

_LIMIT = 1.0  # Seconds.
_COMMAND = ("luigi", "--module", "pipeline", "RunAll", "--help")
_HEAVY = ("torch", "spconv", "open3d", "numba")


def run(scale: Scale, folder: Path, repeats: int) -> list[Row]:
    """Median wall time; the command must succeed without importing what is heavy."""
    log = _call(folder, PYTHONPROFILEIMPORTTIME="1").stderr
    modules = {line.rsplit("|", 1)[-1].strip() for line in log.splitlines() if "|" in line}
    require("luigi" in modules, "startup: the imports of luigi were not logged")
    loaded = sorted(modules.intersection(_HEAVY))
    require(not loaded, f"startup: --help imports {', '.join(loaded)}")
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        _call(folder)
        times.append(time.perf_counter() - start)
    if not times:
        return []
    name = "start-up of luigi --module pipeline RunAll --help: limit of time"
    return [row(name, statistics.median(times), _LIMIT, "s", 1, repeats)]


def _call(folder: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / _COMMAND[0]), *_COMMAND[1:]]
    environment = os.environ | {"MLLM3D_OUTPUT": str(folder / "output")} | extra
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    require(done.returncode == 0 and "--scene-set" in done.stdout, f"startup: {done.stderr[-500:]}")
    return done

"""Runs the real ``luigi`` command in a separate folder, as a user would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.support import warm

REPOSITORY = warm.REPOSITORY
LUIGI = Path(sys.executable).parent / "luigi"
ONE_PROCESS = {
    "LUIGI_CONFIG_PATH": str(REPOSITORY / "configs" / "one_process.cfg"),
    "OMP_NUM_THREADS": "1",
}
"""Environment of a run whose tasks run one after the other in its process, with one thread."""
_READ_LATE = ("AWS", "FSSPEC", "HF_HUB", "LUIGI", "MLLM3D", "OMP_NUM_THREADS", "PYTHONPATH")
"""Beginnings of the names of variables that a forked run reads.

The forking process computes with one thread; a run whose threads are not set so sets its own.
"""


def environment(output: Path, **extra: str) -> dict[str, str]:
    """Return the caller's environment with outputs below ``output`` and an unused home."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("LUIGI", "MLLM3D"))}
    clean |= {"MLLM3D_OUTPUT": str(output), "HOME": str(output.parent), "PYTHONUNBUFFERED": "1"}
    return clean | extra


def command(*arguments: str, module: str = "pipeline") -> list[str]:
    """The command line ``luigi --module pipeline ARGUMENTS``."""
    return [str(LUIGI), "--module", module, *arguments]


def luigi(
    folder: Path, *arguments: str, module: str = "pipeline", **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in ``folder``; ``stdout`` holds its output and errors together.

    Its tasks run one after the other in one process with one thread, which takes two thirds of
    the CPU time of ``forking_luigi`` on very small rooms.
    """
    return forking_luigi(folder, *arguments, module=module, **{**ONE_PROCESS, **extra})


def forking_luigi(
    folder: Path, *arguments: str, module: str = "pipeline", **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run a command like ``luigi``, with a process for each task, as a user's run has.

    The run is forked from a process that has imported the packages it needs. It starts in a new
    process if ``extra`` holds variables that packages read at import.
    """
    if any(not name.startswith(_READ_LATE) for name in extra):
        return cold_luigi(folder, *arguments, module=module, **extra)
    env = environment(folder / "output", **extra)
    return warm.forker().run(command(*arguments, module=module), folder, env)


def cold_luigi(
    folder: Path, *arguments: str, module: str = "pipeline", **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run a command like ``luigi`` in a new process, which imports all packages itself."""
    return subprocess.run(
        command(*arguments, module=module),
        cwd=folder,
        env=environment(folder / "output", **extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=warm.LIMIT,
        check=False,
    )


def tasks_done(printed: str) -> Counter[str]:
    """Return the number of finished tasks of each stage from the summary of a run."""
    rows = re.findall(r"^  ([A-Z]\w+) +(\d+|-) ", printed, flags=re.MULTILINE)
    return Counter({stage: int(ran) for stage, ran in rows if ran != "-"})

"""Runs the real ``luigi`` command in a folder of its own, as a user would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LUIGI = Path(sys.executable).parent / "luigi"


def environment(output: Path, **extra: str) -> dict[str, str]:
    """The caller's environment with outputs sent to ``output`` and nothing read from home."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("LUIGI", "MLLM3D"))}
    clean |= {"MLLM3D_OUTPUT": str(output), "HOME": str(output.parent), "PYTHONUNBUFFERED": "1"}
    return clean | extra


def command(*arguments: str, module: str = "pipeline") -> list[str]:
    """The command line ``luigi --module pipeline ARGUMENTS``."""
    return [str(LUIGI), "--module", module, *arguments]


def luigi(
    folder: Path, *arguments: str, module: str = "pipeline", **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run to the end in ``folder``; output and errors come back as one text in ``stdout``."""
    return subprocess.run(
        command(*arguments, module=module),
        cwd=folder,
        env=environment(folder / "output", **extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )


def tasks_done(printed: str) -> Counter[str]:
    """How many tasks of each stage a run finished, by the summary at its end."""
    rows = re.findall(r"^  ([A-Z]\w+) +(\d+|-) ", printed, flags=re.MULTILINE)
    return Counter({stage: int(ran) for stage, ran in rows if ran != "-"})

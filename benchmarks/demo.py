"""The whole demo against the first version of this project that had one, in turn.

    python -m benchmarks.demo [--before 1fe06f5] [--repeats 1]

Both make twelve rooms to learn from and six to measure on, with 24 pictures each, and go from
nothing to the report; today's asks a network where the first one's teacher was an oracle, and
about more. The other version is checked out from the project's history into a folder of its own
and runs with the packages that are installed here.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import row
from benchmarks.table import machine, table

_FIRST = "1fe06f5"
_TARGET, _LIMIT = 1.5, 240.0  # A ratio; seconds.
_HERE = Path(__file__).parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both, print the rows; 1 when one of them fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("--before", default=_FIRST, help="the other version's commit")
    parser.add_argument("--repeats", type=int, default=1, help="how often each is run")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder) / "before"
        try:
            _git("worktree", "add", "--detach", str(before), options.before)
            times = _times(Path(folder), before, options.repeats)
        except subprocess.CalledProcessError as error:
            told = (error.stderr or error.stdout or "").strip()[-800:]
            print(f"{' '.join(error.cmd)} failed:\n{told}", file=sys.stderr)
            return 1
        finally:
            away = ["git", "-C", str(_HERE), "worktree", "remove", "--force", str(before)]
            subprocess.run(away, check=False, capture_output=True)
    ours, theirs = (statistics.median(times[side]) for side in ("ours", "before"))
    rows = [
        row(f"whole demo against {options.before}", ours, theirs, "s", _TARGET, options.repeats),
        row("whole demo: limit of time", ours, _LIMIT, "s", 1, options.repeats),
    ]
    print(f"{machine()}\n\n{table(rows)}")
    return 0


def _times(folder: Path, before: Path, repeats: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {"ours": [], "before": []}
    for repeat in range(repeats):
        sides = [("before", before), ("ours", _HERE)]
        for side, tree in sides if repeat % 2 == 0 else reversed(sides):
            output = folder / f"{side}{repeat}"
            start = time.perf_counter()
            _demo(tree, output)
            times[side].append(time.perf_counter() - start)
            found = json.loads((output / "demo" / "metrics.json").read_text())
            told = f"{side}: {times[side][-1]:.0f} s, {found['num_queries']} queries"
            print(told, file=sys.stderr, flush=True)
    return times


def _demo(tree: Path, output: Path) -> None:
    environment = os.environ | {"MLLM3D_OUTPUT": str(output), "PYTHONPATH": str(tree)}
    command = [sys.executable, "-m", "luigi", "--module", "pipeline", "RunAll"]
    command += ["--scene-set", "demo"]
    subprocess.run(command, cwd=tree, env=environment, check=True, capture_output=True, text=True)


def _git(*words: str) -> None:
    command = ["git", "-C", str(_HERE), *words]
    subprocess.run(command, check=True, capture_output=True, text=True)


if __name__ == "__main__":
    sys.exit(main())

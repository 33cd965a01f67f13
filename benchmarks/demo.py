"""The whole demo compared with its first versions, run in turn.

    python -m benchmarks.demo [--before 39aca72 1fe06f5] [--repeats 1]

All versions make twelve training rooms and six evaluation rooms with 24 images each, and run from
nothing to the report. 39aca72 is the first version whose demo asks a network, as the current demo
does; 1fe06f5 is the first version with a demo, whose teacher is an oracle that takes no time. The
other versions are checked out from the project's history into separate folders and run with the
installed packages.
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
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.harness import row
from benchmarks.table import machine, table

_FIRST = ("39aca72", "1fe06f5")
_TARGET, _LIMIT = 1.5, 240.0  # A ratio; seconds.
_OURS = "ours"
_HERE = Path(__file__).parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all versions and print the rows; return 1 when one of them fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("--before", nargs="+", default=_FIRST, help="the other versions' commits")
    parser.add_argument("--repeats", type=int, default=1, help="how often each is run")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        trees = {commit: Path(folder) / commit for commit in options.before}
        try:
            for commit, tree in trees.items():
                _git("worktree", "add", "--detach", str(tree), commit)
            times = _times(Path(folder), trees, options.repeats)
        except subprocess.CalledProcessError as error:
            told = (error.stderr or error.stdout or "").strip()[-800:]
            print(f"{' '.join(error.cmd)} failed:\n{told}", file=sys.stderr)
            return 1
        finally:
            for tree in trees.values():
                away = ["git", "-C", str(_HERE), "worktree", "remove", "--force", str(tree)]
                subprocess.run(away, check=False, capture_output=True)
    median = {name: statistics.median(taken) for name, taken in times.items()}
    ours, repeats = median[_OURS], options.repeats
    rows = [
        row(f"whole demo against {commit}", ours, median[commit], "s", _TARGET, repeats)
        for commit in trees
    ]
    rows.append(row("whole demo: limit of time", ours, _LIMIT, "s", 1, repeats))
    print(f"{machine()}\n\n{table(rows)}")
    return 0


def _times(folder: Path, before: Mapping[str, Path], repeats: int) -> dict[str, list[float]]:
    trees = {**before, _OURS: _HERE}
    times: dict[str, list[float]] = {name: [] for name in trees}
    for repeat in range(repeats):
        order = list(trees) if repeat % 2 == 0 else list(reversed(trees))
        for name in order:
            output = folder / f"output-{name}-{repeat}"
            start = time.perf_counter()
            _demo(trees[name], output)
            times[name].append(time.perf_counter() - start)
            found = json.loads((output / "demo" / "metrics.json").read_text())
            told = f"{name}: {times[name][-1]:.0f} s, {found['num_queries']} queries"
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

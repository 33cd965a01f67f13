"""Run the benchmarks: ``python -m benchmarks [--repeats 5] [--quick] [name ...]``.

Exits 1 when an answer is wrong, never because of a time.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.harness import SCALES, Row, Scale, WrongAnswer
from benchmarks.table import machine, table, write_rows

COMPARED = (
    "links",
    "depth",
    "voxels",
    "superpoints",
    "teacher",
    "teacher_cache",
    "lifting",
    "training",
    "evaluation",
)
"""Benchmarks beside a reference implementation; the tests compare their answers on tiny inputs."""
LIMITED = ("startup", "schedule", "growth")
"""Benchmarks beside a limit."""
NAMES = (*COMPARED, *LIMITED)
RESULTS = Path(__file__).parent / "results.json"
Benchmark = Callable[[Scale, Path, int], list[Row]]


def benchmark(name: str) -> Benchmark:
    """Return ``run(scale, folder, repeats)`` of one benchmark; 0 repeats only verify answers."""
    run: Benchmark = importlib.import_module(f"benchmarks.{name}").run
    return run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run benchmarks, print and write the rows; return the exit code."""
    options = _parse(arguments)
    # As the pipeline has it: spinning threads on busy cores would be timed instead of work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    scale = SCALES["quick" if options.quick else "full"]
    rows: list[Row] = []
    wrong: list[str] = []
    for name in options.names or NAMES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            try:
                rows += benchmark(name)(scale, Path(folder), options.repeats)
            except WrongAnswer as error:
                wrong.append(str(error))
    print(f"{machine()}\nmedians of {options.repeats} interleaved repeats\n\n{table(rows)}")
    write_rows(options.output, rows)
    for message in wrong:
        print(f"WRONG ANSWER in {message}", file=sys.stderr)
    return 1 if wrong else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(NAMES))
    parser.add_argument("--repeats", type=int, default=5, help="repeats of each timing")
    parser.add_argument("--quick", action="store_true", help="small inputs")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the rows go (JSON)")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(NAMES))
    if unknown or options.repeats < 1:
        parser.error(f"no benchmark {unknown[0]}" if unknown else "--repeats starts at 1")
    return options


if __name__ == "__main__":
    sys.exit(main())

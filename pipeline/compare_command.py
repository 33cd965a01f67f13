"""``python -m pipeline compare``: two runs or more, query by query, as a page and a table."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from data.artifacts.evaluation import SOURCES
from data.errors import UserError
from pipeline.command import Command
from pipeline.tables import table

if TYPE_CHECKING:
    from stages.evaluation.paired_comparison import Figure
    from stages.report.compare import Comparison

_PICTURES = 24


def _add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    told = "<output>/<scene set> for its results, or the folder of a report or an evaluation"
    add("runs", type=Path, nargs="+", metavar="RUN", help=f"two to six; {told}")
    add("--out", type=Path, default=Path("compare.html"), help="default: compare.html")
    add("--source", choices=SOURCES, default="student", help="whose answers; default: student")
    told = f"queries to draw, those that changed most; default: {_PICTURES}"
    add("--pictures", type=_number, default=_PICTURES, metavar="N", help=told)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(text)
    return int(text)


def _compare(options: Namespace) -> None:
    from pipeline.compared_runs import compare_inputs, find_runs

    if not 2 <= len(options.runs) <= 6:
        raise UserError(f"expected two to six runs, found {len(options.runs)}")
    if options.out.is_dir() or not options.out.absolute().parent.is_dir():
        raise UserError(f"--out: {options.out} cannot be written; name a file in a folder there is")
    runs = find_runs(options.runs)

    from data.artifacts.store import write_text_atomic
    from stages.configs import ReportConfig
    from stages.report import compare

    made = compare.run(
        compare_inputs(runs, options.source), ReportConfig(max_pictures=options.pictures)
    )
    write_text_atomic(options.out, made.html)
    print("\n".join(_told([run.name for run in runs], options.source, made)))
    print(f"{options.out}: {len(made.html.encode()) / 1e6:.1f} MB")


def _told(names: list[str], source: str, made: Comparison) -> Iterator[str]:
    shared = made.shared
    for number, (name, left_out) in enumerate(zip(names, shared.left_out, strict=True), start=1):
        yield f"run {number}: {name}" + (
            f" ({left_out} of its queries left out)" if left_out else ""
        )
    count = len(shared.rows[0])
    yield f"{count} shared {'query' if count == 1 else 'queries'}, {source}, percent"
    for number in range(2, len(names) + 1):
        titles = ["", "run 1", f"run {number}", "difference", "95 % interval", "better", "worse"]
        rows = [_row(name, figure, number - 1) for name, figure in _named(made)]
        yield from table([[*titles, "p, sign test"], *rows])


def _named(made: Comparison) -> Iterator[tuple[str, Figure]]:
    from stages.evaluation.paired_comparison import FIGURES

    return ((FIGURES[key], figure) for key, figure in made.figures.items())


def _row(name: str, figure: Figure, number: int) -> list[str]:
    from stages.report.compare import chance, points

    change = figure.changes[number - 1]
    counts = ["–" if count is None else str(count) for count in (change.better, change.worse)]
    return [
        name,
        f"{100 * figure.values[0]:.1f}",
        f"{100 * figure.values[number]:.1f}",
        points(change.difference),
        f"[{points(change.low)}, {points(change.high)}]",
        *counts,
        chance(change.sign_p),
    ]


COMPARE = Command(
    "runs compared query by query, on a page and as a table", _add_arguments, _compare
)

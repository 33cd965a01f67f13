"""plan: what RunAll would run and why, and what that may cost."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median

from pipeline.commands.command import Command, add_run_arguments
from pipeline.plan import load_plan
from pipeline.process.progress import size, table
from pipeline.reasons import Known, Unit, units_of, why
from pipeline.tasks.steps import RunAll
from stages.report.html import duration

_HEADS = ("stage", "cached", "to run", "not asked", "time", "disk", "")


def _plan(options: Namespace) -> None:
    asked = {name: getattr(options, name) for name in ("scene_set", "config", "overrides")}
    units, is_done = units_of(RunAll(**asked))
    known = Known(units)
    plan = load_plan(**asked)
    print(f"{plan.scene_set.title}: {plan.output}")
    if plan.cache is not None:
        print(f"caches of teacher and links: {plan.cache}")
    print("\n".join(_page(units, known)))
    if not is_done and not any(unit.runs for unit in units):
        print(f"RunAll would only put the results in place at {plan.output}")
    elif is_done:
        print("RunAll has nothing to do")


def _page(units: Sequence[Unit], known: Known) -> Iterator[str]:
    stages: dict[str, list[Unit]] = {}
    for unit in units:
        stages.setdefault(_stage_name(unit, units), []).append(unit)
    costs = {name: _cost(of_stage, known) for name, of_stage in stages.items()}
    rows = [_HEADS, *(_row(name, stages[name], costs[name]) for name in stages)]
    yield from table(rows)
    yield from _total(units, list(costs.values()))
    for name, of_stage in stages.items():
        yield from _reasons(name, [unit for unit in of_stage if unit.runs], known)
    yield from (f"damaged: {text}" for text in known.damaged)


def _stage_name(unit: Unit, units: Sequence[Unit]) -> str:
    """The task's name; of another scene set, whose student is asked, with that set's."""
    return unit.task if unit.root == units[-1].root else f"{unit.task} ({unit.root.name})"


def _row(name: str, units: Sequence[Unit], cost: tuple[float, float] | None) -> list[str]:
    runs = sum(unit.runs for unit in units)
    done = sum(unit.is_done for unit in units)
    counts = [str(number or "-") for number in (done, runs, len(units) - done - runs)]
    told = ("unknown", "unknown") if cost is None else (duration(cost[0]), size(cost[1]))
    return [name, *counts, *(told if runs else ("-", "-")), ""]


def _cost(units: Sequence[Unit], known: Known) -> tuple[float, float] | None:
    """Seconds and bytes of what would run: medians of recorded artifacts; None without any."""
    seconds, num_bytes = 0.0, 0.0
    medians: dict[tuple[str, bool], tuple[float, float] | None] = {}
    for unit in units:
        if unit.runs:
            kind = (unit.key.stage, unit.scene is None)
            if kind not in medians:
                medians[kind] = _medians(unit, known)
            found = medians[kind]
            if found is None:
                return None
            seconds, num_bytes = seconds + found[0], num_bytes + found[1]
    return seconds, num_bytes


def _medians(unit: Unit, known: Known) -> tuple[float, float] | None:
    records = [
        record
        for record in known.catalogues[unit.root].records
        if record.stage == unit.key.stage and (record.scene is None) == (unit.scene is None)
    ]
    if not records:
        return None
    return median(one.seconds for one in records), median(one.num_bytes for one in records)


def _total(units: Sequence[Unit], costs: Sequence[tuple[float, float] | None]) -> Iterator[str]:
    runs = sum(unit.runs for unit in units)
    if not runs:
        return
    told = [cost for cost in costs if cost is not None]
    seconds, num_bytes = (sum(cost[index] for cost in told) for index in (0, 1))
    at_least = "" if len(told) == len(costs) else ", without stages that nothing is recorded of"
    some = f"about {duration(seconds)} of one worker and {size(num_bytes)}" if seconds else ""
    known = f", {some}{at_least}" if some else ", nothing recorded tells how long"
    yield f"to run: {runs} of {len(units)}{known}"


def _reasons(name: str, units: Sequence[Unit], known: Known) -> Iterator[str]:
    """A line for each reason of a stage, and how many of its artifacts it is the reason of."""
    for text, number in Counter(why(unit, known) for unit in units).items():
        yield f"{name}{f' x {number}' if number > 1 else ''}: {text}"


PLAN = Command("what RunAll would run and why, with time and disk", add_run_arguments, _plan)

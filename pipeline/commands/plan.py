"""Command plan: the artifacts that RunAll would make, why, and the estimated time and disk."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median

from pipeline.commands.command import Command, add_run_arguments
from pipeline.plan import load_plan
from pipeline.process.progress import size, table
from pipeline.reasons import FinishedArtifacts, PlannedArtifact, planned_artifacts, why
from pipeline.tasks.steps import RunAll
from stages.report.html import duration

_HEADS = ("stage", "cached", "to run", "not needed", "time", "disk", "")


def _plan(options: Namespace) -> None:
    parameters = {name: getattr(options, name) for name in ("scene_set", "config", "overrides")}
    artifacts, is_done = planned_artifacts(RunAll(**parameters))
    finished = FinishedArtifacts(artifacts)
    plan = load_plan(**parameters)
    print(f"{plan.scene_set.title}: {plan.output}")
    if plan.cache is not None:
        print(f"caches of teacher and links: {plan.cache}")
    if plan.teacher_warning:
        print(f"warning: {plan.teacher_warning}")
    print("\n".join(_page(artifacts, finished)))
    if not is_done and not any(artifact.runs for artifact in artifacts):
        print(f"RunAll would only put the results in place at {plan.output}")
    elif is_done:
        print("RunAll has nothing to do")


def _page(artifacts: Sequence[PlannedArtifact], finished: FinishedArtifacts) -> Iterator[str]:
    stages: dict[str, list[PlannedArtifact]] = {}
    for artifact in artifacts:
        stages.setdefault(_stage_name(artifact, artifacts), []).append(artifact)
    costs = {name: _cost(of_stage, finished) for name, of_stage in stages.items()}
    rows = [_HEADS, *(_row(name, stages[name], costs[name]) for name in stages)]
    yield from table(rows)
    yield from _total(artifacts, list(costs.values()))
    for name, of_stage in stages.items():
        yield from _reasons(name, [artifact for artifact in of_stage if artifact.runs], finished)
    yield from (f"damaged: {text}" for text in finished.damaged)


def _stage_name(artifact: PlannedArtifact, artifacts: Sequence[PlannedArtifact]) -> str:
    """Name of the task, with the scene set's name where it is another set's."""
    return (
        artifact.task
        if artifact.root == artifacts[-1].root
        else f"{artifact.task} ({artifact.root.name})"
    )


def _row(
    name: str, artifacts: Sequence[PlannedArtifact], cost: tuple[float, float] | None
) -> list[str]:
    runs = sum(artifact.runs for artifact in artifacts)
    done = sum(artifact.is_done for artifact in artifacts)
    counts = [str(number or "-") for number in (done, runs, len(artifacts) - done - runs)]
    cost_cells = ("unknown", "unknown") if cost is None else (duration(cost[0]), size(cost[1]))
    return [name, *counts, *(cost_cells if runs else ("-", "-")), ""]


def _cost(
    artifacts: Sequence[PlannedArtifact], finished: FinishedArtifacts
) -> tuple[float, float] | None:
    """Estimated seconds and bytes of what would run; None where no finished artifact tells."""
    seconds, num_bytes = 0.0, 0.0
    medians: dict[tuple[str, bool], tuple[float, float] | None] = {}
    for artifact in artifacts:
        if artifact.runs:
            kind = (artifact.key.stage, artifact.scene is None)
            if kind not in medians:
                medians[kind] = _medians(artifact, finished)
            median_cost = medians[kind]
            if median_cost is None:
                return None
            seconds, num_bytes = seconds + median_cost[0], num_bytes + median_cost[1]
    return seconds, num_bytes


def _medians(artifact: PlannedArtifact, finished: FinishedArtifacts) -> tuple[float, float] | None:
    records = [
        record
        for record in finished.catalogues[artifact.root].records
        if record.stage == artifact.key.stage and (record.scene is None) == (artifact.scene is None)
    ]
    if not records:
        return None
    seconds = median(record.seconds for record in records)
    return seconds, median(record.num_bytes for record in records)


def _total(
    artifacts: Sequence[PlannedArtifact], costs: Sequence[tuple[float, float] | None]
) -> Iterator[str]:
    runs = sum(artifact.runs for artifact in artifacts)
    if not runs:
        return
    known_costs = [cost for cost in costs if cost is not None]
    seconds, num_bytes = (sum(cost[index] for cost in known_costs) for index in (0, 1))
    at_least = "" if len(known_costs) == len(costs) else ", without stages that were never run"
    estimate = f"about {duration(seconds)} for one worker and {size(num_bytes)}" if seconds else ""
    costs_text = (
        f", {estimate}{at_least}" if estimate else ", duration unknown: nothing was run before"
    )
    yield f"to run: {runs} of {len(artifacts)}{costs_text}"


def _reasons(
    name: str, artifacts: Sequence[PlannedArtifact], finished: FinishedArtifacts
) -> Iterator[str]:
    """One line for each reason of a stage, with the number of artifacts it applies to."""
    for text, number in Counter(why(artifact, finished) for artifact in artifacts).items():
        yield f"{name}{f' x {number}' if number > 1 else ''}: {text}"


PLAN = Command(
    "list what RunAll would run and why, with estimated time and disk", add_run_arguments, _plan
)

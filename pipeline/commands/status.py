"""Command status: the progress of a scene set's run, by step and by scene."""

from __future__ import annotations

import fcntl
import json
import os
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.artifacts.metadata import WRITER_FILE, read_last_error
from data.artifacts.store import METADATA, lock_path
from pipeline.commands.command import Command, add_run_arguments
from pipeline.plan import load_plan
from pipeline.process.progress import size, table
from pipeline.reasons import FinishedArtifacts, PlannedArtifact, planned_artifacts
from pipeline.steps.declaration import load, step_of
from pipeline.tasks.steps import RunAll
from pipeline.workers.slurm import submitted
from stages.report.html import duration

_MOST_LINES = 10
_WHOLE_SET = "(whole set)"


def _add_arguments(parser: ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument("--scenes", action="store_true", help="also print one row for each scene")


def _status(options: Namespace) -> None:
    parameters = {name: getattr(options, name) for name in ("scene_set", "config", "overrides")}
    artifacts, is_done = planned_artifacts(RunAll(**parameters))
    finished, plan = FinishedArtifacts(artifacts), load_plan(**parameters)
    artifacts = [artifact for artifact in artifacts if artifact.root == plan.output]
    states = {artifact.key.folder: state_of(artifact) for artifact in artifacts}
    print(f"{plan.scene_set.title}: {plan.output}, {size(_bytes_below(plan.output))}")
    if plan.cache is not None:
        print(f"caches of teacher and links: {plan.cache}")
    print("\n".join(_page(artifacts, states, finished, options.scenes)))
    print("".join(f"{line}\n" for line in submitted(plan.output, options.scenes)), end="")
    print(f"results of this config: {'in place' if is_done else 'not in place'}")


def _page(
    artifacts: Sequence[PlannedArtifact],
    states: Mapping[Path, State],
    finished: FinishedArtifacts,
    with_scenes: bool,
) -> Iterator[str]:
    stale = {artifact.key.folder: _stale(artifact, finished) for artifact in artifacts}
    stages: dict[str, list[PlannedArtifact]] = {}
    for artifact in artifacts:
        stages.setdefault(artifact.task, []).append(artifact)
    yield from table(list(_counts(stages, states, stale)))
    if any(stale.values()):
        yield "stale: finished artifacts of the same scenes under another config or other inputs"
    for name in ("running", "failed", "partial"):
        in_state = [artifact for artifact in artifacts if states[artifact.key.folder].name == name]
        yield from _lines(in_state, states, None if with_scenes else _MOST_LINES)
    yield from (f"damaged: {text}" for text in finished.damaged)
    if with_scenes:
        yield ""
        yield from table(list(_scenes(stages, states, stale)), left=2)


def _counts(
    stages: Mapping[str, Sequence[PlannedArtifact]],
    states: Mapping[Path, State],
    stale: Mapping[Path, int],
) -> Iterator[list[str]]:
    yield ["stage", *STATES, "stale", ""]
    for task, artifacts in stages.items():
        counts = Counter(states[artifact.key.folder].name for artifact in artifacts)
        numbers = [*(counts[name] for name in STATES), sum(stale[u.key.folder] for u in artifacts)]
        yield [task, *(str(number or "-") for number in numbers), ""]


def _stale(artifact: PlannedArtifact, finished: FinishedArtifacts) -> int:
    """Number of finished artifacts of the same step and scene with other fingerprints."""
    records = finished.catalogues[artifact.root].of(artifact.key.stage, artifact.scene)
    return sum(record.fingerprint != artifact.key.fingerprint for record in records)


def _lines(
    artifacts: Sequence[PlannedArtifact], states: Mapping[Path, State], most: int | None
) -> Iterator[str]:
    for artifact in artifacts[:most]:
        state = states[artifact.key.folder]
        views = "{} of {} views".format(*state.views) if state.views else ""
        details = ", ".join(filter(None, (views, state.writer)))
        name = " ".join(filter(None, (artifact.task, artifact.scene)))
        error = f": {state.error}" if state.error else ""
        yield f"{state.name}: {name}{f' ({details})' if details else ''}{error}"
    if most is not None and len(artifacts) > most:
        yield f"... and {len(artifacts) - most} more; --scenes shows all"


def _scenes(
    stages: Mapping[str, Sequence[PlannedArtifact]],
    states: Mapping[Path, State],
    stale: Mapping[Path, int],
) -> Iterator[list[str]]:
    """One row for each scene, one column for each step; "+1" counts stale artifacts."""
    cells: dict[str, dict[str, str]] = {}
    for task, artifacts in stages.items():
        for artifact in artifacts:
            num_stale = stale[artifact.key.folder]
            text = states[artifact.key.folder].cell + (f" +{num_stale}" if num_stale else "")
            cells.setdefault(artifact.scene or _WHOLE_SET, {})[task] = text
    whole = cells.pop(_WHOLE_SET, {})
    yield ["scene", *stages]
    for scene, row in [*cells.items(), (_WHOLE_SET, whole)]:
        yield [scene, *(row.get(task, "") for task in stages)]


def _bytes_below(folder: Path) -> int:
    """Bytes of all files below a folder; files that are deleted during the walk do not count."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                continue
    return total


STATUS = Command(
    "show the progress of a scene set's run and its size on disk", _add_arguments, _status
)


StateName = Literal["done", "running", "failed", "partial", "damaged", "missing"]
STATES: Sequence[StateName] = ("done", "running", "failed", "partial", "damaged", "missing")


@dataclass(frozen=True)
class State:
    """State of an artifact.

    Attributes:
        name: one of ``STATES``.
        views: finished and all views, for a teacher's artifact.
        writer: host, process and age of the process that holds the write lock.
        error: first line of the last attempt's error, with its host and age.
    """

    name: StateName
    views: tuple[int, int] | None = None
    writer: str = ""
    error: str = ""

    @property
    def cell(self) -> str:
        """The state as a short text for a table."""
        if self.views is not None and self.name in ("running", "failed", "partial"):
            return f"{self.name} {self.views[0]}/{self.views[1]}"
        return "-" if self.name == "missing" else self.name


def state_of(artifact: PlannedArtifact) -> State:
    """The state of one artifact of a run."""
    if artifact.is_done:
        return State("done")
    folder = artifact.key.folder
    step = step_of(artifact.key.stage, artifact.scene)
    views = load(step.progress)(folder) if step is not None and step.progress else None
    if is_held(folder):
        return State("running", views, _writer(folder))
    failure = read_last_error(folder)
    if failure is not None:
        age = duration(max(0.0, time.time() - failure.time))
        return State("failed", views, error=f"{failure.error} (on {failure.host}, {age} ago)")
    if (folder / METADATA).exists():
        return State("damaged")
    return State("partial", views) if folder.is_dir() else State("missing")


def is_held(folder: Path) -> bool:
    """Whether a process, on any host whose locks are visible here, holds the write lock."""
    try:
        handle = os.open(lock_path(folder), os.O_RDONLY)
    except OSError:
        return False
    try:
        # A shared lock, released at once; a writer that arrives at this moment retries.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _writer(folder: Path) -> str:
    """Host, process and age of the process that makes an artifact, from its lock info."""
    try:
        lock_info = json.loads((folder / WRITER_FILE).read_text())
        age = max(0.0, time.time() - float(lock_info["started"]))
        return f"on {lock_info['host']}, process {lock_info['pid']}, for {duration(age)}"
    except (OSError, ValueError, KeyError, TypeError):
        return "about to start"

"""status: how far a scene set's run is, by step and by scene."""

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

from data.artifacts.metadata import HOLDER, read_failure
from data.artifacts.store import METADATA, lock_path
from pipeline.commands.command import Command, add_run_arguments
from pipeline.plan import load_plan
from pipeline.process.progress import size, table
from pipeline.reasons import Known, Unit, units_of
from pipeline.steps.declaration import load, step_of
from pipeline.tasks.steps import RunAll
from pipeline.workers.slurm import submitted
from stages.report.html import duration

_MOST_LINES = 10
_WHOLE_SET = "(whole set)"


def _add_arguments(parser: ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument("--scenes", action="store_true", help="a row a scene, too, however many")


def _status(options: Namespace) -> None:
    asked = {name: getattr(options, name) for name in ("scene_set", "config", "overrides")}
    units, is_done = units_of(RunAll(**asked))
    known, plan = Known(units), load_plan(**asked)
    units = [unit for unit in units if unit.root == plan.output]
    states = {unit.key.folder: state_of(unit) for unit in units}
    print(f"{plan.scene_set.title}: {plan.output}, {size(_bytes_below(plan.output))}")
    if plan.cache is not None:
        print(f"caches of teacher and links: {plan.cache}")
    print("\n".join(_page(units, states, known, options.scenes)))
    print("".join(f"{line}\n" for line in submitted(plan.output, options.scenes)), end="")
    print(f"results of this config: {'in place' if is_done else 'not in place'}")


def _page(
    units: Sequence[Unit], states: Mapping[Path, State], known: Known, with_scenes: bool
) -> Iterator[str]:
    stale = {unit.key.folder: _stale(unit, known) for unit in units}
    stages: dict[str, list[Unit]] = {}
    for unit in units:
        stages.setdefault(unit.task, []).append(unit)
    yield from table(list(_counts(stages, states, stale)))
    if any(stale.values()):
        yield "stale: finished under another config or from other inputs, of the same scenes"
    for name in ("running", "failed", "partial"):
        found = [unit for unit in units if states[unit.key.folder].name == name]
        yield from _lines(found, states, None if with_scenes else _MOST_LINES)
    yield from (f"damaged: {text}" for text in known.damaged)
    if with_scenes:
        yield ""
        yield from table(list(_scenes(stages, states, stale)), left=2)


def _counts(
    stages: Mapping[str, Sequence[Unit]], states: Mapping[Path, State], stale: Mapping[Path, int]
) -> Iterator[list[str]]:
    yield ["stage", *STATES, "stale", ""]
    for task, units in stages.items():
        found = Counter(states[unit.key.folder].name for unit in units)
        numbers = [*(found[name] for name in STATES), sum(stale[u.key.folder] for u in units)]
        yield [task, *(str(number or "-") for number in numbers), ""]


def _stale(unit: Unit, known: Known) -> int:
    """Finished artifacts of the same stage and scene under other fingerprints."""
    records = known.catalogues[unit.root].of(unit.key.stage, unit.scene)
    return sum(record.fingerprint != unit.key.fingerprint for record in records)


def _lines(units: Sequence[Unit], states: Mapping[Path, State], most: int | None) -> Iterator[str]:
    for unit in units[:most]:
        state = states[unit.key.folder]
        views = "{} of {} views".format(*state.views) if state.views else ""
        told = ", ".join(filter(None, (views, state.holder)))
        name = " ".join(filter(None, (unit.task, unit.scene)))
        error = f": {state.error}" if state.error else ""
        yield f"{state.name}: {name}{f' ({told})' if told else ''}{error}"
    if most is not None and len(units) > most:
        yield f"... and {len(units) - most} more; --scenes shows all"


def _scenes(
    stages: Mapping[str, Sequence[Unit]], states: Mapping[Path, State], stale: Mapping[Path, int]
) -> Iterator[list[str]]:
    """A row a scene and a column a stage; "+1" counts stale artifacts beside."""
    cells: dict[str, dict[str, str]] = {}
    for task, units in stages.items():
        for unit in units:
            more = stale[unit.key.folder]
            text = states[unit.key.folder].cell + (f" +{more}" if more else "")
            cells.setdefault(unit.scene or _WHOLE_SET, {})[task] = text
    whole = cells.pop(_WHOLE_SET, {})
    yield ["scene", *stages]
    for scene, row in [*cells.items(), (_WHOLE_SET, whole)]:
        yield [scene, *(row.get(task, "") for task in stages)]


def _bytes_below(folder: Path) -> int:
    """Bytes of all files below a folder; files that go away meanwhile do not count."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                continue
    return total


STATUS = Command("how far a scene set's run is, and what it takes on disk", _add_arguments, _status)


StateName = Literal["done", "running", "failed", "partial", "damaged", "missing"]
STATES: Sequence[StateName] = ("done", "running", "failed", "partial", "damaged", "missing")


@dataclass(frozen=True)
class State:
    """Of an artifact: its name, views (done, of how many) for a teacher's, who is at it.

    ``error`` is the first line of what stopped the last attempt, and on which host and when.
    """

    name: StateName
    views: tuple[int, int] | None = None
    holder: str = ""
    error: str = ""

    @property
    def cell(self) -> str:
        """The state as short as a table wants it."""
        if self.views is not None and self.name in ("running", "failed", "partial"):
            return f"{self.name} {self.views[0]}/{self.views[1]}"
        return "-" if self.name == "missing" else self.name


def state_of(unit: Unit) -> State:
    """The state of one artifact of a run."""
    if unit.is_done:
        return State("done")
    folder = unit.key.folder
    step = step_of(unit.key.stage, unit.scene)
    views = load(step.progress)(folder) if step is not None and step.progress else None
    if is_held(folder):
        return State("running", views, _holder(folder))
    failure = read_failure(folder)
    if failure is not None:
        age = duration(max(0.0, time.time() - failure.time))
        return State("failed", views, error=f"{failure.error} (on {failure.host}, {age} ago)")
    if (folder / METADATA).exists():
        return State("damaged")
    return State("partial", views) if folder.is_dir() else State("missing")


def is_held(folder: Path) -> bool:
    """Whether a process holds an artifact's lock, on any host where locks reach that far."""
    try:
        handle = os.open(lock_path(folder), os.O_RDONLY)
    except OSError:
        return False
    try:
        # Shared and given back at once: a writer that comes meanwhile tries again and gets it.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _holder(folder: Path) -> str:
    """Host, process and age of a run, as far as the run has told them yet."""
    try:
        told = json.loads((folder / HOLDER).read_text())
        age = max(0.0, time.time() - float(told["started"]))
        return f"on {told['host']}, process {told['pid']}, for {duration(age)}"
    except (OSError, ValueError, KeyError, TypeError):
        return "about to start"

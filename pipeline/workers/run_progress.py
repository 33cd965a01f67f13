"""Progress of a run: the state of every task, the progress bar, and the summary at the end.

``RunProgress`` counts tasks by their status and estimates the time left. ``RunDisplay`` draws
that as a bar, or logs it. ``summary`` makes the table that a run ends with.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal, Never

import luigi
from tqdm import tqdm

from data.artifacts.metadata import read_metadata
from data.artifacts.store import METADATA, ArtifactKey
from pipeline.process.progress import LOG_EVERY_SECONDS, Slot, table
from pipeline.process.task_log import artifact_log
from pipeline.tasks.base import ArtifactTask
from stages.report.html import duration

Status = Literal["pending", "cached", "running", "done", "failed"]
_STATUSES: Mapping[str, Status] = {"PENDING": "pending", "DONE": "done", "FAILED": "failed"}


@dataclass(eq=False)
class TaskState:
    """State of one task that makes something.

    Attributes:
        task: the Luigi task.
        status: "cached" where the artifact existed before the run or another host made it.
        started: monotonic time at which the task began, in seconds; 0 for one that did not.
        seconds: wall time of the task once it has ended.
        error: first line of the error that stopped the task.
        slot: shared memory in which the task's process writes its progress.
    """

    task: luigi.Task
    status: Status = "pending"
    started: float = 0.0
    seconds: float = 0.0
    error: str = ""
    slot: Slot = field(default_factory=Slot)

    @property
    def kind(self) -> str:
        """Name of the task's class, which is that of the step."""
        return str(self.task.task_family)

    @property
    def unit(self) -> str | None:
        """The scene or shard; None for a task on the whole set."""
        return self.task.unit() if isinstance(self.task, ArtifactTask) else None

    @property
    def title(self) -> str:
        """Task name and scene."""
        return " ".join(filter(None, (self.kind, self.unit)))

    @property
    def share(self) -> float:
        """Share of the task that is done, from 0 to 1."""
        if self.status in ("pending", "running"):
            done, total = self.slot.read()
            return min(1.0, done / total) if self.status == "running" and total > 0 else 0.0
        return 1.0


class RunProgress:
    """States of all tasks of a run; tasks that only group others are left out.

    ``states`` holds them by Luigi's task id, ``roots`` the tasks that the command line named, and
    ``unfinished`` the number of unfinished tasks by task name.
    """

    def __init__(self, num_workers: int = 1) -> None:
        self.states: dict[str, TaskState] = {}
        self.roots: list[luigi.Task] = []
        self.unfinished: Counter[str] = Counter()
        self.began = time.monotonic()
        self.num_workers = num_workers

    def record(self, task: luigi.Task, luigi_status: str, message: str = "") -> TaskState | None:
        """Record a status that Luigi reports: PENDING, DONE or FAILED.

        ``message`` is Luigi's error message as JSON. Returns the task's state; None for other
        statuses and for tasks that make nothing.
        """
        status = _STATUSES.get(luigi_status)
        if status is None or not _makes_something(task):
            return None
        state = self.states.get(task.task_id)
        if state is None:
            state = self.states[task.task_id] = TaskState(task)
            state.status = "cached" if status == "done" else status
            self.unfinished[state.kind] += status == "pending"
            return state
        if status != "pending":
            state.seconds = time.monotonic() - state.started if state.started else 0.0
            self.unfinished[state.kind] -= state.status in ("pending", "running")
            if status == "done" and not state.started:
                status = "cached"  # Another host made it.
            state.status, state.error = status, _first_line(message) if status == "failed" else ""
        return state

    def start(self, task: luigi.Task) -> TaskState | None:
        """Record that a task begins."""
        state = self.states.get(task.task_id)
        if state is not None:
            state.status, state.started = "running", time.monotonic()
        return state

    def with_status(self, *statuses: Status) -> list[TaskState]:
        """The states of tasks that have one of these statuses."""
        return [state for state in self.states.values() if state.status in statuses]

    def scenes(self) -> tuple[int, int]:
        """Number of scenes whose tasks have all ended, and number of scenes with tasks to run."""
        num_tasks: Counter[str] = Counter()
        num_unfinished: Counter[str] = Counter()
        for state in self.states.values():
            if state.unit is not None and state.status != "cached":
                num_tasks[state.unit] += 1
                num_unfinished[state.unit] += state.status in ("pending", "running")
        return sum(not num_unfinished[scene] for scene in num_tasks), len(num_tasks)

    def seconds_left(self, before: Mapping[str, float]) -> float | None:
        """Estimated seconds until the run ends; None where no duration is known.

        A task takes as long as the mean of its kind in this run, else as ``before`` says, which
        holds seconds by task name from earlier runs. A kind without either takes the mean of the
        others. Tasks on the whole set run alone, tasks on scenes ``num_workers`` at once.
        """
        durations = {**before, **self._means()}
        if not durations:
            return None
        mean_duration = sum(durations.values()) / len(durations)
        seconds_left = 0.0
        for state in self.with_status("pending", "running"):
            seconds = durations.get(state.kind, mean_duration)
            if state.status == "running" and state.kind not in durations and state.share > 0:
                seconds = (time.monotonic() - state.started) / state.share
            at_once = self.num_workers if state.unit is not None else 1
            seconds_left += seconds * (1 - state.share) / at_once
        return seconds_left

    def _means(self) -> dict[str, float]:
        spent: dict[str, list[float]] = {}
        for state in self.with_status("done"):
            spent.setdefault(state.kind, []).append(state.seconds)
        return {kind: sum(each) / len(each) for kind, each in spent.items()}


def _makes_something(task: luigi.Task) -> bool:
    """Whether a task does work itself; other tasks only group those they require."""
    if not isinstance(task, ArtifactTask):
        return True
    return task.key() is not None or type(task).run is not ArtifactTask.run


def _first_line(message: str) -> str:
    """First line of an error message; last line of a traceback, which names the error."""
    try:
        text: Any = json.loads(message)
    except ValueError:
        text = message
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    if not lines:
        return ""
    is_traceback = any(line.startswith("Traceback (most recent") for line in lines[:3])
    return lines[-1] if is_traceback else lines[0]


_LOG = logging.getLogger("luigi-interface.run")
_BAR = "{percentage:3.0f}% |{bar}| {desc}"
_MOST_SHOWN = 3
_SAMPLE = 5
"""Earlier artifacts of a step that are read to estimate its duration."""


class RunDisplay:
    """Draws the progress of a run as a bar, or logs it every 30 s without a terminal."""

    def __init__(self, run_progress: RunProgress) -> None:
        self._run_progress = run_progress
        self._bar: tqdm[Never] | None = None
        self._last = time.monotonic()
        self._before: dict[str, float] = {}
        self._reported: set[str] = set()

    def begin(self) -> None:
        """Look up the durations of earlier runs, and show the bar where there is a terminal."""
        for state in self._run_progress.with_status("pending"):
            key = _key_of(state)
            if key is not None and state.kind not in self._before:
                seconds = _recorded(key)
                if seconds is not None:
                    self._before[state.kind] = seconds
        if sys.stderr.isatty() and self._run_progress.with_status("pending"):
            tqdm.monitor_interval = 0  # Its thread would be lost in every forked task.
            _write_over_bar(True)
            self._bar = tqdm(total=1.0, bar_format=_BAR, dynamic_ncols=True, leave=False)
            self.show()

    def show(self) -> None:
        """Draw the bar; without a terminal, log a line every ``LOG_EVERY_SECONDS``."""
        if self._bar is not None:
            self._bar.set_description_str(self.line(), refresh=False)
            # A growing estimate must not move the bar back.
            self._bar.n = max(self._bar.n, self._share())
            self._bar.refresh()
        elif time.monotonic() - self._last >= LOG_EVERY_SECONDS and self._run_progress.with_status(
            "running"
        ):
            self._last = time.monotonic()
            _LOG.info("%s", self.line())

    def finished(self, state: TaskState) -> None:
        """Log the total time of a task's kind when its last task has ended."""
        if (
            self._run_progress.unfinished[state.kind]
            or state.kind in self._reported
            or _key_of(state) is None
        ):
            return
        self._reported.add(state.kind)
        done = [each for each in self._run_progress.with_status("done") if each.kind == state.kind]
        if done:
            spent = duration(sum(each.seconds for each in done))
            _LOG.info("%s: %d done in %s of state", state.kind, len(done), spent)

    def end(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
            _write_over_bar(False)

    def line(self) -> str:
        """Progress of the run in one line of text."""
        run_progress = self._run_progress
        ended, running = run_progress.with_status("done", "failed"), run_progress.with_status(
            "running"
        )
        scenes_done, scenes = run_progress.scenes()
        total = len(ended) + len(run_progress.with_status("pending", "running"))
        parts = [f"{len(ended)} of {total} tasks"]
        if scenes > 1:
            parts.insert(0, f"{scenes_done} of {scenes} scenes")
        failed = len(run_progress.with_status("failed"))
        parts += [f"{failed} failed"] if failed else []
        seconds_left = run_progress.seconds_left(self._before)
        parts += [f"about {duration(seconds_left)} left"] if seconds_left else []
        shown = [_at(state) for state in running[:_MOST_SHOWN]]
        return "; ".join([", ".join(parts), *([", ".join(shown)] if shown else [])])

    def _share(self) -> float:
        """Share of the run's time that has passed, by the estimate of the time left."""
        spent = time.monotonic() - self._run_progress.began
        seconds_left = self._run_progress.seconds_left(self._before)
        if seconds_left is None:
            states = [
                state for state in self._run_progress.states.values() if state.status != "cached"
            ]
            return sum(state.share for state in states) / max(1, len(states))
        return spent / max(spent + seconds_left, 1e-9)


class _OverBar(logging.Formatter):
    """Starts each message on a cleared line, so that it overwrites the bar."""

    def __init__(self, inner: logging.Formatter | None) -> None:
        super().__init__()
        self.inner = inner

    def format(self, record: logging.LogRecord) -> str:
        message = self.inner.format(record) if self.inner else record.getMessage()
        return f"\r\033[K{message}"


def _write_over_bar(is_shown: bool) -> None:
    """Make log handlers of this process and of tasks forked from it overwrite the bar."""
    for handler in logging.getLogger("luigi-interface").handlers:
        formatter = handler.formatter
        if is_shown:
            handler.setFormatter(_OverBar(formatter))
        elif isinstance(formatter, _OverBar):
            handler.setFormatter(formatter.inner)


def _key_of(state: TaskState) -> ArtifactKey | None:
    return state.task.key() if isinstance(state.task, ArtifactTask) else None


def _at(state: TaskState) -> str:
    done, total = state.slot.read()
    return f"{state.title} {done}/{total}" if total else state.title


def _recorded(key: ArtifactKey) -> float | None:
    """Median seconds of a few finished artifacts of a step; None where there are none."""
    stage = next((up for up in key.folder.parents if up.name == key.stage), None)
    durations: list[float] = []
    for path in _metadata(stage) if stage is not None else ():
        try:
            content: Mapping[str, float] = json.loads(path.read_text(encoding="utf-8"))
            durations.append(float(content["wall_seconds"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if len(durations) == _SAMPLE:
            break
    return median(durations) if durations else None


def _metadata(stage: Path) -> Iterator[Path]:
    for pattern in (f"*/{METADATA}", f"*/*/{METADATA}"):
        yield from stage.glob(pattern)


_MOST_FAILED = 10
_LONGEST_ERROR = 120


def summary(run_progress: RunProgress) -> str:
    """Text of a finished run: tasks by kind and status, times, memory, and the results' paths."""
    return "\n".join(_lines(run_progress))


def _lines(run_progress: RunProgress) -> Iterator[str]:
    states, failed = list(run_progress.states.values()), run_progress.with_status("failed")
    root_names = " ".join(dict.fromkeys(root.task_family for root in run_progress.roots))
    unfinished = run_progress.with_status("pending", "running")
    spent = duration(time.monotonic() - run_progress.began)
    if all(state.status == "cached" for state in states):
        yield f"{root_names}: nothing to do, all artifacts exist already"
    else:
        outcome = "failed" if failed else "stopped" if unfinished else "done"
        children_peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
        peak = max(
            [children_peak, *(_peak_mb(state) for state in run_progress.with_status("done"))]
        )
        yield f"{root_names}: {outcome} in {spent}; peak memory of a process {peak} MB"
        yield from (f"  {line}" for line in table(list(_rows(states))))
    if failed:
        yield "failed:"
        yield from (f"  {_failure(state)}" for state in failed[:_MOST_FAILED])
        if len(failed) > _MOST_FAILED:
            yield f"  ... and {len(failed) - _MOST_FAILED} more"
    elif not unfinished:
        yield from (f"results: {path}" for path in _result_paths(run_progress))


def _rows(states: Sequence[TaskState]) -> Iterator[list[str]]:
    yield ["stage", "ran", "cached", "failed", "not run", "time", "longest", "memory", ""]
    kinds: dict[str, list[TaskState]] = {}
    in_order = sorted(states, key=lambda state: state.started or float("inf"))
    for state in in_order:
        kinds.setdefault(state.kind, []).append(state)
    for kind, of_kind in kinds.items():
        ran = [state for state in of_kind if state.status == "done"]
        counts = [
            len(ran),
            *(
                sum(state.status in statuses for state in of_kind)
                for statuses in (("cached",), ("failed",))
            ),
            sum(state.status in ("pending", "running") for state in of_kind),
        ]
        longest = max(ran, key=lambda state: state.seconds, default=None)
        peak = max((_peak_mb(state) for state in ran), default=0)
        yield [
            kind,
            *(str(count or "-") for count in counts),
            duration(sum(state.seconds for state in ran)) if ran else "-",
            duration(longest.seconds) if longest else "-",
            f"{peak} MB" if peak else "-",
            longest.unit or "" if longest and len(ran) > 1 else "",
        ]


def _peak_mb(state: TaskState) -> int:
    key = state.task.key() if isinstance(state.task, ArtifactTask) else None
    content = read_metadata(key.folder) if key else None
    return int((content or {}).get("peak_memory_mb", 0))


def _failure(state: TaskState) -> str:
    log = _log_of(state)
    error = textwrap.shorten(state.error, _LONGEST_ERROR, placeholder="...")
    return f"{state.title}: {error}" + (f" (log: {log})" if log else "")


def _log_of(state: TaskState) -> Path | None:
    key = state.task.key() if isinstance(state.task, ArtifactTask) else None
    path = artifact_log(key, state.unit) if key else None
    return path if path is not None and path.is_file() else None


def _result_paths(run_progress: RunProgress) -> list[Path]:
    """Paths of the results that the command line asked for."""
    paths = [root.results_at() for root in run_progress.roots if isinstance(root, ArtifactTask)]
    return [path for path in dict.fromkeys(paths) if path is not None]

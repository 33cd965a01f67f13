"""What a run has to do, has done and does now: counted in the process that starts the tasks."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import luigi

from pipeline.base import ArtifactTask
from pipeline.progress import Slot

Fate = Literal["pending", "there", "running", "done", "failed"]
_FATES: Mapping[str, Fate] = {"PENDING": "pending", "DONE": "done", "FAILED": "failed"}


@dataclass(eq=False)
class Work:
    """One task that makes something: its kind, its scene or shard, what became of it.

    ``seconds`` of wall time once it is over, ``error`` the first line of what stopped it.
    """

    task: luigi.Task
    fate: Fate = "pending"
    started: float = 0.0
    seconds: float = 0.0
    error: str = ""
    slot: Slot = field(default_factory=Slot)

    @property
    def kind(self) -> str:
        """The stage, as its task is called."""
        return str(self.task.task_family)

    @property
    def unit(self) -> str | None:
        """The scene or shard; None for a stage of the whole set."""
        return self.task.unit() if isinstance(self.task, ArtifactTask) else None

    @property
    def title(self) -> str:
        """Stage and scene."""
        return " ".join(filter(None, (self.kind, self.unit)))

    @property
    def share(self) -> float:
        """How much of it is done, from 0 to 1."""
        if self.fate in ("pending", "running"):
            done, total = self.slot.read()
            return min(1.0, done / total) if self.fate == "running" and total > 0 else 0.0
        return 1.0


class Tally:
    """All work of a run; tasks that only stand for others are left out."""

    def __init__(self, num_workers: int = 1) -> None:
        self.works: dict[str, Work] = {}
        self.roots: list[luigi.Task] = []
        self.open: Counter[str] = Counter()
        self.began = time.monotonic()
        self.num_workers = num_workers

    def note(self, task: luigi.Task, status: str, told: str = "") -> Work | None:
        """Take in what Luigi says of a task: PENDING, DONE or FAILED, with its message as JSON.

        ``open`` counts, by kind, what is yet to be done.
        """
        fate = _FATES.get(status)
        if fate is None or not _makes_something(task):
            return None
        known = self.works.get(task.task_id)
        if known is None:
            known = self.works[task.task_id] = Work(task)
            known.fate = "there" if fate == "done" else fate
            self.open[known.kind] += fate == "pending"
            return known
        if fate != "pending":
            known.seconds = time.monotonic() - known.started if known.started else 0.0
            self.open[known.kind] -= known.fate in ("pending", "running")
            if fate == "done" and not known.started:
                fate = "there"  # Another host's work.
            known.fate, known.error = fate, _first_line(told) if fate == "failed" else ""
        return known

    def start(self, task: luigi.Task) -> Work | None:
        """Take in that a task begins."""
        work = self.works.get(task.task_id)
        if work is not None:
            work.fate, work.started = "running", time.monotonic()
        return work

    def of(self, *fates: Fate) -> list[Work]:
        """The work of these fates."""
        return [work for work in self.works.values() if work.fate in fates]

    def scenes(self) -> tuple[int, int]:
        """Scenes all of whose tasks of this run are over, and scenes that it works on."""
        asked: Counter[str] = Counter()
        open_: Counter[str] = Counter()
        for work in self.works.values():
            if work.unit is not None and work.fate != "there":
                asked[work.unit] += 1
                open_[work.unit] += work.fate in ("pending", "running")
        return sum(not open_[scene] for scene in asked), len(asked)

    def seconds_left(self, before: Mapping[str, float]) -> float | None:
        """An estimate by how long each stage took so far, or ``before`` this run; None without.

        Stages of the whole set run alone, those of scenes ``num_workers`` at once. A stage of
        which nothing is known is taken to be as long as the mean of the others.
        """
        known = {**before, **self._means()}
        if not known:
            return None
        usual = sum(known.values()) / len(known)
        left = 0.0
        for work in self.of("pending", "running"):
            seconds = known.get(work.kind, usual)
            if work.fate == "running" and work.kind not in known and work.share > 0:
                seconds = (time.monotonic() - work.started) / work.share
            at_once = self.num_workers if work.unit is not None else 1
            left += seconds * (1 - work.share) / at_once
        return left

    def _means(self) -> dict[str, float]:
        spent: dict[str, list[float]] = {}
        for work in self.of("done"):
            spent.setdefault(work.kind, []).append(work.seconds)
        return {kind: sum(each) / len(each) for kind, each in spent.items()}


def _makes_something(task: luigi.Task) -> bool:
    """Whether a task does work of its own, and not only stands for those it needs."""
    if not isinstance(task, ArtifactTask):
        return True
    return task.key() is not None or type(task).run is not ArtifactTask.run


def _first_line(told: str) -> str:
    """The first line of a user's message, of a traceback the last, which names the error."""
    try:
        text: Any = json.loads(told)
    except ValueError:
        text = told
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    if not lines:
        return ""
    is_traceback = any(line.startswith("Traceback (most recent") for line in lines[:3])
    return lines[-1] if is_traceback else lines[0]

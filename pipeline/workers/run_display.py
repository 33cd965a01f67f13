"""How far a run is and what it did: counted, shown while it goes on, told at its end."""

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


_LOG = logging.getLogger("luigi-interface.run")
_BAR = "{percentage:3.0f}% |{bar}| {desc}"
_MOST_SHOWN = 3
_SAMPLE = 5
"""Earlier artifacts of a stage that are looked at, to know how long it takes."""


class RunDisplay:
    """Shows a tally whenever it is asked to, as often as makes sense."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._bar: tqdm[Never] | None = None
        self._last = time.monotonic()
        self._before: dict[str, float] = {}
        self._told: set[str] = set()

    def begin(self) -> None:
        """Look up how long stages took before, and show the bar where there is a terminal."""
        for work in self._tally.of("pending"):
            key = _key_of(work)
            if key is not None and work.kind not in self._before:
                seconds = _recorded(key)
                if seconds is not None:
                    self._before[work.kind] = seconds
        if sys.stderr.isatty() and self._tally.of("pending"):
            tqdm.monitor_interval = 0  # Its thread would be lost in every forked task.
            _write_over_bar(True)
            self._bar = tqdm(total=1.0, bar_format=_BAR, dynamic_ncols=True, leave=False)
            self.show()

    def show(self) -> None:
        """Draw the bar; without a terminal, log a line when it is time."""
        if self._bar is not None:
            self._bar.set_description_str(self.line(), refresh=False)
            # An estimate that grows must not take the bar back.
            self._bar.n = max(self._bar.n, self._share())
            self._bar.refresh()
        elif time.monotonic() - self._last >= LOG_EVERY_SECONDS and self._tally.of("running"):
            self._last = time.monotonic()
            _LOG.info("%s", self.line())

    def finished(self, work: Work) -> None:
        """Say so when the last task of a stage is over."""
        if self._tally.open[work.kind] or work.kind in self._told or _key_of(work) is None:
            return
        self._told.add(work.kind)
        done = [one for one in self._tally.of("done") if one.kind == work.kind]
        if done:
            spent = duration(sum(one.seconds for one in done))
            _LOG.info("%s: %d done in %s of work", work.kind, len(done), spent)

    def end(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
            _write_over_bar(False)

    def line(self) -> str:
        """How far the run is, in words."""
        tally = self._tally
        over, running = tally.of("done", "failed"), tally.of("running")
        scenes_over, scenes = tally.scenes()
        parts = [f"{len(over)} of {len(over) + len(tally.of('pending', 'running'))} tasks"]
        if scenes > 1:
            parts.insert(0, f"{scenes_over} of {scenes} scenes")
        failed = len(tally.of("failed"))
        parts += [f"{failed} failed"] if failed else []
        left = tally.seconds_left(self._before)
        parts += [f"about {duration(left)} left"] if left else []
        shown = [_at(work) for work in running[:_MOST_SHOWN]]
        return "; ".join([", ".join(parts), *([", ".join(shown)] if shown else [])])

    def _share(self) -> float:
        """How much of the run's time has passed, by the estimate of what is left."""
        spent = time.monotonic() - self._tally.began
        left = self._tally.seconds_left(self._before)
        if left is None:
            works = [work for work in self._tally.works.values() if work.fate != "there"]
            return sum(work.share for work in works) / max(1, len(works))
        return spent / max(spent + left, 1e-9)


class _OverBar(logging.Formatter):
    """Begins each message at the start of an empty line, whoever drew a bar there."""

    def __init__(self, inner: logging.Formatter | None) -> None:
        super().__init__()
        self.inner = inner

    def format(self, record: logging.LogRecord) -> str:
        told = self.inner.format(record) if self.inner else record.getMessage()
        return f"\r\033[K{told}"


def _write_over_bar(is_shown: bool) -> None:
    """Have what is logged, here and in tasks forked from here, begin on a line of its own."""
    for handler in logging.getLogger("luigi-interface").handlers:
        formatter = handler.formatter
        if is_shown:
            handler.setFormatter(_OverBar(formatter))
        elif isinstance(formatter, _OverBar):
            handler.setFormatter(formatter.inner)


def _key_of(work: Work) -> ArtifactKey | None:
    return work.task.key() if isinstance(work.task, ArtifactTask) else None


def _at(work: Work) -> str:
    done, total = work.slot.read()
    return f"{work.title} {done}/{total}" if total else work.title


def _recorded(key: ArtifactKey) -> float | None:
    """Seconds that a stage's artifacts took before, the median of a few; None without any."""
    stage = next((up for up in key.folder.parents if up.name == key.stage), None)
    found: list[float] = []
    for path in _metadata(stage) if stage is not None else ():
        try:
            content: Mapping[str, float] = json.loads(path.read_text(encoding="utf-8"))
            found.append(float(content["wall_seconds"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if len(found) == _SAMPLE:
            break
    return median(found) if found else None


def _metadata(stage: Path) -> Iterator[Path]:
    for pattern in (f"*/{METADATA}", f"*/*/{METADATA}"):
        yield from stage.glob(pattern)


_MOST_FAILED = 10
_LONGEST_ERROR = 120


def summary(tally: Tally) -> str:
    """Stages with what ran, was there, failed or was left, times, memory, and the results."""
    return "\n".join(_lines(tally))


def _lines(tally: Tally) -> Iterator[str]:
    works, failed = list(tally.works.values()), tally.of("failed")
    names = " ".join(dict.fromkeys(root.task_family for root in tally.roots))
    left = tally.of("pending", "running")
    spent = duration(time.monotonic() - tally.began)
    if all(work.fate == "there" for work in works):
        yield f"{names}: nothing to do, everything was there already"
    else:
        how = "failed" if failed else "stopped" if left else "done"
        ended = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
        peak = max([ended, *(_peak_mb(work) for work in tally.of("done"))])
        yield f"{names}: {how} in {spent}; no process took more than {peak} MB of memory"
        yield from (f"  {line}" for line in table(list(_rows(works))))
    if failed:
        yield "failed:"
        yield from (f"  {_told(work)}" for work in failed[:_MOST_FAILED])
        if len(failed) > _MOST_FAILED:
            yield f"  ... and {len(failed) - _MOST_FAILED} more"
    elif not left:
        yield from (f"results: {place}" for place in _places(tally))


def _rows(works: Sequence[Work]) -> Iterator[list[str]]:
    yield ["stage", "ran", "were there", "failed", "not run", "time", "longest", "memory", ""]
    kinds: dict[str, list[Work]] = {}
    in_order = sorted(works, key=lambda work: work.started or float("inf"))
    for work in in_order:
        kinds.setdefault(work.kind, []).append(work)
    for kind, same in kinds.items():
        ran = [work for work in same if work.fate == "done"]
        counts = [
            len(ran),
            *(sum(work.fate in fates for work in same) for fates in (("there",), ("failed",))),
            sum(work.fate in ("pending", "running") for work in same),
        ]
        longest = max(ran, key=lambda work: work.seconds, default=None)
        peak = max((_peak_mb(work) for work in ran), default=0)
        yield [
            kind,
            *(str(count or "-") for count in counts),
            duration(sum(work.seconds for work in ran)) if ran else "-",
            duration(longest.seconds) if longest else "-",
            f"{peak} MB" if peak else "-",
            longest.unit or "" if longest and len(ran) > 1 else "",
        ]


def _peak_mb(work: Work) -> int:
    key = work.task.key() if isinstance(work.task, ArtifactTask) else None
    content = read_metadata(key.folder) if key else None
    return int((content or {}).get("peak_memory_mb", 0))


def _told(work: Work) -> str:
    log = _log_of(work)
    error = textwrap.shorten(work.error, _LONGEST_ERROR, placeholder="...")
    return f"{work.title}: {error}" + (f" (log: {log})" if log else "")


def _log_of(work: Work) -> Path | None:
    key = work.task.key() if isinstance(work.task, ArtifactTask) else None
    path = artifact_log(key, work.unit) if key else None
    return path if path is not None and path.is_file() else None


def _places(tally: Tally) -> list[Path]:
    """Where what was asked for lies."""
    found = [root.results_at() for root in tally.roots if isinstance(root, ArtifactTask)]
    return [place for place in dict.fromkeys(found) if place is not None]

"""One line over a whole run: a bar on a terminal, every half minute a line in a log."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Never

from tqdm import tqdm

from data.artifacts.store import METADATA, ArtifactKey
from pipeline.base import ArtifactTask
from pipeline.progress import LOG_EVERY_SECONDS
from pipeline.tables import duration
from pipeline.tally import Tally, Work

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

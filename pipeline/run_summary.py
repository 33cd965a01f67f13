"""What a run did, told at its end."""

from __future__ import annotations

import resource
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from data.artifacts.metadata import read_metadata
from pipeline.base import ArtifactTask
from pipeline.tables import duration, table
from pipeline.tally import Tally, Work
from pipeline.task_log import artifact_log

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

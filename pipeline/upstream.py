"""What runs were made from, and where they differ: configs by stage, inputs from outside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.provenance import (
    Catalogue,
    Record,
    config_keys,
    read_catalogue,
    shown,
    shown_both,
)

_NOTHING = "-"
_WIDTH = 40


class Upstream(NamedTuple):
    """An artifact and all it was made from: a record a stage, inputs by place and name."""

    stages: dict[str, Record]
    leaves: dict[str, Any]


class Differences(NamedTuple):
    """By name what each of several runs has, as text, where not all have the same."""

    config: dict[str, tuple[str, ...]]
    leaves: dict[str, tuple[str, ...]]


def upstream_of(record: Record, catalogue: Catalogue | None = None) -> Upstream:
    """By stage the first that is met, which stands for all scenes; and what no stage made.

    ``catalogue`` is that of the record's root; it is read where it is not given.
    """
    catalogue = catalogue or read_catalogue(record.root)
    stages: dict[str, Record] = {}
    leaves: dict[str, Any] = {}
    for one in _ancestors(record, catalogue):
        stages.setdefault(one.stage, one)
        place = " ".join(filter(None, (one.stage, one.scene)))
        for name, identity in one.inputs.items():
            if catalogue.made(identity) is None:
                leaves[f"{place}: {name}"] = identity[:12]
    return Upstream(stages, leaves)


def differences(runs: Sequence[Upstream]) -> Differences:
    """Where the configs and the inputs from outside of runs differ."""
    common = set.intersection(*(set(run.stages) for run in runs))
    configs = [_keys(run, common) for run in runs]
    return Differences(_changed(configs), _changed([run.leaves for run in runs]))


def _keys(run: Upstream, common: set[str]) -> dict[str, Any]:
    """Config by stage and key; a stage that not all runs have is one key alone."""
    found: dict[str, Any] = {}
    for stage, record in run.stages.items():
        if stage in common:
            found[f"{stage}: stage version"] = record.schema_version
            found |= {f"{stage}: {key}": value for key, value in config_keys(record).items()}
        else:
            found[stage] = record.fingerprint[:12]
    return found


def _changed(sides: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    changed = {}
    for name in dict.fromkeys(name for side in sides for name in side):
        values = [side.get(name) for side in sides]
        if any(value != values[0] for value in values):
            changed[name] = tuple(_values(sides, name))
    return changed


def _values(sides: Sequence[Mapping[str, Any]], name: str) -> Iterator[str]:
    """A key's values, each shown against the first's, or that against one that differs."""
    if not all(name in side for side in sides):
        yield from (shown(side[name], _WIDTH) if name in side else _NOTHING for side in sides)
        return
    first, *others = (side[name] for side in sides)
    other = next(value for value in others if value != first)
    yield shown_both(first, other, _WIDTH)[0]
    yield from (shown_both(first, value, _WIDTH)[1] for value in others)


def _ancestors(record: Record, catalogue: Catalogue) -> Iterator[Record]:
    """An artifact and all it was made from, each once, the nearest first."""
    waiting, seen = [record], {record.fingerprint}
    while waiting:
        one = waiting.pop(0)
        yield one
        for identity in one.inputs.values():
            made = catalogue.made(identity)
            if made is not None and made.fingerprint not in seen:
                seen.add(made.fingerprint)
                waiting.append(made)

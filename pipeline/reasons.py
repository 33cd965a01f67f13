"""The artifacts of a run as Luigi would schedule them, and why each would be made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from luigi.task import flatten

from data.artifacts.store import METADATA, ArtifactKey, read_metadata
from pipeline.provenance import (
    Catalogue,
    Record,
    config_keys,
    place_of,
    read_catalogue,
    record_in_store,
    shown,
    shown_both,
    views_of,
)
from pipeline.steps.declaration import step_of
from pipeline.tasks.steps import PipelineTask


@dataclass(frozen=True, eq=False)
class Unit:
    """One artifact of a run: the task that makes it, and whether that is done.

    ``is_asked`` is False for what nothing asks for that a run would make: what is made from it
    is there already. ``root`` is the scene set's output folder, which may be another set's.
    """

    task: str
    key: ArtifactKey
    root: Path
    scene: str | None
    is_done: bool
    is_asked: bool

    @property
    def runs(self) -> bool:
        """Whether a run would make it now."""
        return self.is_asked and not self.is_done


@dataclass
class _Walk:
    """Luigi's own way through a graph: depth first, each task once."""

    tasks: dict[str, PipelineTask] = field(default_factory=dict)
    needs: dict[str, list[str]] = field(default_factory=dict)
    done: dict[str, bool] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)

    def visit(self, task: PipelineTask) -> None:
        """Note a task after all that it needs."""
        if task.task_id in self.needs:
            return
        needed: list[PipelineTask] = flatten(task.requires())
        self.needs[task.task_id] = [one.task_id for one in needed]
        for one in needed:
            self.visit(one)
        self.tasks[task.task_id] = task
        self.done[task.task_id] = task.complete()

    def ask(self, task_id: str) -> None:
        """Note what a run asks for; what a finished task needs is not asked for."""
        if task_id in self.asked:
            return
        self.asked.add(task_id)
        if not self.done[task_id]:
            for needed in self.needs[task_id]:
                self.ask(needed)


def units_of(task: PipelineTask) -> tuple[list[Unit], bool]:
    """The artifacts of ``task`` and all it needs, what is needed first; whether ``task`` is done.

    Raises UserError for whatever the tasks refuse.
    """
    walk = _Walk()
    walk.visit(task)
    walk.ask(task.task_id)
    units: dict[Path, Unit] = {}
    for task_id, one in walk.tasks.items():
        key = one.key()
        if key is not None and key.folder not in units:
            root, scene = place_of(key.folder, key.stage)
            told = (walk.done[task_id], task_id in walk.asked)
            units[key.folder] = Unit(one.task_family, key, root, scene, *told)
    return list(units.values()), walk.done[task.task_id]


class Known:
    """What a graph's artifacts are compared with: the finished ones of the same outputs."""

    def __init__(self, units: Iterable[Unit]) -> None:
        self.units = list(units)
        stages = {unit.key.stage for unit in self.units}
        roots = dict.fromkeys(unit.root for unit in self.units)
        self.catalogues: dict[Path, Catalogue] = {
            root: read_catalogue(root, stages) for root in roots
        }
        for root, catalogue in self.catalogues.items():
            keys = [unit.key for unit in self.units if unit.root == root]
            found = [record for key in keys if (record := record_in_store(key))]
            self.catalogues[root] = catalogue.with_records(found)
        self._by_identity = {unit.key.fingerprint: unit for unit in self.units}
        self._by_identity |= {
            views: unit for unit in self.units if (views := views_of(unit.key)) is not None
        }

    def unit(self, identity: str) -> Unit | None:
        """The unit that an input of another one names; None for what no task makes."""
        return self._by_identity.get(identity)

    @property
    def damaged(self) -> list[str]:
        """Metadata that cannot be read, a line each."""
        return [text for catalogue in self.catalogues.values() for text in catalogue.damaged]


NEVER = "never run"


def why(unit: Unit, known: Known) -> str:
    """Why a unit that is not done would run, in words that are the same for like units."""
    latest = known.catalogues[unit.root].of(unit.key.stage, unit.scene)
    texts = list(_own_state(unit.key))
    if latest and latest[-1].fingerprint != unit.key.fingerprint:
        texts += _changes(latest[-1], unit.key, known)
    return "; ".join(texts) or NEVER


def _own_state(key: ArtifactKey) -> Iterator[str]:
    """What is wrong with the artifact itself, where a run has begun or finished it."""
    if not key.folder.is_dir():
        return
    if not (key.folder / METADATA).exists():
        yield "begun and not finished"
        return
    content = read_metadata(key.folder)
    if content is None or content.get("fingerprint") != key.fingerprint:
        yield f"{METADATA} is damaged"
        return
    files = content.get("files", {})
    for name, entry in files.items():
        path = key.folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != entry["bytes"]:
            has = "is missing" if found is None else f"has {found} bytes"
            yield f"damaged: {name} {has}, recorded were {entry['bytes']}"
            return


def _changes(old: Record, key: ArtifactKey, known: Known) -> list[str]:
    """What differs between an artifact and the key of another of its stage."""
    texts: Counter[str] = Counter()
    if old.schema_version != key.schema_version:
        texts[f"stage version from {old.schema_version} to {key.schema_version}"] += 1
    texts.update(_config_changes(old, key))
    texts.update(_input_changes(old, key, known))
    return [text if number == 1 else f"{text} ({number} of them)" for text, number in texts.items()]


def _config_changes(old: Record, key: ArtifactKey) -> Iterator[str]:
    before, after = config_keys(old), config_keys(key)
    for name in dict.fromkeys((*before, *after)):
        if name not in before:
            yield f"{name} is new: {shown(after[name])}"
        elif name not in after:
            yield f"{name} is gone, was {shown(before[name])}"
        elif before[name] != after[name]:
            one, two = shown_both(before[name], after[name])
            yield f"{name} from {one} to {two}"


def _input_changes(old: Record, key: ArtifactKey, known: Known) -> Iterator[str]:
    step = step_of(key.stage)
    leaves = step.told() if step is not None else {}
    for name in dict.fromkeys((*old.inputs, *key.inputs)):
        kind = name.split(" ")[0]  # "labels <scene>" is one of many inputs of a kind.
        if name not in old.inputs:
            yield f"input {kind} added"
        elif name not in key.inputs:
            yield f"input {kind} removed"
        elif old.inputs[name] != key.inputs[name]:
            yield _input_change(kind, (old.inputs[name], key.inputs[name]), leaves, known)


def _input_change(
    kind: str, identities: tuple[str, str], leaves: Mapping[str, str], known: Known
) -> str:
    before, after = identities
    unit = known.unit(after)
    if unit is None:
        told = f" ({leaves[kind]})" if kind in leaves else ""
        return f"input {kind} changed{told}"
    if unit.runs:
        return f"input {kind}: {unit.task} runs anew"
    made = known.catalogues[unit.root].made(before)
    causes = _changes(made, unit.key, known) if made is not None else []
    told = f" ({'; '.join(causes)})" if causes else ""
    return f"input {kind}: another of {unit.task}, made before{told}"

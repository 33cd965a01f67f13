"""The artifacts that a task and all it needs make, as Luigi would schedule them.

Stages, scenes and what needs what are those of the tasks themselves; nothing is listed again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from luigi.task import flatten

from data.artifacts.store import ArtifactKey
from pipeline.base import PipelineTask
from pipeline.provenance import Catalogue, place_of, read_catalogue, views_of
from pipeline.scene_caches import record_in_store


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

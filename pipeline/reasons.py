"""Artifacts that a task would make, found or required by it, and the reason why each would be made.

``planned_artifacts`` walks the graph of Luigi tasks. ``why`` compares an artifact that does not
exist with the latest finished one of the same step and scene, and says what differs.
"""

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
class PlannedArtifact:
    """One artifact of a run, with the name of the task that makes it.

    Attributes:
        task: name of the Luigi task.
        key: the artifact's folder and fingerprint.
        root: output folder of its scene set; a student may come from another set.
        scene: None for an artifact of the whole set.
        is_done: whether the artifact is finished.
        is_required: False where everything made from the artifact is finished, so that a run
            would not make it.
    """

    task: str
    key: ArtifactKey
    root: Path
    scene: str | None
    is_done: bool
    is_required: bool

    @property
    def runs(self) -> bool:
        """Whether a run would make the artifact now."""
        return self.is_required and not self.is_done


@dataclass
class _TaskGraph:
    """The graph of tasks, walked as Luigi does: depth first, each task once."""

    tasks: dict[str, PipelineTask] = field(default_factory=dict)
    needs: dict[str, list[str]] = field(default_factory=dict)
    done: dict[str, bool] = field(default_factory=dict)
    required: set[str] = field(default_factory=set)

    def visit(self, task: PipelineTask) -> None:
        """Add a task after all tasks that it requires."""
        if task.task_id in self.needs:
            return
        required_tasks: list[PipelineTask] = flatten(task.requires())
        self.needs[task.task_id] = [required.task_id for required in required_tasks]
        for required in required_tasks:
            self.visit(required)
        self.tasks[task.task_id] = task
        self.done[task.task_id] = task.complete()

    def require(self, task_id: str) -> None:
        """Mark a task as required; a finished task does not require its inputs."""
        if task_id in self.required:
            return
        self.required.add(task_id)
        if not self.done[task_id]:
            for needed in self.needs[task_id]:
                self.require(needed)


def planned_artifacts(task: PipelineTask) -> tuple[list[PlannedArtifact], bool]:
    """The artifacts of ``task`` and of all tasks it requires, inputs first, and whether it is done.

    Raises UserError where a task refuses its parameters.
    """
    graph = _TaskGraph()
    graph.visit(task)
    graph.require(task.task_id)
    artifacts: dict[Path, PlannedArtifact] = {}
    for task_id, planned_task in graph.tasks.items():
        key = planned_task.key()
        if key is not None and key.folder not in artifacts:
            root, scene = place_of(key.folder, key.stage)
            flags = (graph.done[task_id], task_id in graph.required)
            artifacts[key.folder] = PlannedArtifact(
                planned_task.task_family, key, root, scene, *flags
            )
    return list(artifacts.values()), graph.done[task.task_id]


class FinishedArtifacts:
    """Finished artifacts in the output folders of planned ones, by root and by fingerprint."""

    def __init__(self, artifacts: Iterable[PlannedArtifact]) -> None:
        self.artifacts = list(artifacts)
        stages = {planned.key.stage for planned in self.artifacts}
        roots = dict.fromkeys(planned.root for planned in self.artifacts)
        self.catalogues: dict[Path, Catalogue] = {
            root: read_catalogue(root, stages) for root in roots
        }
        for root, catalogue in self.catalogues.items():
            keys = [planned.key for planned in self.artifacts if planned.root == root]
            records = [record for key in keys if (record := record_in_store(key))]
            self.catalogues[root] = catalogue.with_records(records)
        self._by_identity = {planned.key.fingerprint: planned for planned in self.artifacts}
        self._by_identity |= {
            views: planned
            for planned in self.artifacts
            if (views := views_of(planned.key)) is not None
        }

    def planned(self, identity: str) -> PlannedArtifact | None:
        """The planned artifact with this fingerprint; None where no task makes it."""
        return self._by_identity.get(identity)

    @property
    def damaged(self) -> list[str]:
        """One line for each metadata file that cannot be read."""
        return [text for catalogue in self.catalogues.values() for text in catalogue.damaged]


NEVER = "never run"


def why(artifact: PlannedArtifact, finished: FinishedArtifacts) -> str:
    """Why an unfinished artifact would be made.

    The text is the same for artifacts with the same reason, so that they can be counted.
    """
    latest = finished.catalogues[artifact.root].of(artifact.key.stage, artifact.scene)
    texts = list(_own_state(artifact.key))
    if latest and latest[-1].fingerprint != artifact.key.fingerprint:
        texts += _changes(latest[-1], artifact.key, finished)
    return "; ".join(texts) or NEVER


def _own_state(key: ArtifactKey) -> Iterator[str]:
    """What is damaged or unfinished about the artifact itself."""
    if not key.folder.is_dir():
        return
    if not (key.folder / METADATA).exists():
        yield "begun, not finished"
        return
    content = read_metadata(key.folder)
    if content is None or content.get("fingerprint") != key.fingerprint:
        yield f"{METADATA} is damaged"
        return
    files = content.get("files", {})
    for name, entry in files.items():
        path = key.folder / name
        num_bytes = path.stat().st_size if path.is_file() else None
        if num_bytes != entry["bytes"]:
            problem = "is missing" if num_bytes is None else f"has {num_bytes} bytes"
            yield f"damaged: {name} {problem}, expected {entry['bytes']}"
            return


def _changes(old: Record, key: ArtifactKey, finished: FinishedArtifacts) -> list[str]:
    """Differences between a finished artifact and the key of another of its step."""
    texts: Counter[str] = Counter()
    if old.schema_version != key.schema_version:
        texts[f"stage version from {old.schema_version} to {key.schema_version}"] += 1
    texts.update(_config_changes(old, key))
    texts.update(_input_changes(old, key, finished))
    return [text if number == 1 else f"{text} ({number} of them)" for text, number in texts.items()]


def _config_changes(old: Record, key: ArtifactKey) -> Iterator[str]:
    before, after = config_keys(old), config_keys(key)
    for name in dict.fromkeys((*before, *after)):
        if name not in before:
            yield f"{name} is new: {shown(after[name])}"
        elif name not in after:
            yield f"{name} is gone, was {shown(before[name])}"
        elif before[name] != after[name]:
            old_text, new_text = shown_both(before[name], after[name])
            yield f"{name} from {old_text} to {new_text}"


def _input_changes(old: Record, key: ArtifactKey, finished: FinishedArtifacts) -> Iterator[str]:
    step = step_of(key.stage)
    leaves = step.explanations() if step is not None else {}
    for name in dict.fromkeys((*old.inputs, *key.inputs)):
        kind = name.split(" ")[0]  # "labels <scene>" is one of many inputs of a kind.
        if name not in old.inputs:
            yield f"input {kind} added"
        elif name not in key.inputs:
            yield f"input {kind} removed"
        elif old.inputs[name] != key.inputs[name]:
            yield _input_change(kind, (old.inputs[name], key.inputs[name]), leaves, finished)


def _input_change(
    kind: str, identities: tuple[str, str], leaves: Mapping[str, str], finished: FinishedArtifacts
) -> str:
    before, after = identities
    artifact = finished.planned(after)
    if artifact is None:
        detail = f" ({leaves[kind]})" if kind in leaves else ""
        return f"input {kind} changed{detail}"
    if artifact.runs:
        return f"input {kind}: {artifact.task} runs anew"
    earlier = finished.catalogues[artifact.root].made(before)
    causes = _changes(earlier, artifact.key, finished) if earlier is not None else []
    detail = f" ({'; '.join(causes)})" if causes else ""
    return f"input {kind}: another artifact of {artifact.task}, already finished{detail}"

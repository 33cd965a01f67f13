"""Provenance: records of finished artifacts, what they were made from, and where runs differ."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from data.artifacts.object_store import StoragePath
from data.artifacts.store import METADATA, ArtifactKey, read_metadata
from data.errors import ArtifactError, UserError
from data.jsonio import read_json
from pipeline.config import flat
from pipeline.plan import cache_root
from pipeline.steps import STEPS
from pipeline.steps.declaration import section_model
from pipeline.steps.scans import PREPARE_SCENE, views_identity

POINTER = "latest.json"
_REMEDY = "Remove the folder; the next run makes it again."
_WHAT = "the metadata of a finished artifact"


@dataclass(frozen=True, eq=False)
class Record:
    """Metadata of one finished artifact.

    ``scene`` is None for an artifact of the whole set; ``root`` is ``<output>/<scene set>``;
    ``seconds`` is wall time; ``num_bytes`` is the size of its files as recorded.
    """

    folder: Path
    root: Path
    stage: str
    scene: str | None
    fingerprint: str
    schema_version: int
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    host: str
    finished: datetime
    seconds: float
    num_bytes: int

    @property
    def title(self) -> str:
        """Stage, scene and the first 12 digits of the fingerprint."""
        return " ".join(filter(None, (self.stage, self.scene, self.fingerprint[:12])))


def read_record(folder: Path) -> Record:
    """Read the record of a finished artifact; ArtifactError for missing or damaged metadata."""
    path = folder / METADATA
    return record_of(folder, read_json(path, _WHAT, _REMEDY, finite=False), path)


def record_of(folder: Path, content: Any, path: StoragePath) -> Record:
    """Make a record of metadata that was read at ``path``; ArtifactError for damaged content."""
    try:
        root, scene = place_of(folder, str(content["stage"]))
        finished = datetime.fromisoformat(content["finished"])
        return Record(
            folder=folder,
            root=root,
            stage=str(content["stage"]),
            scene=scene,
            fingerprint=str(content["fingerprint"]),
            schema_version=int(content["schema_version"]),
            config=dict(content["config"]),
            inputs={str(name): str(value) for name, value in content["inputs"].items()},
            host=str(content["host"]),
            finished=finished if finished.tzinfo else finished.replace(tzinfo=timezone.utc),
            seconds=float(content["wall_seconds"]),
            num_bytes=sum(int(entry["bytes"]) for entry in content["files"].values()),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise ArtifactError(str(path), _WHAT, problem, _REMEDY) from error


def place_of(folder: Path, stage: str) -> tuple[Path, str | None]:
    """The scene set's output folder that holds an artifact, and the artifact's scene.

    Raises ValueError when no parent folder has the stage's name.
    """
    for parent in folder.parents:
        if parent.name == stage:
            parts = folder.relative_to(parent).parts
            # A scene's artifact is <scene>/<fingerprint>, a room of a set <fingerprint>/data/<id>.
            scene = {1: None, 2: parts[0]}.get(len(parts), parts[-1])
            return parent.parent, scene
    raise ValueError(f"it lies in no folder named {stage!r}")


@dataclass(frozen=True, eq=False)
class Catalogue:
    """All finished artifacts in a scene set's output, oldest first, and errors of damaged ones."""

    records: tuple[Record, ...]
    damaged: tuple[str, ...]

    def with_records(self, more: Iterable[Record]) -> Catalogue:
        """A catalogue with further records."""
        records = sorted((*self.records, *more), key=lambda record: record.finished)
        return Catalogue(tuple(records), self.damaged)

    @cached_property
    def _by_identity(self) -> dict[str, Record]:
        prepared = [record for record in self.records if record.stage == "prepare_scene"]
        views = {
            views_fingerprint: record
            for record in prepared
            if (views_fingerprint := views_of(record))
        }
        return {**views, **{record.fingerprint: record for record in self.records}}

    @cached_property
    def _by_place(self) -> dict[tuple[str, str | None], list[Record]]:
        places: dict[tuple[str, str | None], list[Record]] = {}
        for record in self.records:
            places.setdefault((record.stage, record.scene), []).append(record)
        return places

    def made(self, identity: str) -> Record | None:
        """The artifact with the fingerprint that an input names; None for other content."""
        return self._by_identity.get(identity)

    def of(self, stage: str, scene: str | None) -> list[Record]:
        """The artifacts of one stage and scene, oldest first."""
        return self._by_place.get((stage, scene), [])


def views_of(made: Record | ArtifactKey) -> str | None:
    """Fingerprint of a prepared scene's views; None for any other artifact."""
    config, scan = made.config, made.inputs.get("scan")
    if (
        made.stage != PREPARE_SCENE.name
        or scan is None
        or not {"camera", "max_views"} <= set(config)
    ):
        return None
    return views_identity(made.schema_version, config["camera"], config["max_views"], scan)


def read_catalogue(root: Path, stages: Collection[str] | None = None) -> Catalogue:
    """Read the finished artifacts below ``<output>/<scene set>``, of some stages or of all.

    Errors of damaged metadata go to ``damaged`` and are not raised; a missing folder is empty.
    """
    records, damaged = [], []
    for path in _metadata_files(root):
        if stages is None or path.relative_to(root).parts[0] in stages:
            try:
                records.append(read_record(path.parent))
            except UserError as error:
                damaged.append(str(error))
    return Catalogue((), tuple(damaged)).with_records(records)


def _metadata_files(root: Path) -> Iterator[Path]:
    for pattern in ("*/*", "*/*/*", "generate_rooms/*/data/*"):
        yield from sorted(root.glob(f"{pattern}/{METADATA}"))


def record_in_store(key: ArtifactKey) -> Record | None:
    """The record of a finished artifact in an object store; None for any other artifact."""
    content = key.remote.manifest() if key.remote is not None else None
    if key.remote is None or content is None:
        return None
    return record_of(key.folder, content, key.remote.folder / METADATA)


def input_in_store(record: Record, name: str, identity: str) -> Record | None:
    """The record of an artifact's input that lies in the object store; None elsewhere."""
    step = STEPS.get(record.stage)
    source_step = (
        next((step_input.step for step_input in step.inputs if step_input.name == name), "")
        if step
        else ""
    )
    in_store = source_step in STEPS and STEPS[source_step].in_object_store
    cache = cache_root() if in_store and record.scene is not None else None
    if cache is None:
        return None
    parts = (source_step, str(record.scene), identity[:12])
    folder = cache / "/".join((record.root.name, *parts))
    content = read_metadata(folder)
    if content is None or content.get("fingerprint") != identity:
        return None
    return record_of(record.root.joinpath(*parts), content, folder / METADATA)


def artifact_of(path: Path) -> Record:
    """The artifact that a path names: its folder, a file in it, or latest results.

    Latest results are the files at ``<output>/<scene set>/``, and that folder itself. Raises
    UserError for a path without an artifact, ArtifactError for damaged metadata.
    """
    path = path.absolute()
    if not path.exists():
        raise UserError(f"{path}: no such file or folder. Name an artifact or a file in one.")
    for folder in (path, *path.parents):
        if (folder / METADATA).is_file():
            return read_record(folder)
    folder = path if path.is_dir() else path.parent
    if (folder / POINTER).is_file():
        return _published(folder, path)
    raise UserError(
        f"{path}: expected a finished artifact (a folder with {METADATA}), a file in one or "
        f"results beside {POINTER}, found neither. Artifacts lie in "
        "<output>/<scene set>/<stage>/[<scene>/]<fingerprint>."
    )


def _published(folder: Path, path: Path) -> Record:
    pointer_path = folder / POINTER
    pointer = read_json(pointer_path, "a pointer to a report", "Run RunAll again.")
    named = pointer.get("report") if isinstance(pointer, dict) else None
    if not isinstance(named, str):
        raise ArtifactError(pointer_path, "the key 'report'", "none", "Run RunAll again.")
    if path.is_file() and path.name not in {POINTER, *pointer.get("files", {})}:
        raise UserError(f"{path}: expected a result that {pointer_path} names, found another file.")
    # The pointer's folder is where the run was made, and outputs may be moved since. Results of a
    # transfer lie one level below its artifacts.
    roots = (folder, folder.parent)
    candidates = (root / "report" / named[:12] for root in roots)
    return read_record(
        next(
            (folder_of_report for folder_of_report in candidates if folder_of_report.is_dir()),
            roots[0] / "report" / named[:12],
        )
    )


def config_keys(made: Record | ArtifactKey) -> dict[str, Any]:
    """An artifact's config by the keys of ``--overrides``; keys it does not take, unchanged."""
    step = STEPS.get(made.stage)
    model = section_model(step) if step is not None else None
    if step is None or model is None:
        return flat(made.config)
    taken = {field.alias or name for name, field in model.model_fields.items()}
    return flat({f"{step.section}.{k}" if k in taken else k: v for k, v in made.config.items()})


def shown(value: Any, limit: int = 60) -> str:
    """A JSON value on one line, shortened to ``limit`` characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def shown_both(before: Any, after: Any, limit: int = 60) -> tuple[str, str]:
    """Texts of two values that differ; for long lists, the number of entries only one has."""
    texts = shown(before, limit), shown(after, limit)
    is_long = any(text.endswith("...") for text in texts)
    if not (is_long and isinstance(before, list) and isinstance(after, list)):
        return texts
    first, second = ({json.dumps(entry) for entry in side} for side in (before, after))
    return (
        f"{len(before)} entries ({len(first - second)} only here)",
        f"{len(after)} entries ({len(second - first)} only here)",
    )


_NOTHING = "-"
_WIDTH = 40


class Upstream(NamedTuple):
    """Provenance of an artifact.

    ``stages`` has one record for each stage, ``leaves`` the inputs that no stage made, by stage and
    name.
    """

    stages: dict[str, Record]
    leaves: dict[str, Any]


class Differences(NamedTuple):
    """Values that differ between runs, as texts by name, one for each run."""

    config: dict[str, tuple[str, ...]]
    leaves: dict[str, tuple[str, ...]]


def upstream_of(record: Record, catalogue: Catalogue | None = None) -> Upstream:
    """Provenance of an artifact; the first record found of a stage stands for all its scenes.

    ``catalogue`` is that of the record's root; it is read when omitted.
    """
    catalogue = catalogue or read_catalogue(record.root)
    stages: dict[str, Record] = {}
    leaves: dict[str, Any] = {}
    for ancestor in _ancestors(record, catalogue):
        stages.setdefault(ancestor.stage, ancestor)
        title = " ".join(filter(None, (ancestor.stage, ancestor.scene)))
        for name, identity in ancestor.inputs.items():
            if catalogue.made(identity) is None:
                leaves[f"{title}: {name}"] = identity[:12]
    return Upstream(stages, leaves)


def differences(runs: Sequence[Upstream]) -> Differences:
    """Differences between runs, in their configs and in their inputs from outside."""
    common = set.intersection(*(set(run.stages) for run in runs))
    configs = [_keys(run, common) for run in runs]
    return Differences(_changed(configs), _changed([run.leaves for run in runs]))


def _keys(run: Upstream, common: set[str]) -> dict[str, Any]:
    """Config values by stage and key; one fingerprint for a stage that not all runs have."""
    values: dict[str, Any] = {}
    for stage, record in run.stages.items():
        if stage in common:
            values[f"{stage}: stage version"] = record.schema_version
            values |= {f"{stage}: {key}": value for key, value in config_keys(record).items()}
        else:
            values[stage] = record.fingerprint[:12]
    return values


def _changed(sides: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    changed = {}
    for name in dict.fromkeys(name for side in sides for name in side):
        values = [side.get(name) for side in sides]
        if any(value != values[0] for value in values):
            changed[name] = tuple(_values(sides, name))
    return changed


def _values(sides: Sequence[Mapping[str, Any]], name: str) -> Iterator[str]:
    """A key's value in each run, shown so that the difference to the first run is visible."""
    if not all(name in side for side in sides):
        yield from (shown(side[name], _WIDTH) if name in side else _NOTHING for side in sides)
        return
    first, *others = (side[name] for side in sides)
    other = next(value for value in others if value != first)
    yield shown_both(first, other, _WIDTH)[0]
    yield from (shown_both(first, value, _WIDTH)[1] for value in others)


def _ancestors(record: Record, catalogue: Catalogue) -> Iterator[Record]:
    """An artifact and all that it was made from, each once, nearest first."""
    to_visit, seen = [record], {record.fingerprint}
    while to_visit:
        ancestor = to_visit.pop(0)
        yield ancestor
        for identity in ancestor.inputs.values():
            source = catalogue.made(identity)
            if source is not None and source.fingerprint not in seen:
                seen.add(source.fingerprint)
                to_visit.append(source)

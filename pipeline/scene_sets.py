"""Scene sets (``configs/scene_sets``), and the scenes, splits and places of their data sets.

A scene set says which reader reads a data set, where it lies, and which scenes and queries are
used. Rooms of a generated set are made by the pipeline itself.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.artifacts.store import canonical_json, sha256_of
from data.errors import ConfigError
from data.queries.formats import DEFAULT_FORMAT, FORMATS, SENTENCES, FormatName
from data.queries.hierarchical_search import (
    RULES,
    consecutive,
    houses,
    read_places,
    table_digest,
    within,
)
from data.rooms.ids import scene_id as room_id
from data.types import SPLITS, Split
from pipeline.config import YAML_SUFFIXES, explain, merge, packaged, read_yaml_mapping
from stages.configs import GenerateConfig
from stages.network_configs import TeacherName
from stages.teacher.identity import digest_of_file, find_source, import_from_here

if TYPE_CHECKING:
    from data.queries.classes import ClassTable


READERS = ("scannetpp", "scannet", "matterport", "rgbd")
READER_FUNCTIONS = ("read_scan", "read_split", "read_group_names", "scene_identity")


class SplitFiles(BaseModel):
    """One name or path for each split; "" where a set has no tuning split."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    train: str
    val: str
    tune: str = ""

    def named(self) -> dict[Split, str]:
        """Names by split, without splits that have none."""
        return {split: name for split in SPLITS if (name := getattr(self, split))}


class PublishedWeights(BaseModel):
    """Published weights of a teacher, as hub ids with ``@revision``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    weights: str
    vision_tower: str = ""


class SceneSet(BaseModel):
    """Content of a file in ``configs/scene_sets``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    name: str
    reader: str = "scannetpp"
    """A reader in ``data.readers``, or the import path of a module with the same four functions
    (see docs/adding.md)."""
    generated: bool = False
    """Whether the pipeline generates the rooms (GenerateRooms) and ``data_root`` is unused."""
    version: Literal["", "v1", "v2"] = ""
    """Version of the dataset. ScanNet++'s versions annotate the same scenes differently and their
    files name no version, so artifacts of one version are never used for another."""
    data_root: str = ""
    """Folder of the dataset; may contain environment variables."""
    splits: SplitFiles
    """Names of the split lists."""
    queries: SplitFiles
    """Query files, relative to the dataset's folder unless absolute."""
    query_format: FormatName | Literal["sentences"] = DEFAULT_FORMAT
    """Format of the query files: one of ``data.queries.formats``, or plain sentences."""
    classes: str = ""
    """Class list for query files whose targets are categories; path as for ``queries``."""
    label_table: str = ""
    """Table of the labels that belong to each class of the list (ScanNet's TSV)."""
    places: str = ""
    """Scenes that are rooms of one place, for searches: "house" (Matterport3D's regions), or a JSON
    file of scene ids by place, path as for ``queries``; "" for none."""
    settings: str = ""
    """A file in ``configs/settings`` whose config goes below this set's; "" for none."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Config defaults of this set, merged over the built-in ones and those of ``settings``."""
    published: dict[TeacherName, PublishedWeights] = Field(default_factory=dict)
    """Weights for a teacher whose config names none (``teacher.lisa.weights``)."""
    source: str = ""

    @property
    def reader_digest(self) -> str:
        """Hash of an outside reader's source file, so that a changed reader reads scans again."""
        if self.reader in READERS:
            return ""
        return digest_of_file(find_source(reader_module(self)))[:12]

    @property
    def title(self) -> str:
        """Name and, where it is known, version, as a title for results."""
        return f"{self.name} {self.version}".strip()

    @property
    def has_truth(self) -> bool:
        """Whether the set has ground truth; without it nothing is measured."""
        return self.query_format != SENTENCES

    @property
    def asked(self) -> dict[str, str]:
        """Query format, data set and version, which select the benchmark's scoring rule."""
        dataset = "generated" if self.generated else self.reader
        return {
            "query_format": self.query_format,
            "dataset": dataset,
            "version": self.version,
        }

    def expanded(self, text: str) -> Path:
        """``text`` with environment variables replaced; ConfigError for an unset one."""
        path = os.path.expandvars(os.path.expanduser(text))
        if "$" in path:
            variable = path[path.index("$") :].split("/")[0].strip("${}")
            raise ConfigError(
                f"{self.source}: {text} needs the environment variable {variable}; "
                f"set it to the folder that holds your datasets (export {variable}=...)"
            )
        return Path(path)

    def root(self) -> Path:
        """The dataset's folder, for a set that is not generated; ConfigError when missing."""
        root = self.expanded(self.data_root)
        if not root.is_dir():
            raise ConfigError(
                f"{root}: expected the folder of the dataset (data_root in {self.source}), "
                "found no such folder. Put the dataset there or change data_root."
            )
        return root

    def query_path(self, root: Path, split: Split) -> Path:
        """Path of a split's query file."""
        return root / self.expanded(self.queries.named()[split])

    def class_table(self, root: Path) -> ClassTable | None:
        """The class list; None where the set names none. DataError as ``read_classes``."""
        if not self.classes:
            return None
        from data.queries.classes import read_classes

        table = root / self.expanded(self.label_table) if self.label_table else None
        return read_classes(root / self.expanded(self.classes), table)

    def class_digests(self, root: Path) -> dict[str, str]:
        """SHA-256 of the class list and the label table; the error's name for a missing file."""
        named = {"classes": self.classes, "label_table": self.label_table}
        digests = {}
        for name, text in named.items():
            if text:
                try:
                    digests[name] = sha256_of(root / self.expanded(text))
                except OSError as error:
                    digests[name] = type(error).__name__
        return digests

    def query_records(self, root: Path) -> dict[Split, Any]:
        """Parsed query files by split; the error's name for a file that cannot be read.

        A plan never fails on a broken file; the stage that reads the file reports it. A file that
        is not JSON is represented by its SHA-256, in formats other than the default.
        """
        records: dict[Split, Any] = {}
        for split in self.queries.named():
            path = self.query_path(root, split)
            try:
                records[split] = json.loads(path.read_bytes())
            except OSError as error:
                records[split] = type(error).__name__
            except ValueError as error:
                is_default = self.query_format == DEFAULT_FORMAT
                records[split] = type(error).__name__ if is_default else sha256_of(path)
        return records

    def queries_of(self, records: Mapping[Split, Any], scene_id: str) -> list[Any]:
        """Content of ``query_records`` that one scene's queries are made from.

        Content that is not a list of records counts for every scene in formats other than the
        default; plain sentences are asked about every scene.
        """
        if self.query_format == SENTENCES:
            return list(records.values())
        is_default = self.query_format == DEFAULT_FORMAT
        keys = FORMATS[self.query_format].scene_keys
        content_of_scene: list[Any] = [] if is_default else [self.query_format]
        for content in records.values():
            if isinstance(content, list):
                entries = [entry for entry in content if isinstance(entry, dict)]
                content_of_scene += [
                    e for e in entries if any(e.get(key) == scene_id for key in keys)
                ]
            elif not is_default:
                content_of_scene.append(content)
        return content_of_scene


def reader_module(scene_set: SceneSet) -> str:
    """Import path of a set's reader; ConfigError where it is missing or lacks a function."""
    if scene_set.reader in READERS:
        return f"data.readers.{scene_set.reader}"
    import_from_here()
    try:
        module = importlib.import_module(scene_set.reader)
    except ImportError as error:
        raise ConfigError(
            f"{scene_set.source}: reader: expected one of {', '.join(READERS)}, or a module that "
            f"can be imported, found {scene_set.reader!r} ({error})"
        ) from error
    missing = [name for name in READER_FUNCTIONS if not callable(getattr(module, name, None))]
    if missing:
        raise ConfigError(
            f"{scene_set.source}: reader {scene_set.reader!r} lacks {', '.join(missing)}; a "
            f"reader has {', '.join(READER_FUNCTIONS)}"
        )
    return scene_set.reader


def packaged_sets() -> dict[str, Path]:
    """Names and files of the scene sets in ``configs/scene_sets``."""
    return packaged("scene_sets")


def is_scene_set(name: str) -> bool:
    """Whether a name is a packaged scene set or a YAML file."""
    return name.endswith(YAML_SUFFIXES) or name in packaged_sets()


def load_scene_set(name: str) -> SceneSet:
    """Load a packaged set by name, or a ``.yaml`` file by path; ConfigError for other names."""
    path = Path(name) if name.endswith(YAML_SUFFIXES) else packaged_sets().get(name)
    if path is None or not path.is_file():
        names = ", ".join(packaged_sets())
        raise ConfigError(
            f"--scene-set: no scene set {name!r}. Known sets: {names}; "
            "name one of these, or give the path of a .yaml file."
        )
    content = read_yaml_mapping(path)
    try:
        scene_set = SceneSet.model_validate({**content, "name": path.stem, "source": str(path)})
    except ValidationError as error:
        raise explain(error, str(path), SceneSet) from error
    _check(scene_set, path)
    below = _settings(scene_set)
    return scene_set.model_copy(update={"config": merge(below, scene_set.config)})


def _settings(scene_set: SceneSet) -> dict[str, Any]:
    """The config that a set's ``settings`` names; ConfigError for an unknown name."""
    if not scene_set.settings:
        return {}
    known = packaged("settings")
    if scene_set.settings not in known:
        raise ConfigError(
            f"{scene_set.source}: settings: expected one of {', '.join(known)}, found "
            f"{scene_set.settings!r}"
        )
    return read_yaml_mapping(known[scene_set.settings])


def _check(scene_set: SceneSet, path: Path) -> None:
    """Refuse fields that contradict each other."""
    splits, queries = (", ".join(files.named()) for files in (scene_set.splits, scene_set.queries))
    if splits != queries:
        raise ConfigError(
            f"{path}: splits names {splits}, but queries names {queries}. Give each split both "
            "a list of scenes and a query file."
        )
    if scene_set.generated and scene_set.query_format != DEFAULT_FORMAT:
        raise ConfigError(
            f"{path}: query_format: expected {DEFAULT_FORMAT} for generated rooms, found "
            f"{scene_set.query_format}"
        )
    if not scene_set.generated and not scene_set.data_root:
        raise ConfigError(
            f"{path}: expected data_root, the folder that holds the dataset, found none. Add it."
        )
    if scene_set.generated and scene_set.version:
        raise ConfigError(f"{path}: version is for a dataset in data_root, not for generated rooms")
    if scene_set.reader == "rgbd" and scene_set.has_truth:
        raise ConfigError(
            f"{path}: scans of reader rgbd have no annotation to measure against: expected "
            f"query_format: {SENTENCES}, found {scene_set.query_format}"
        )


@dataclass(frozen=True, eq=False)
class Dataset:
    """Scenes and query files of a scene set.

    Attributes:
        scene_set: the scene set.
        generate: config of generated rooms, which gives their number and seed.
        room_words: further room names that searches may use, by kind of room.
        generated_root: folder of the generated rooms; None for a data set on disk.
    """

    scene_set: SceneSet
    generate: GenerateConfig
    room_words: Mapping[str, Sequence[str]]
    generated_root: Path | None

    @cached_property
    def reader(self) -> ModuleType:
        """The reader module; ConfigError where it cannot be imported."""
        return importlib.import_module(reader_module(self.scene_set))

    @cached_property
    def root(self) -> Path:
        """The data set's folder."""
        return self.generated_root or self.scene_set.root()

    @cached_property
    def by_split(self) -> dict[Split, tuple[str, ...]]:
        """Scene ids by split; ConfigError for a scene in two splits of a set with ground truth."""
        if self.scene_set.generated:
            cfg = self.generate
            if cfg.tune_rooms and "tune" not in self.scene_set.splits.named():
                raise ConfigError(
                    f"{self.scene_set.source}: generate.tune_rooms is {cfg.tune_rooms}, but "
                    "splits and queries name no tuning split. Add tune to both."
                )
            numbers = {s: range(cfg.rooms(s)) for s in SPLITS}
            return {s: tuple(room_id(cfg.seed, s, i) for i in numbers[s]) for s in SPLITS}
        named = self.scene_set.splits.named()
        scenes: dict[Split, tuple[str, ...]] = dict.fromkeys(SPLITS, ())
        scenes |= {s: tuple(self.reader.read_split(self.root, named[s])) for s in named}
        for first, second in itertools.combinations(SPLITS, 2) if self.scene_set.has_truth else ():
            shared = sorted(set(scenes[first]) & set(scenes[second]))
            if shared:
                raise ConfigError(
                    f"{self.scene_set.source}: {len(shared)} scenes are in both splits {first} and "
                    f"{second} ({', '.join(shared[:3])} ...); the scenes for training, tuning and "
                    "measuring must differ. Correct the split lists."
                )
        return scenes

    def scenes(self, *splits: Split) -> tuple[str, ...]:
        """Scene ids of the splits, of all when none is named, in the order of the split lists.

        Each id appears once: a set without ground truth may train on the scenes it is asked about.
        """
        named = (scene for split in splits or SPLITS for scene in self.by_split[split])
        return tuple(dict.fromkeys(named))

    @cached_property
    def places(self) -> dict[Split, dict[str, tuple[str, ...]]]:
        """Scene ids by place, by split; empty where no place of several rooms is searched."""
        size, named = self.generate.rooms_per_place, self.scene_set.places
        if self.scene_set.generated:
            by_split = {s: consecutive(self.by_split[s], size) if size else {} for s in SPLITS}
        elif named == "house":
            by_split = {s: houses(self.by_split[s]) for s in SPLITS}
        else:
            all_places = read_places(self.root / self.scene_set.expanded(named)) if named else {}
            by_split = {s: within(all_places, self.by_split[s]) for s in SPLITS}
        return {split: places for split, places in by_split.items() if places}

    def place_rooms(self, scene_id: str) -> tuple[str, ...]:
        """The rooms of a scene's place; the scene alone where it belongs to none."""
        places = self.places.get(self.split_of(scene_id), {})
        return next((rooms for rooms in places.values() if scene_id in rooms), (scene_id,))

    def split_of(self, scene_id: str) -> Split:
        """The split of a scene; ConfigError for a scene in no split."""
        for split in SPLITS:
            if scene_id in self.by_split[split]:
                return split
        some = ", ".join(self.scenes()[:3])
        raise ConfigError(f"--scene: expected a scene of a split ({some}, ...), found {scene_id!r}")

    def check_truth(self, what: str) -> None:
        """Raise ConfigError, with ``what`` as its subject, where the set has no ground truth."""
        if not self.scene_set.has_truth:
            raise ConfigError(
                f"{what} needs ground truth, but {self.scene_set.source} has none (query_format: "
                f"{self.scene_set.query_format}). RunAll, PredictMasks and the export need none."
            )

    @cached_property
    def query_records(self) -> dict[Split, Any]:
        """Parsed query files by split, see ``SceneSet.query_records``."""
        return self.scene_set.query_records(self.root)

    @cached_property
    def class_digests(self) -> dict[str, str]:
        """SHA-256 of the class list and the label table, where the set names any."""
        return self.scene_set.class_digests(self.root)

    @cached_property
    def search_words(self) -> list[Any]:
        """Words and rules that turn searches of a place into prompts of its rooms."""
        return [RULES, table_digest(), self.room_words]


def digest(content: Any) -> str:
    """SHA-256 of JSON content, independent of the order of its keys."""
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()

"""Scene sets (``configs/scene_sets``), and the scenes, splits and places of their data sets."""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
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
from pipeline.config import YAML_SUFFIXES, explain, read_yaml_mapping
from stages.configs import GenerateConfig
from stages.network_configs import TeacherName
from stages.teacher.identity import digest_of_file, find_source, import_from_here

if TYPE_CHECKING:
    from data.queries.classes import ClassTable


READERS = ("scannetpp", "scannet", "matterport", "rgbd")
READER_FUNCTIONS = ("read_scan", "read_split", "read_group_names", "scene_identity")


class SplitFiles(BaseModel):
    """One name or path per split; "" where a set has no tuning split."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    train: str
    val: str
    tune: str = ""

    def named(self) -> dict[Split, str]:
        """The splits there are, and their names."""
        return {split: name for split in SPLITS if (name := getattr(self, split))}


class PublishedWeights(BaseModel):
    """Weights of a teacher by hub id, with ``@revision``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    weights: str
    vision_tower: str = ""


class SceneSet(BaseModel):
    """What a file in ``configs/scene_sets`` says."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    name: str
    reader: str = "scannetpp"
    """A reader of ``data.readers``, or the import path of a module of one's own with the same
    functions (see docs/adding.md)."""
    generated: bool = False
    """The rooms are made by the GenerateRooms stage instead of lying in ``data_root``."""
    version: Literal["", "v1", "v2"] = ""
    """Version of the dataset: ScanNet++'s annotate the same scenes differently, and no file says
    which it is of. What is made for one is never used for another."""
    data_root: str = ""
    """Folder of the dataset; environment variables are filled in."""
    splits: SplitFiles
    """Names of the split lists."""
    queries: SplitFiles
    """Query files, relative to the dataset's folder unless absolute."""
    query_format: FormatName | Literal["sentences"] = DEFAULT_FORMAT
    """What the query files look like: a format of ``data.queries``, or sentences alone."""
    classes: str = ""
    """Class list of query files whose targets are categories, relative as they are."""
    label_table: str = ""
    """Table that says which labels belong to a class of the list (ScanNet's TSV)."""
    places: str = ""
    """Which scenes are rooms of one place, for searches: "house" (Matterport3D's regions), or a
    JSON file of scene ids by place, relative as query files are; "" for none."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Defaults of this set, laid over the built-in ones."""
    published: dict[TeacherName, PublishedWeights] = Field(default_factory=dict)
    """Weights of a teacher whose config names none (``teacher.lisa.weights``)."""
    source: str = ""

    @property
    def reader_digest(self) -> str:
        """Hash of the source of a reader from outside, which is read anew when it changes."""
        if self.reader in READERS:
            return ""
        return digest_of_file(find_source(reader_module(self)))[:12]

    @property
    def title(self) -> str:
        """Name and, where it is known, version: what figures are of."""
        return f"{self.name} {self.version}".strip()

    @property
    def has_truth(self) -> bool:
        """Whether anything says what the answers should be; where not, nothing is measured."""
        return self.query_format != SENTENCES

    @property
    def asked(self) -> dict[str, str]:
        """Whose queries these are: what decides by which benchmark's rule they are scored."""
        dataset = "generated" if self.generated else self.reader
        return {
            "query_format": self.query_format,
            "dataset": dataset,
            "version": self.version,
        }

    def expanded(self, text: str) -> Path:
        """``text`` with environment variables filled in; ConfigError for an unset one."""
        path = os.path.expandvars(os.path.expanduser(text))
        if "$" in path:
            variable = path[path.index("$") :].split("/")[0].strip("${}")
            raise ConfigError(
                f"{self.source}: {text} needs the environment variable {variable}; "
                f"set it to the folder that holds your datasets (export {variable}=...)"
            )
        return Path(path)

    def root(self) -> Path:
        """The dataset's folder of a set that is not generated; ConfigError when missing."""
        root = self.expanded(self.data_root)
        if not root.is_dir():
            raise ConfigError(
                f"{root}: expected the folder of the dataset (data_root in {self.source}), "
                "found no such folder. Put the dataset there or change data_root."
            )
        return root

    def query_path(self, root: Path, split: Split) -> Path:
        """Where the queries of a split lie."""
        return root / self.expanded(self.queries.named()[split])

    def class_table(self, root: Path) -> ClassTable | None:
        """The class list; None where the set names none. DataError as of ``read_classes``."""
        if not self.classes:
            return None
        from data.queries.classes import read_classes

        table = root / self.expanded(self.label_table) if self.label_table else None
        return read_classes(root / self.expanded(self.classes), table)

    def class_digests(self, root: Path) -> dict[str, str]:
        """SHA-256 of the class list and the label table; of a missing one its error's name."""
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
        """The query files as parsed; what cannot be read stands as its error's name.

        A plan never fails on a broken file: the stage that reads it does, and says why. A file
        that is no JSON, in a format other than the default, stands as its digest.
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
        """What of ``query_records`` one scene's queries are made from.

        Whatever is not a list of records counts for every scene, in formats other than the
        default; sentences are asked of every scene.
        """
        if self.query_format == SENTENCES:
            return list(records.values())
        is_default = self.query_format == DEFAULT_FORMAT
        keys = FORMATS[self.query_format].scene_keys
        found: list[Any] = [] if is_default else [self.query_format]
        for content in records.values():
            if isinstance(content, list):
                entries = [entry for entry in content if isinstance(entry, dict)]
                found += [e for e in entries if any(e.get(key) == scene_id for key in keys)]
            elif not is_default:
                found.append(content)
        return found


def reader_module(scene_set: SceneSet) -> str:
    """The import path of a set's reader; ConfigError where there is no such module."""
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
    """Names and files of the scene sets that come with the project."""
    folder = Path(str(resources.files("configs"))) / "scene_sets"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def is_scene_set(name: str) -> bool:
    """Whether a name means a scene set: a packaged one, or a YAML file."""
    return name.endswith(YAML_SUFFIXES) or name in packaged_sets()


def load_scene_set(name: str) -> SceneSet:
    """A packaged set by name, or any ``.yaml`` file by path; ConfigError when neither."""
    path = Path(name) if name.endswith(YAML_SUFFIXES) else packaged_sets().get(name)
    if path is None or not path.is_file():
        known = ", ".join(packaged_sets())
        raise ConfigError(
            f"--scene-set: no scene set {name!r}. Known sets: {known}; "
            "a set of your own is given as the path of its .yaml file."
        )
    content = read_yaml_mapping(path)
    try:
        scene_set = SceneSet.model_validate({**content, "name": path.stem, "source": str(path)})
    except ValidationError as error:
        raise explain(error, str(path), SceneSet) from error
    _check(scene_set, path)
    return scene_set


def _check(scene_set: SceneSet, path: Path) -> None:
    """Refuse what fits no other part of the same set."""
    splits, queries = (", ".join(files.named()) for files in (scene_set.splits, scene_set.queries))
    if splits != queries:
        raise ConfigError(
            f"{path}: splits names {splits}, but queries names {queries}. Give each split both "
            "a list of scenes and a query file."
        )
    if scene_set.generated and scene_set.query_format != DEFAULT_FORMAT:
        raise ConfigError(f"{path}: rooms that are generated have queries in {DEFAULT_FORMAT} only")
    if not scene_set.generated and not scene_set.data_root:
        raise ConfigError(f"{path}: data_root is missing: the folder that holds the dataset")
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

    ``generate`` says which rooms are made where they are generated, ``room_words`` which further
    kinds of rooms searches may name. ``generated_root`` is the folder in which rooms are made,
    None for a data set on disk.
    """

    scene_set: SceneSet
    generate: GenerateConfig
    room_words: Mapping[str, Sequence[str]]
    generated_root: Path | None

    @cached_property
    def reader(self) -> ModuleType:
        """The data set's reader module; ConfigError where there is none of its name."""
        return importlib.import_module(reader_module(self.scene_set))

    @cached_property
    def root(self) -> Path:
        """The data set's folder."""
        return self.generated_root or self.scene_set.root()

    @cached_property
    def by_split(self) -> dict[Split, tuple[str, ...]]:
        """Scene ids of each split; ConfigError for a scene in two splits of a set with truth."""
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
        for one, two in itertools.combinations(SPLITS, 2) if self.scene_set.has_truth else ():
            shared = sorted(set(scenes[one]) & set(scenes[two]))
            if shared:
                raise ConfigError(
                    f"{self.scene_set.source}: {len(shared)} scenes are in both splits {one} and "
                    f"{two} ({', '.join(shared[:3])} ...); scenes to train on, to tune on and to "
                    "measure on must be different ones. Mend the split lists."
                )
        return scenes

    def scenes(self, *splits: Split) -> tuple[str, ...]:
        """Scene ids of the splits, in the order of the split lists; of all when none is named.

        Each is there once: a set without truth may learn from the scenes it is asked about.
        """
        named = (scene for split in splits or SPLITS for scene in self.by_split[split])
        return tuple(dict.fromkeys(named))

    @cached_property
    def places(self) -> dict[Split, dict[str, tuple[str, ...]]]:
        """Scene ids by place, by split; empty where no place of several rooms is searched."""
        size, named = self.generate.rooms_per_place, self.scene_set.places
        if self.scene_set.generated:
            found = {s: consecutive(self.by_split[s], size) if size else {} for s in SPLITS}
        elif named == "house":
            found = {s: houses(self.by_split[s]) for s in SPLITS}
        else:
            every = read_places(self.root / self.scene_set.expanded(named)) if named else {}
            found = {s: within(every, self.by_split[s]) for s in SPLITS}
        return {split: places for split, places in found.items() if places}

    def place_rooms(self, scene_id: str) -> tuple[str, ...]:
        """The rooms of a scene's place; the scene alone where it belongs to none."""
        places = self.places.get(self.split_of(scene_id), {})
        return next((rooms for rooms in places.values() if scene_id in rooms), (scene_id,))

    def split_of(self, scene_id: str) -> Split:
        """The split a scene belongs to; ConfigError for a scene of none."""
        for split in SPLITS:
            if scene_id in self.by_split[split]:
                return split
        some = ", ".join(self.scenes()[:3])
        raise ConfigError(f"--scene: {scene_id!r} is in no split (there are {some}, ...)")

    def check_truth(self, what: str) -> None:
        """Raise ConfigError, naming ``what`` needs ground truth, where the set has none."""
        if not self.scene_set.has_truth:
            raise ConfigError(
                f"{what} needs ground truth, but {self.scene_set.source} has none (query_format: "
                f"{self.scene_set.query_format}). RunAll, PredictMasks and the export need none."
            )

    @cached_property
    def query_records(self) -> dict[Split, Any]:
        """The query files as parsed, by split; what cannot be read stands as its error's name."""
        return self.scene_set.query_records(self.root)

    @cached_property
    def class_digests(self) -> dict[str, str]:
        """SHA-256 of the class list and of the label table, where the set names any."""
        return self.scene_set.class_digests(self.root)

    @cached_property
    def search_words(self) -> list[Any]:
        """The words and rules by which searches of a place become prompts of its rooms."""
        return [RULES, table_digest(), self.room_words]


def digest(content: Any) -> str:
    """SHA-256 of content that JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()

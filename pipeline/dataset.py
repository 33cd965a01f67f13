"""A scene set under one experiment: its reader, folder, scenes, splits, places and identities.

Nothing here knows of artifacts but for the folder of generated rooms, which is itself a data set.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from data.artifacts.store import canonical_json
from data.errors import ConfigError
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
from pipeline.scene_sets import SceneSet, reader_module
from stages.configs import GenerateConfig


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

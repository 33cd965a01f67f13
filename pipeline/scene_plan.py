"""What a scene set's scenes and queries are, and where artifacts up to the teacher's lie."""

from __future__ import annotations

import hashlib
import importlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from data.artifacts.object_store import RemoteFolder
from data.artifacts.remote_artifact import Manifests
from data.artifacts.store import ArtifactKey, canonical_json, fingerprint
from data.artifacts.versions import VERSIONS
from data.errors import ConfigError
from data.queries.formats import DEFAULT_FORMAT
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
from pipeline.provenance import views_identity
from pipeline.scene_caches import manifests_of, placed
from pipeline.scene_sets import SceneSet
from stages.configs import Experiment
from stages.teacher.identity import no_features, teacher_identity

once = lru_cache(maxsize=None)
"""Methods of a plan are computed once for each scene: a plan lives as long as its process."""


@dataclass(frozen=True, eq=False)
class ScenePlan:
    """One scene set under one experiment; ``output`` is ``<output root>/<scene set>``.

    ``cache`` is the folder of an object store in which the teacher's masks and the links lie;
    None where they lie in ``output`` as everything else.
    """

    scene_set: SceneSet
    experiment: Experiment
    output: Path
    cache: RemoteFolder | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What a process of its own is sent: the fields, not what was worked out from them."""
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    @cached_property
    def reader(self) -> ModuleType:
        """The dataset's reader module."""
        return importlib.import_module(f"data.readers.{self.scene_set.reader}")

    @cached_property
    def root(self) -> Path:
        """The dataset's folder."""
        if not self.scene_set.generated:
            return self.scene_set.root()
        return self.rooms_index().folder

    @cached_property
    def _scenes(self) -> dict[Split, tuple[str, ...]]:
        if self.scene_set.generated:
            cfg = self.experiment.generate
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
                    f"{two} ({', '.join(shared[:3])} ...); what is learnt, tuned and measured on "
                    "must be apart, or the figures are worthless. Mend the split lists."
                )
        return scenes

    def scenes(self, *splits: Split) -> tuple[str, ...]:
        """Scene ids of the splits, in the order of the split lists; of all when none is named.

        Each is there once: a set without truth may learn from the scenes it is asked about.
        """
        named = (scene for split in splits or SPLITS for scene in self._scenes[split])
        return tuple(dict.fromkeys(named))

    @cached_property
    def places(self) -> dict[Split, dict[str, tuple[str, ...]]]:
        """Scene ids by place, by split; empty where nothing is searched as a whole."""
        size, named = self.experiment.generate.rooms_per_place, self.scene_set.places
        if self.scene_set.generated:
            found = {s: consecutive(self._scenes[s], size) if size else {} for s in SPLITS}
        elif named == "house":
            found = {s: houses(self._scenes[s]) for s in SPLITS}
        else:
            every = read_places(self.root / self.scene_set.expanded(named)) if named else {}
            found = {s: within(every, self._scenes[s]) for s in SPLITS}
        return {split: places for split, places in found.items() if places}

    def place_rooms(self, scene_id: str) -> tuple[str, ...]:
        """The rooms of a scene's place; the scene alone where it is of none."""
        places = self.places.get(self.split_of(scene_id), {})
        return next((rooms for rooms in places.values() if scene_id in rooms), (scene_id,))

    def split_of(self, scene_id: str) -> Split:
        """The split a scene belongs to; ConfigError for a scene of none."""
        for split in SPLITS:
            if scene_id in self._scenes[split]:
                return split
        some = ", ".join(self.scenes()[:3])
        raise ConfigError(f"--scene: {scene_id!r} is in no split (there are {some}, ...)")

    def check_truth(self, what: str) -> None:
        """Refuse, with ConfigError, ``what`` needs ground truth where a set has none."""
        if not self.scene_set.has_truth:
            raise ConfigError(
                f"{what} needs ground truth, but {self.scene_set.source} has none (query_format: "
                f"{self.scene_set.query_format}). RunAll, PredictMasks and the export need none."
            )

    def _key(
        self,
        stage: str,
        config: BaseModel | Mapping[str, Any],
        inputs: Mapping[str, str],
        scene_id: str | None = None,
    ) -> ArtifactKey:
        content = config.model_dump() if isinstance(config, BaseModel) else config
        return ArtifactKey.make(self.output, stage, VERSIONS[stage], content, inputs, scene_id)

    def _scene_cache(self, stage: str, config: Any, inputs: Any, scene_id: str) -> ArtifactKey:
        """Key of an artifact that lies in ``cache``, where there is one."""
        key = self._key(stage, config, inputs, scene_id)
        if self.cache is None:
            return key
        return placed(key, self.cache, scene_id, self._manifests[stage])

    @cached_property
    def _manifests(self) -> dict[str, Manifests]:
        made = {"link_points": self.link, "run_teacher": self.teacher}
        return {stage: manifests_of(self.scenes, key_of) for stage, key_of in made.items()}

    @once
    def rooms_index(self) -> ArtifactKey:
        """The generated dataset as a whole: its folder is the dataset's root."""
        return self._key("generate_rooms", self.experiment.generate, {})

    @once
    def room(self, scene_id: str) -> ArtifactKey:
        """One generated room, a scene folder of the generated dataset."""
        index = self.rooms_index()
        inputs = {"room": scene_id}
        digest = fingerprint(index.stage, index.schema_version, index.config, inputs)
        folder = index.folder / "data" / scene_id
        return ArtifactKey(folder, digest, index.stage, index.schema_version, index.config, inputs)

    @once
    def _scan_identity(self, scene_id: str) -> str:
        if self.scene_set.generated:
            return self.room(scene_id).fingerprint
        camera = self.experiment.prepare.camera
        identity = str(self.reader.scene_identity(self.root, scene_id, camera))
        version = self.scene_set.version
        return f"{version}:{identity}" if version else identity

    @once
    def prepare(self, scene_id: str) -> ArtifactKey:
        """Scan to scene."""
        inputs = {"scan": self._scan_identity(scene_id)}
        return self._key("prepare_scene", self.experiment.prepare, inputs, scene_id)

    def _views_identity(self, scene_id: str) -> str:
        """Identity of a scene's points, views and depth, whatever its superpoints.

        Links and teacher masks depend on no more, so new superpoints cost no GPU hours.
        """
        cfg, version = self.experiment.prepare, VERSIONS["prepare_scene"]
        return views_identity(version, cfg.camera, cfg.max_views, self._scan_identity(scene_id))

    @cached_property
    def _query_records(self) -> dict[Split, Any]:
        return self.scene_set.query_records(self.root)

    @cached_property
    def _class_digests(self) -> dict[str, str]:
        return self.scene_set.class_digests(self.root)

    def _queries_identity(self, scene_id: str | None) -> str:
        """Identity of the queries of one scene, or of all for None."""
        rooms = () if scene_id is None else self.place_rooms(scene_id)
        if len(rooms) > 1:
            # What is asked of a room depends on the searches of its whole place.
            return _digest([self._own_queries_identity(room) for room in rooms] + self._words)
        return self._own_queries_identity(scene_id)

    @cached_property
    def _words(self) -> list[Any]:
        """What makes prompts of searches."""
        return [RULES, table_digest(), self.experiment.prompts.rooms]

    def _own_queries_identity(self, scene_id: str | None) -> str:
        if self.scene_set.generated:
            key = self.rooms_index() if scene_id is None else self.room(scene_id)
            return key.fingerprint
        content: Any = self._query_records
        if scene_id is not None:
            content = self.scene_set.queries_of(content, scene_id)
        return _digest(content)

    def _bank_identity(self) -> str:
        return _digest(self.experiment.prompts.bank)

    @once
    def prompts(self) -> ArtifactKey:
        """All queries of the set, checked against its scenes."""
        inputs = {"queries": self._queries_identity(None)}
        inputs |= {f"scan {scene}": self._scan_identity(scene) for scene in self.scenes()}
        splits = {split: list(names) for split, names in self._scenes.items() if names}
        config = {**self.experiment.prompts.model_dump(exclude={"bank", "rooms"}), "splits": splits}
        if self.places:
            config |= {"places": self.places, "words": self._words}
        if self.scene_set.query_format != DEFAULT_FORMAT:
            config["query_format"] = self.scene_set.query_format
            inputs |= self._class_digests
        return self._key("prepare_prompts", config, inputs)

    @once
    def link(self, scene_id: str) -> ArtifactKey:
        """Visible points per view."""
        inputs = {"views": self._views_identity(scene_id)}
        return self._scene_cache("link_points", self.experiment.link, inputs, scene_id)

    @cached_property
    def _teacher_identity(self) -> tuple[dict[str, Any], dict[str, str]]:
        return teacher_identity(self.experiment.teacher)

    @once
    def teacher(self, scene_id: str) -> ArtifactKey:
        """The teacher's answers; UserError when the teacher's weights or code are missing."""
        config, content = self._teacher_identity
        inputs = {
            "views": self._views_identity(scene_id),
            "queries": self._queries_identity(scene_id),
            "bank": self._bank_identity(),
        }
        return self._scene_cache("run_teacher", config, inputs | content, scene_id)

    def check_features(self) -> None:
        """Refuse a teacher known to have no image features; others tell when they are made."""
        if self.experiment.teacher.name == "oracle":
            raise no_features("oracle")

    @once
    def features(self, scene_id: str) -> ArtifactKey:
        """The teacher's image features on superpoints; errors as of ``check_features``."""
        self.check_features()
        config, content = self._teacher_identity
        inputs = {
            "scene": self.prepare(scene_id).fingerprint,
            "links": self.link(scene_id).fingerprint,
        }
        return self._key("lift_features", config, inputs | content, scene_id)


def _digest(content: Any) -> str:
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()

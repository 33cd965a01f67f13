"""What every stage of a run is made from, and so where its artifact lies.

A plan reads configs, split lists and file stamps; it computes nothing and creates nothing.
Fingerprints follow the flow of data: a stage's inputs are named by the fingerprints of the
stages they come from, so a change reaches exactly what depends on it.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from data.artifacts.store import ArtifactKey, canonical_json, fingerprint
from data.artifacts.versions import VERSIONS
from data.errors import ConfigError
from data.rooms.ids import scene_id as room_id
from pipeline.config import load_experiment, parse_overrides, read_yaml_mapping
from pipeline.scene_sets import SPLITS, SceneSet, Split, load_scene_set
from stages.configs import Experiment
from stages.teacher_identity import teacher_identity

OUTPUT_VARIABLE = "MLLM3D_OUTPUT"


@dataclass(frozen=True, eq=False)
class Plan:
    """One scene set under one experiment; ``output`` is ``<output root>/<scene set>``."""

    scene_set: SceneSet
    experiment: Experiment
    output: Path

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
            counts: dict[Split, int] = {"train": cfg.train_rooms, "val": cfg.val_rooms}
            return {
                s: tuple(room_id(cfg.seed, s, index) for index in range(counts[s])) for s in SPLITS
            }
        names = self.scene_set.splits
        scenes = {s: tuple(self.reader.read_split(self.root, getattr(names, s))) for s in SPLITS}
        shared = sorted(set(scenes["train"]) & set(scenes["val"]))
        if shared:
            raise ConfigError(
                f"{self.scene_set.source}: {len(shared)} scenes are in both splits "
                f"({', '.join(shared[:3])} ...); training on validation scenes would make "
                "the figures worthless. Mend the split lists."
            )
        return scenes

    def scenes(self, *splits: Split) -> tuple[str, ...]:
        """Scene ids of the splits, in the order of the split lists; of all when none is named."""
        return tuple(scene for split in splits or SPLITS for scene in self._scenes[split])

    def split_of(self, scene_id: str) -> Split:
        """The split a scene belongs to; ConfigError for a scene of neither."""
        for split in SPLITS:
            if scene_id in self._scenes[split]:
                return split
        some = ", ".join(self.scenes()[:3])
        raise ConfigError(f"--scene: {scene_id!r} is in neither split (there are {some}, ...)")

    def _key(
        self,
        stage: str,
        config: BaseModel | Mapping[str, Any],
        inputs: Mapping[str, str],
        scene_id: str | None = None,
    ) -> ArtifactKey:
        content = config.model_dump() if isinstance(config, BaseModel) else config
        return ArtifactKey.make(self.output, stage, VERSIONS[stage], content, inputs, scene_id)

    def rooms_index(self) -> ArtifactKey:
        """The generated dataset as a whole: its folder is the dataset's root."""
        return self._key("generate_rooms", self.experiment.generate, {})

    def room(self, scene_id: str) -> ArtifactKey:
        """One generated room, a scene folder of the generated dataset."""
        index = self.rooms_index()
        inputs = {"room": scene_id}
        digest = fingerprint(index.stage, index.schema_version, index.config, inputs)
        folder = index.folder / "data" / scene_id
        return ArtifactKey(folder, digest, index.stage, index.schema_version, index.config, inputs)

    @lru_cache(maxsize=None)  # noqa: B019 - a plan lives as long as its process
    def _scan_identity(self, scene_id: str) -> str:
        if self.scene_set.generated:
            return self.room(scene_id).fingerprint
        camera = self.experiment.prepare.camera
        return str(self.reader.scene_identity(self.root, scene_id, camera))

    def prepare(self, scene_id: str) -> ArtifactKey:
        """Scan to scene."""
        inputs = {"scan": self._scan_identity(scene_id)}
        return self._key("prepare_scene", self.experiment.prepare, inputs, scene_id)

    def _views_identity(self, scene_id: str) -> str:
        """Identity of a scene's points, views and depth, whatever its superpoints.

        Links and teacher masks depend on no more, so new superpoints cost no GPU hours.
        """
        cfg = self.experiment.prepare
        return fingerprint(
            "views",
            VERSIONS["prepare_scene"],
            {"camera": cfg.camera, "max_views": cfg.max_views},
            {"scan": self._scan_identity(scene_id)},
        )

    @cached_property
    def _query_records(self) -> dict[Split, Any]:
        return self.scene_set.query_records(self.root)

    def _queries_identity(self, scene_id: str | None) -> str:
        """Identity of the queries of one scene, or of all for None."""
        if self.scene_set.generated:
            key = self.rooms_index() if scene_id is None else self.room(scene_id)
            return key.fingerprint
        content: Any = self._query_records
        if scene_id is not None:
            content = [
                record
                for records in content.values()
                if isinstance(records, list)
                for record in records
                if isinstance(record, dict) and record.get("scene_id") == scene_id
            ]
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()

    def prompts(self) -> ArtifactKey:
        """All queries of the set, checked against its scenes."""
        inputs = {"queries": self._queries_identity(None)}
        inputs |= {f"scan {scene}": self._scan_identity(scene) for scene in self.scenes()}
        splits = {split: list(self.scenes(split)) for split in SPLITS}
        config = {**self.experiment.prompts.model_dump(), "splits": splits}
        return self._key("prepare_prompts", config, inputs)

    def link(self, scene_id: str) -> ArtifactKey:
        """Visible points per view."""
        inputs = {"views": self._views_identity(scene_id)}
        return self._key("link_points", self.experiment.link, inputs, scene_id)

    @cached_property
    def _teacher_identity(self) -> tuple[dict[str, Any], dict[str, str]]:
        return teacher_identity(self.experiment.teacher)

    def teacher(self, scene_id: str) -> ArtifactKey:
        """The teacher's answers; UserError when the teacher's weights or code are missing."""
        config, content = self._teacher_identity
        inputs = {
            "views": self._views_identity(scene_id),
            "queries": self._queries_identity(scene_id),
        }
        return self._key("run_teacher", config, inputs | content, scene_id)

    def fuse(self, scene_id: str) -> ArtifactKey:
        """Soft labels of points."""
        inputs = {
            "scene": self.prepare(scene_id).fingerprint,
            "links": self.link(scene_id).fingerprint,
            "teacher": self.teacher(scene_id).fingerprint,
        }
        return self._key("fuse_masks", self.experiment.fuse, inputs, scene_id)

    @lru_cache(maxsize=None)  # noqa: B019 - a plan lives as long as its process
    def student(self) -> ArtifactKey:
        """The student trained on the training split's labels."""
        inputs = {f"labels {scene}": self.fuse(scene).fingerprint for scene in self.scenes("train")}
        return self._key("train_student", self.experiment.student, inputs)

    def predict(self, scene_id: str) -> ArtifactKey:
        """The student's masks of one scene."""
        inputs = {
            "student": self.student().fingerprint,
            "labels": self.fuse(scene_id).fingerprint,
        }
        return self._key("predict_masks", self.experiment.predict, inputs, scene_id)

    def judge(self, scene_id: str) -> ArtifactKey:
        """The teacher's masks of one scene against ground truth, in 2D."""
        inputs = {
            "scene": self.prepare(scene_id).fingerprint,
            "teacher": self.teacher(scene_id).fingerprint,
            "prompts": self.prompts().fingerprint,
        }
        return self._key("judge_teacher", self.experiment.judge, inputs, scene_id)

    def evaluate(self) -> ArtifactKey:
        """Metrics over the validation split."""
        inputs = {"prompts": self.prompts().fingerprint}
        for scene in self.scenes("val"):
            inputs[f"masks {scene}"] = self.predict(scene).fingerprint
            inputs[f"judgement {scene}"] = self.judge(scene).fingerprint
        return self._key("evaluate", self.experiment.evaluate, inputs)

    def report(self) -> ArtifactKey:
        """The page of results."""
        inputs = {"evaluation": self.evaluate().fingerprint}
        return self._key("report", self.experiment.report, inputs)


def output_root() -> Path:
    """Where artifacts go: ``$MLLM3D_OUTPUT``, else ``./output``."""
    return Path(os.environ.get(OUTPUT_VARIABLE) or "output").absolute()


@lru_cache(maxsize=8)
def _load(scene_set: str, config: str, overrides: str, output: Path) -> Plan:
    chosen = load_scene_set(scene_set)
    layers: list[tuple[str, Mapping[str, Any]]] = [(f"{chosen.source}: config", chosen.config)]
    if config:
        layers.append((config, read_yaml_mapping(Path(config))))
    layers.append(("--overrides", parse_overrides(overrides)))
    return Plan(chosen, load_experiment(layers), output / chosen.name)


def load_plan(scene_set: str, config: str = "", overrides: str = "") -> Plan:
    """The plan of a command line's three parameters; ConfigError for anything refused."""
    return _load(scene_set, config, overrides, output_root())

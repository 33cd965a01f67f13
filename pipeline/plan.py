"""What every stage of a run is made from, and so where its artifact lies.

A plan reads configs, split lists and file stamps; it computes nothing and creates nothing.
Fingerprints follow the flow of data: a stage's inputs are named by the fingerprints of the
stages they come from, so a change reaches exactly what depends on it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from data.artifacts.store import ArtifactKey
from pipeline.config import load_experiment, parse_overrides, read_yaml_mapping
from pipeline.scene_plan import ScenePlan
from pipeline.scene_sets import load_scene_set
from stages.text_identity import text_identity

OUTPUT_VARIABLE = "MLLM3D_OUTPUT"


class Plan(ScenePlan):
    """A scene plan, and all that is learnt from its scenes."""

    def fuse(self, scene_id: str) -> ArtifactKey:
        """Soft labels of points."""
        inputs = {
            "scene": self.prepare(scene_id).fingerprint,
            "links": self.link(scene_id).fingerprint,
            "teacher": self.teacher(scene_id).fingerprint,
        }
        return self._key("fuse_masks", self.experiment.fuse, inputs, scene_id)

    def oracle_labels(self, scene_id: str) -> ArtifactKey:
        """Ground truth in the shape of soft labels, for the upper bound alone."""
        inputs = {
            "labels": self.fuse(scene_id).fingerprint,
            "prompts": self.prompts().fingerprint,
            "scene": self.prepare(scene_id).fingerprint,
        }
        return self._key("oracle_labels", {}, inputs, scene_id)

    def labels(self, scene_id: str) -> ArtifactKey:
        """What the student learns a scene from."""
        is_oracle = self.experiment.student.supervision == "oracle"
        return self.oracle_labels(scene_id) if is_oracle else self.fuse(scene_id)

    @property
    def learns_features(self) -> bool:
        """Whether the student learns from the teacher's image features, too."""
        return self.experiment.student.loss.image > 0

    @lru_cache(maxsize=None)  # noqa: B019 - a plan lives as long as its process
    def text(self) -> ArtifactKey:
        """The text student; UserError when the encoder's weights are missing."""
        config, weights = text_identity(self.experiment.text, self.experiment.teacher)
        inputs = {f"labels {scene}": self.fuse(scene).fingerprint for scene in self.scenes("train")}
        return self._key("distil_text", config, inputs | weights)

    @lru_cache(maxsize=None)  # noqa: B019 - a plan lives as long as its process
    def student(self) -> ArtifactKey:
        """The student trained on the training split's labels."""
        inputs = {
            f"labels {scene}": self.labels(scene).fingerprint for scene in self.scenes("train")
        }
        if self.learns_features:
            for scene in self.scenes("train"):
                inputs[f"features {scene}"] = self.features(scene).fingerprint
        return self._key("train_student", self.experiment.student, inputs)

    def predict(self, scene_id: str) -> ArtifactKey:
        """The student's masks of one scene; asked by words it needs nothing of its images."""
        inputs = {"student": self.student().fingerprint}
        if self.experiment.predict.tokens == "text":
            inputs["text"] = self.text().fingerprint
            inputs["scene"] = self.prepare(scene_id).fingerprint
            inputs["prompts"] = self.prompts().fingerprint
            inputs["bank"] = self._bank_identity()
        else:
            inputs["labels"] = self.fuse(scene_id).fingerprint
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
        return self._key("evaluate", self.scene_set.asked, inputs)

    def report(self) -> ArtifactKey:
        """The page of results."""
        if self.scene_set.has_truth:
            inputs = {"evaluation": self.evaluate().fingerprint}
        else:
            inputs = {f"masks {s}": self.predict(s).fingerprint for s in self.scenes("val")}
            inputs["prompts"] = self.prompts().fingerprint
        return self._key("report", self.experiment.report, inputs)


def output_root() -> Path:
    """Where artifacts go: ``$MLLM3D_OUTPUT``, else ``./output``."""
    return Path(os.environ.get(OUTPUT_VARIABLE) or "output").absolute()


@lru_cache(maxsize=128)  # an ablation has a plan for each of its arms
def _load(scene_set: str, config: str, overrides: str, output: Path) -> Plan:
    chosen = load_scene_set(scene_set)
    layers: list[tuple[str, Mapping[str, Any]]] = [(f"{chosen.source}: config", chosen.config)]
    if config:
        layers.append((config, read_yaml_mapping(Path(config))))
    layers.append(("--overrides", parse_overrides(overrides)))
    plan = Plan(chosen, load_experiment(layers), output / chosen.name)
    if plan.experiment.teacher.name == "oracle":
        plan.check_truth("teacher.name=oracle")
    if plan.experiment.student.supervision == "oracle":
        plan.check_truth("student.supervision=oracle")
    return plan


def load_plan(scene_set: str, config: str = "", overrides: str = "") -> Plan:
    """The plan of a command line's three parameters; ConfigError for anything refused."""
    return _load(scene_set, config, overrides, output_root())

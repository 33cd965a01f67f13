"""What every stage of a run is made from, and so where its artifact lies.

A plan reads configs, split lists and file stamps; it computes nothing and creates nothing.
Fingerprints follow the flow of data: a stage's inputs are named by the fingerprints of the
stages they come from, so a change reaches exactly what depends on it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from data.artifacts.object_store import RemoteFolder
from data.artifacts.store import ArtifactKey, read_metadata
from data.artifacts.versions import VERSIONS
from data.errors import ConfigError
from pipeline.config import load_experiment, overrides_with, parse_overrides, read_yaml_mapping
from pipeline.scene_caches import cache_root
from pipeline.scene_plan import ScenePlan, once
from pipeline.scene_sets import is_scene_set, load_scene_set
from stages.teacher.identity import text_identity

OUTPUT_VARIABLE = "MLLM3D_OUTPUT"
STUDENT_STAGES = ("train_student", "finetune_student")


@dataclass(frozen=True, eq=False)
class Plan(ScenePlan):
    """A scene plan, and all that is learnt from its scenes.

    ``config`` and ``overrides`` are the command line's, which another set's plan is loaded under.
    """

    config: str = ""
    overrides: str = ""

    @once
    def fuse(self, scene_id: str) -> ArtifactKey:
        """Soft labels of points."""
        inputs = {
            "scene": self.prepare(scene_id).fingerprint,
            "links": self.link(scene_id).fingerprint,
            "teacher": self.teacher(scene_id).fingerprint,
        }
        return self._key("fuse_masks", self.experiment.fuse, inputs, scene_id)

    @once
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
        return self.oracle_labels(scene_id) if self.learns_truth else self.fuse(scene_id)

    @property
    def learns_truth(self) -> bool:
        """Whether the student is an upper bound that learns from ground truth."""
        return self.experiment.student.supervision == "oracle"

    @property
    def learns_features(self) -> bool:
        """Whether the student learns from the teacher's image features, too."""
        return self.experiment.student.loss.image > 0

    @cached_property
    def source(self) -> StudentSource | None:
        """The student that the config names to start from, or to ask; None where it names none.

        Raises ConfigError as of ``source_of``.
        """
        place = self.experiment.finetune.start or self.experiment.predict.student
        return source_of(place, self.config, self.overrides) if place else None

    @once
    def text(self) -> ArtifactKey:
        """The text student; UserError when the encoder's weights are missing."""
        if self.experiment.predict.student and self.source is not None:
            return self.source.text()
        config, weights = text_identity(self.experiment.text, self.experiment.teacher)
        inputs = {f"labels {scene}": self.fuse(scene).fingerprint for scene in self.scenes("train")}
        return self._key("distil_text", config, inputs | weights)

    def student(self) -> ArtifactKey:
        """The student that answers: this set's, the same trained further, or another set's."""
        if self.source is None:
            return self.own_student()
        return self._finetuned() if self.experiment.finetune.start else self.source.key

    @once
    def own_student(self) -> ArtifactKey:
        """The student trained on the training split's labels."""
        inputs = {
            f"labels {scene}": self.labels(scene).fingerprint for scene in self.scenes("train")
        }
        return self._key("train_student", self.experiment.student, inputs | self._image_features())

    @once
    def _finetuned(self) -> ArtifactKey:
        assert self.source is not None
        inputs = {"start": self.source.key.fingerprint, **self._image_features()}
        for scene in self.scenes("train"):
            inputs[f"labels {scene}"] = self.oracle_labels(scene).fingerprint
        return self._key("finetune_student", self.experiment.finetuning(), inputs)

    def _image_features(self) -> dict[str, str]:
        scenes = self.scenes("train") if self.learns_features else ()
        return {f"features {scene}": self.features(scene).fingerprint for scene in scenes}

    @once
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
        config = self.experiment.predict.model_dump(exclude={"student"})
        return self._key("predict_masks", config, inputs, scene_id)

    @once
    def judge(self, scene_id: str) -> ArtifactKey:
        """The teacher's masks of one scene against ground truth, in 2D."""
        inputs = {
            "scene": self.prepare(scene_id).fingerprint,
            "teacher": self.teacher(scene_id).fingerprint,
            "prompts": self.prompts().fingerprint,
        }
        return self._key("judge_teacher", self.experiment.judge, inputs, scene_id)

    @once
    def said(self, scene_id: str) -> ArtifactKey:
        """The teacher's answers in words, those of a scene's views made one."""
        inputs = {
            "teacher": self.teacher(scene_id).fingerprint,
            "labels": self.fuse(scene_id).fingerprint,
            "masks": self.predict(scene_id).fingerprint,
            "prompts": self.prompts().fingerprint,
        }
        return self._key("answer_questions", {}, inputs, scene_id)

    @once
    def rooms_found(self) -> ArtifactKey:
        """Which room each search of the validation places was taken to mean."""
        inputs = {"prompts": self.prompts().fingerprint}
        for scene in self.scenes("val"):
            inputs[f"masks {scene}"] = self.predict(scene).fingerprint
        return self._key("find_rooms", {}, inputs)

    @once
    def evaluate(self) -> ArtifactKey:
        """Metrics over the validation split."""
        inputs = {"prompts": self.prompts().fingerprint}
        for scene in self.scenes("val"):
            inputs[f"masks {scene}"] = self.predict(scene).fingerprint
            inputs[f"judgement {scene}"] = self.judge(scene).fingerprint
            inputs[f"said {scene}"] = self.said(scene).fingerprint
        if self.places:
            inputs["rooms"] = self.rooms_found().fingerprint
        return self._key("evaluate", self.scene_set.asked, inputs)

    @once
    def report(self) -> ArtifactKey:
        """The page of results."""
        if self.scene_set.has_truth:
            inputs = {"evaluation": self.evaluate().fingerprint}
        else:
            inputs = {f"masks {s}": self.predict(s).fingerprint for s in self.scenes("val")}
            inputs |= {f"said {s}": self.said(s).fingerprint for s in self.scenes("val")}
            inputs["prompts"] = self.prompts().fingerprint
        return self._key("report", self.experiment.report, inputs)


def output_root() -> Path:
    """Where artifacts go: ``$MLLM3D_OUTPUT``, else ``./output``."""
    return Path(os.environ.get(OUTPUT_VARIABLE) or "output").absolute()


@lru_cache(maxsize=128)  # an ablation has a plan for each of its arms
def _load(
    scene_set: str, config: str, overrides: str, output: Path, cache: RemoteFolder | None
) -> Plan:
    chosen = load_scene_set(scene_set)
    layers: list[tuple[str, Mapping[str, Any]]] = [(f"{chosen.source}: config", chosen.config)]
    if config:
        layers.append((config, read_yaml_mapping(Path(config))))
    layers.append(("--overrides", parse_overrides(overrides)))
    places = output / chosen.name, cache / chosen.name if cache else None
    plan = Plan(chosen, load_experiment(layers), *places, config, overrides)
    if plan.experiment.teacher.name == "oracle":
        plan.check_truth("teacher.name=oracle")
    if plan.learns_truth:
        plan.check_truth("student.supervision=oracle")
    if plan.experiment.finetune.start:
        plan.check_truth("finetune.start")
    return plan


@dataclass(frozen=True)
class StudentSource:
    """A student that a config names by its scene set or its folder.

    ``plan`` is the set's, under the same config and ``overrides``; None for a folder.
    """

    place: str
    key: ArtifactKey
    plan: Plan | None
    overrides: str

    def text(self) -> ArtifactKey:
        """The text student that belongs to it; ConfigError for a folder, of which none is known."""
        if self.plan is None:
            raise ConfigError(
                f"predict.tokens=text: {self.place} is the folder of a student, and nothing says "
                "where the text student that belongs to it lies. Name the scene set instead."
            )
        return self.plan.text()


def source_of(place: str, config: str, overrides: str) -> StudentSource:
    """The student of a scene set under the same config, or the one in a folder.

    Raises ConfigError for what is neither, and for the folder of something else.
    """
    if is_scene_set(place):
        layer = {"finetune": {"start": ""}, "predict": {"student": ""}}
        same = overrides_with(overrides, layer)
        plan = load_plan(place, config, same)
        return StudentSource(place, plan.student(), plan, same)
    folder = Path(place).expanduser().absolute()
    content = read_metadata(folder) or {}
    stage = str(content.get("stage"))
    if stage not in STUDENT_STAGES or content.get("schema_version") != VERSIONS[stage]:
        raise ConfigError(
            f"{place}: expected a scene set, or the folder of a finished student such as "
            f"output/demo/train_student/<fingerprint>, found {_found(folder, content)}"
        )
    told = (content["fingerprint"], stage, VERSIONS[stage], content["config"], content["inputs"])
    key = ArtifactKey(folder, *told)
    return StudentSource(place, key, None, overrides)


def _found(folder: Path, content: Mapping[str, Any]) -> str:
    if not folder.is_dir():
        return "neither"
    if "stage" not in content:
        return "a folder without a finished artifact"
    return f"an artifact of {content['stage']}, schema {content.get('schema_version')}"


def load_plan(scene_set: str, config: str = "", overrides: str = "") -> Plan:
    """The plan of a command line's three parameters; ConfigError for anything refused."""
    return _load(scene_set, config, overrides, output_root(), cache_root())

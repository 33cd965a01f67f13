"""Plan of a run: one scene set under one config, and the key of every artifact of its steps.

A plan reads configs, split lists and file stamps; it computes and writes nothing. Keys follow from
the declarations in ``pipeline.steps``: an artifact's fingerprint covers the fingerprints of the
artifacts it is made from, so a change of a config key or a file reaches what depends on it only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, create_model

from data.artifacts.object_store import CACHE_VARIABLE, RemoteFolder, reachable
from data.artifacts.remote_artifact import Manifests, RemoteArtifact
from data.artifacts.store import ArtifactKey, fingerprint, read_metadata
from data.errors import ConfigError
from data.types import Split
from pipeline.config import Layer, config_layer, load_layers, overrides_with, parse_overrides
from pipeline.scene_sets import Dataset, SceneSet, is_scene_set, load_scene_set
from pipeline.steps import STEPS, Input, Origin, Step
from pipeline.steps.declaration import load, steps_from
from stages.configs import Experiment
from stages.teacher.identity import digest_of_file, find_source, teacher_identity

OUTPUT_VARIABLE = "MLLM3D_OUTPUT"


@dataclass(frozen=True, eq=False)
class Plan:
    """One scene set under one experiment config.

    Attributes:
        scene_set, experiment: the scene set and the whole config.
        output: ``<output root>/<scene set>``.
        cache: folder in an object store for the artifacts of some steps; None where all lie in
            ``output``.
        asked_set, config, overrides: the command line's parameters, under which the plan of another
            scene set is loaded.
    """

    scene_set: SceneSet
    experiment: Experiment
    output: Path
    cache: RemoteFolder | None = None
    asked_set: str = ""
    config: str = ""
    overrides: str = ""

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the fields only; another process computes keys and splits again."""
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    @cached_property
    def dataset(self) -> Dataset:
        """Scenes, splits, places and reader of the scene set."""
        root = self.key("generate_rooms").folder if self.scene_set.generated else None
        cfg = self.experiment
        return Dataset(self.scene_set, cfg.generate, cfg.prompts.rooms, root)

    @property
    def reader(self) -> ModuleType:
        """The data set's reader module."""
        return self.dataset.reader

    @property
    def root(self) -> Path:
        """The data set's folder."""
        return self.dataset.root

    def scenes(self, *splits: Split) -> tuple[str, ...]:
        """Scene ids of the splits, of all splits when none is named; see ``Dataset.scenes``."""
        return self.dataset.scenes(*splits)

    def split_of(self, scene_id: str) -> Split:
        """The split that holds a scene; ConfigError for a scene in no split."""
        return self.dataset.split_of(scene_id)

    @property
    def own_steps(self) -> list[Step]:
        """The steps declared by the modules that the config key ``steps`` names."""
        return steps_from(self.experiment.steps)

    @property
    def learns_truth(self) -> bool:
        """Whether the student is the upper bound, trained on ground truth."""
        return self.experiment.student.supervision == "oracle"

    @property
    def teacher_warning(self) -> str:
        """What readers of the results must know of the teacher; "" where there is nothing."""
        name = self.experiment.teacher.name
        if name == "oracle":
            return (
                "Oracle teacher: these are not label-free results. The 2D masks come from ground "
                "truth with errors added on purpose."
            )
        if name == "lisa_nano" and not self.scene_set.generated:
            return (
                "Teacher lisa_nano has only seen rendered rooms: on photographs its masks mean "
                "nothing, however sure they are. Use teacher.name=lisa with teacher.lisa.weights, "
                "see docs/teachers.md."
            )
        return ""

    @cached_property
    def has_student(self) -> bool:
        """Whether a student answers: one that is named or asked by words, or one of enough scenes.

        Without one, the fused labels are the answer.
        """
        cfg = self.experiment
        needed = cfg.finetune.start or cfg.predict.student or cfg.predict.tokens == "text"
        return bool(needed) or len(self.scenes("train")) >= cfg.student.least_scenes

    @property
    def learns_features(self) -> bool:
        """Whether the student also learns from the teacher's image features."""
        return self.experiment.student.loss.image > 0

    @cached_property
    def teacher_identity(self) -> tuple[dict[str, Any], dict[str, str]]:
        """The teacher's config and fingerprints of its weights or code; UserError without them."""
        return teacher_identity(self.experiment.teacher)

    @cached_property
    def _keys(self) -> dict[tuple[str, str | None], ArtifactKey]:
        return {}

    def key(self, step_name: str, scene_id: str | None = None) -> ArtifactKey:
        """The key of a step's artifact, of a scene or of the whole set.

        Raises UserError where the fingerprint of an input cannot be found, e.g. without weights.
        """
        key = self._keys.get((step_name, scene_id))
        if key is None:
            key = self._keys[step_name, scene_id] = self._make_key(STEPS[step_name], scene_id)
        return key

    def _make_key(self, step: Step, scene_id: str | None) -> ArtifactKey:
        if step.is_per_scene != (scene_id is not None):
            raise LookupError(f"step {step.name} works on {step.scenes or 'the whole set'}")
        if step.check is not None:
            step.check(self)
        if step.within:
            return self._key_within(self.key(step.within), str(scene_id))
        inputs: dict[str, str] = {}
        for source in step.sources:
            inputs |= source.identities(self, scene_id)
        for step_input in step.active_inputs(self):
            if not step_input.known_by:
                inputs |= dict(self._identities(step_input, scene_id))
        if step.make and not step.make.startswith("pipeline."):
            # A step from outside this repository: its source file is part of the fingerprint.
            inputs["code"] = digest_of_file(find_source(step.make.partition(":")[0]))
        content = (step.version, self._config_of(step), inputs, scene_id)
        key = ArtifactKey.make(self.output, step.name, *content)
        if step.in_object_store and self.cache is not None and scene_id is not None:
            folder = self.cache / step.name / scene_id / key.folder.name
            key = replace(key, remote=RemoteArtifact(folder, self._manifests(step.name)))
        return key

    @staticmethod
    def _key_within(outer: ArtifactKey, scene_id: str) -> ArtifactKey:
        """Key of a generated room, which lies in the data set's artifact as ``data/<scene>``."""
        inputs = {"room": scene_id}
        digest = fingerprint(outer.stage, outer.schema_version, outer.config, inputs)
        folder = outer.folder / "data" / scene_id
        return ArtifactKey(folder, digest, outer.stage, outer.schema_version, outer.config, inputs)

    def _config_of(self, step: Step) -> Mapping[str, Any]:
        content: BaseModel | Mapping[str, Any] = {}
        if step.config is not None:
            content = step.config(self)
        elif step.section:
            content = getattr(self.experiment, step.section)
        return content.model_dump() if isinstance(content, BaseModel) else content

    def _identities(self, step_input: Input, scene_id: str | None) -> Iterable[tuple[str, str]]:
        for scene in self.units_of(step_input, scene_id):
            name = (
                step_input.name
                if step_input.scenes in ("same", "set")
                else f"{step_input.name} {scene}"
            )
            if step_input.identity is not None:
                yield name, step_input.identity(self, str(scene))
            else:
                yield name, self.origin(step_input, scene).key.fingerprint

    def units_of(self, step_input: Input, scene_id: str | None) -> tuple[str | None, ...]:
        """Scene ids of the artifacts that an input reads; None for that of the whole set."""
        if step_input.scenes == "set":
            return (None,)
        if step_input.scenes == "same":
            return (scene_id,)
        return self.scenes() if step_input.scenes == "all" else self.scenes(step_input.scenes)

    def origin(self, step_input: Input, scene_id: str | None) -> Origin:
        """The origin of an input's artifact, which may be another scene set."""
        if step_input.origin is not None:
            return step_input.origin(self)
        return Origin(self, step_input.step, self.key(step_input.step, scene_id))

    def upstream(self, step: Step, scene_id: str | None) -> Iterator[tuple[Step, ArtifactKey]]:
        """All artifacts that a step's artifact is made from, each once, in order of declaration.

        A student of another scene set is included; the artifacts it was made from are not.
        """
        by_folder: dict[Path, tuple[Step, ArtifactKey]] = {}
        to_visit: list[tuple[Step, str | None]] = [(step, scene_id)]
        while to_visit:
            visited, scene = to_visit.pop()
            for step_input in visited.active_inputs(self):
                for input_scene in self.units_of(step_input, scene):
                    origin = self.origin(step_input, input_scene)
                    if origin.key.folder not in by_folder:
                        source_step = STEPS[origin.step]
                        by_folder[origin.key.folder] = (source_step, origin.key)
                        if origin.plan is self:
                            to_visit.append((source_step, input_scene))
        order = list(STEPS.values())
        yield from sorted(by_folder.values(), key=lambda each: order.index(each[0]))

    @cached_property
    def _manifests_by_step(self) -> dict[str, Manifests]:
        return {}

    def _manifests(self, step_name: str) -> Manifests:
        """Metadata of all scenes' artifacts of a step in the object store, fetched once."""

        def folders() -> Iterator[RemoteFolder]:
            remote = (self.key(step_name, scene).remote for scene in self.scenes())
            return (artifact.folder for artifact in remote if artifact is not None)

        return self._manifests_by_step.setdefault(step_name, Manifests(folders))

    @cached_property
    def source(self) -> StudentSource | None:
        """The student that the config names to start from or to query; None where it names none.

        Raises ConfigError as ``source_of`` does.
        """
        reference = self.experiment.finetune.start or self.experiment.predict.student
        return source_of(reference, self.config, self.overrides) if reference else None

    def read(self, step_name: str, part: str, scene_id: str | None = None) -> Any:
        """Read a part of a step's artifact, for commands; ArtifactError where it cannot be read."""
        return self.read_part(STEPS[step_name], part, self.key(step_name, scene_id))

    def read_part(self, step: Step, part: str, key: ArtifactKey) -> Any:
        """Read a part of an artifact with the reader that its step declares."""
        declared = step.parts[part]
        reader = load(declared.reader)
        return reader(key.place, self.root) if declared.takes_root else reader(key.place)

    def student(self) -> ArtifactKey:
        """Key of the student that answers: this set's, its fine-tuned one, or another set's."""
        return self._input_of("predict_masks", "student")

    def text(self) -> ArtifactKey:
        """Key of that student's text student; UserError without the text encoder's weights."""
        text_input = next(each for each in STEPS["predict_masks"].inputs if each.name == "text")
        return self.origin(text_input, None).key

    def _input_of(self, step_name: str, name: str) -> ArtifactKey:
        return self.origin(STEPS[step_name].input(name, self), None).key


def output_root() -> Path:
    """The folder for artifacts: ``$MLLM3D_OUTPUT``, or ``./output``."""
    return Path(os.environ.get(OUTPUT_VARIABLE) or "output").absolute()


def cache_root() -> RemoteFolder | None:
    """The object store for the artifacts of some steps, ``$MLLM3D_CACHE``; None where it is unset.

    Raises ConfigError or UserError as ``reachable`` does, before any artifact is made.
    """
    url = os.environ.get(CACHE_VARIABLE, "")
    return reachable(url) if url else None


def experiment_of(scene_set: SceneSet, layers: Sequence[Layer]) -> Experiment:
    """The config from a scene set's defaults and further layers; ConfigError as ``load_layers``.

    A teacher without weights gets the published ones that the scene set names.
    """
    defaults: Layer = (f"{scene_set.source}: config", scene_set.config)
    experiment = load_experiment([defaults, *layers])
    published = scene_set.published.get(experiment.teacher.name)
    if published is None or experiment.teacher.lisa.weights:
        return experiment
    lisa = published.model_dump(exclude_defaults=True)
    weights: Layer = (f"{scene_set.source}: published", {"teacher": {"lisa": lisa}})
    return load_experiment([defaults, weights, *layers])


def load_experiment(layers: Sequence[Layer]) -> Experiment:
    """The config from the layers, with the sections of the steps that it names.

    ``steps`` names modules that declare further steps, each with an optional section. Raises
    ConfigError for a module that cannot be imported, and as ``load_layers`` does.
    """
    named: Any = next((layer["steps"] for _, layer in reversed(layers) if "steps" in layer), [])
    is_list = isinstance(named, list) and all(isinstance(name, str) for name in named)
    return load_layers(experiment_model(tuple(named)) if is_list else Experiment, layers)


@lru_cache(maxsize=32)
def experiment_model(modules: tuple[str, ...]) -> type[Experiment]:
    """``Experiment`` extended by the config sections of steps from outside modules."""
    sections: dict[str, Any] = {}
    for step in steps_from(modules):
        if step.settings is not None:
            sections[step.section] = (step.settings, step.settings())
    return create_model("Experiment", __base__=Experiment, **sections) if sections else Experiment


@lru_cache(maxsize=128)  # an ablation has a plan for each of its arms
def _load(
    scene_set: str, config: str, overrides: str, output: Path, cache: RemoteFolder | None
) -> Plan:
    loaded_set = load_scene_set(scene_set)
    layers = [config_layer(config)] if config else []
    layers.append(("--overrides", parse_overrides(overrides)))
    folders = output / loaded_set.name, cache / loaded_set.name if cache else None
    plan = Plan(
        loaded_set, experiment_of(loaded_set, layers), *folders, scene_set, config, overrides
    )
    if plan.experiment.teacher.name == "oracle":
        plan.dataset.check_truth("teacher.name=oracle")
    if plan.learns_truth:
        plan.dataset.check_truth("student.supervision=oracle")
    if plan.experiment.finetune.start:
        plan.dataset.check_truth("finetune.start")
    return plan


def load_plan(scene_set: str, config: str = "", overrides: str = "") -> Plan:
    """The plan for three parameters of a command line; ConfigError where one is wrong."""
    return _load(scene_set, config, overrides, output_root(), cache_root())


@dataclass(frozen=True)
class StudentSource:
    """A student that a config names.

    Attributes:
        reference: scene set or folder as the config names it.
        key: key of the student's artifact.
        plan: plan of the scene set under the same config; None for a folder.
    """

    reference: str
    key: ArtifactKey
    plan: Plan | None


def source_of(reference: str, config: str, overrides: str) -> StudentSource:
    """The student of a scene set under the same config, or the student in a folder.

    Raises ConfigError where ``reference`` is neither, or the folder of another artifact.
    """
    if is_scene_set(reference):
        layer = {"finetune": {"start": ""}, "predict": {"student": ""}}
        plan = load_plan(reference, config, overrides_with(overrides, layer))
        return StudentSource(reference, plan.student(), plan)
    folder = Path(reference).expanduser().absolute()
    content = read_metadata(folder) or {}
    step = STEPS.get(str(content.get("stage")))
    if step is None or not step.trains or content.get("schema_version") != step.version:
        raise ConfigError(
            f"{reference}: expected a scene set, or the folder of a finished student such as "
            f"output/demo/train_student/<fingerprint>, found {_found(folder, content)}"
        )
    key_fields = (
        content["fingerprint"],
        step.name,
        step.version,
        content["config"],
        content["inputs"],
    )
    return StudentSource(reference, ArtifactKey(folder, *key_fields), None)


def _found(folder: Path, content: Mapping[str, Any]) -> str:
    if not folder.is_dir():
        return "neither"
    if "stage" not in content:
        return "a folder without a finished artifact"
    return f"an artifact of {content['stage']}, schema {content.get('schema_version')}"

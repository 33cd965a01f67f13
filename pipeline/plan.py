"""A plan: one scene set under one experiment, and the key of every artifact of its steps.

A plan reads configs, split lists and file stamps; it computes nothing and creates nothing. Keys
follow from the declarations in ``pipeline.steps``: an artifact's fingerprint names the artifacts
it is made from by their fingerprints, so a change reaches exactly what depends on it.
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
    """One scene set under one experiment; ``output`` is ``<output root>/<scene set>``.

    ``cache`` is the folder of an object store in which the artifacts of some steps lie; None
    where all lie in ``output``. ``asked_set``, ``config`` and ``overrides`` are the command
    line's, under which the plan of another set is loaded.
    """

    scene_set: SceneSet
    experiment: Experiment
    output: Path
    cache: RemoteFolder | None = None
    asked_set: str = ""
    config: str = ""
    overrides: str = ""

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: another process computes keys and splits again."""
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    @cached_property
    def dataset(self) -> Dataset:
        """The scene set's scenes, splits, places and reader."""
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
        """Scene ids of the splits, of all when none is named; see ``Dataset.scenes``."""
        return self.dataset.scenes(*splits)

    def split_of(self, scene_id: str) -> Split:
        """The split a scene belongs to; ConfigError for a scene of none."""
        return self.dataset.split_of(scene_id)

    @property
    def own_steps(self) -> list[Step]:
        """The steps that modules named in the config declare."""
        return steps_from(self.experiment.steps)

    @property
    def learns_truth(self) -> bool:
        """Whether the student is an upper bound that learns from ground truth."""
        return self.experiment.student.supervision == "oracle"

    @property
    def learns_features(self) -> bool:
        """Whether the student learns from the teacher's image features, too."""
        return self.experiment.student.loss.image > 0

    @cached_property
    def teacher_identity(self) -> tuple[dict[str, Any], dict[str, str]]:
        """The teacher's config and the identity of its weights or code; UserError without."""
        return teacher_identity(self.experiment.teacher)

    @cached_property
    def _keys(self) -> dict[tuple[str, str | None], ArtifactKey]:
        return {}

    def key(self, step_name: str, scene_id: str | None = None) -> ArtifactKey:
        """The key of a step's artifact, of one scene or of the whole set.

        Raises UserError where an input's identity cannot be found, such as missing weights.
        """
        known = self._keys.get((step_name, scene_id))
        if known is None:
            known = self._keys[step_name, scene_id] = self._make_key(STEPS[step_name], scene_id)
        return known

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
        for one in step.active_inputs(self):
            if not one.known_by:
                inputs |= dict(self._identities(one, scene_id))
        if step.make and not step.make.startswith("pipeline."):
            # A step from outside: its source counts, as that of a teacher from outside does.
            inputs["code"] = digest_of_file(find_source(step.make.partition(":")[0]))
        content = (step.version, self._config_of(step), inputs, scene_id)
        key = ArtifactKey.make(self.output, step.name, *content)
        if step.in_object_store and self.cache is not None and scene_id is not None:
            folder = self.cache / step.name / scene_id / key.folder.name
            key = replace(key, remote=RemoteArtifact(folder, self._manifests(step.name)))
        return key

    @staticmethod
    def _key_within(outer: ArtifactKey, scene_id: str) -> ArtifactKey:
        """Key of a room, which lies in the generated data set as ``data/<scene>``."""
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

    def _identities(self, one: Input, scene_id: str | None) -> Iterable[tuple[str, str]]:
        for scene in self.scenes_of(one, scene_id) or (None,):
            name = one.name if one.scenes in ("same", "set") else f"{one.name} {scene}"
            if one.identity is not None:
                yield name, one.identity(self, str(scene))
            else:
                yield name, self.origin(one, scene).key.fingerprint

    def scenes_of(self, one: Input, scene_id: str | None) -> tuple[str, ...]:
        """The scenes whose artifacts an input is; () for one of the whole set."""
        if one.scenes == "set":
            return ()
        if one.scenes == "same":
            return (scene_id,) if scene_id is not None else ()
        return self.scenes() if one.scenes == "all" else self.scenes(one.scenes)

    def origin(self, one: Input, scene_id: str | None) -> Origin:
        """Where an input's artifact comes from; it may be another scene set's."""
        if one.origin is not None:
            return one.origin(self)
        return Origin(self, one.step, self.key(one.step, scene_id))

    def upstream(self, step: Step, scene_id: str | None) -> Iterator[tuple[Step, ArtifactKey]]:
        """All artifacts that one is made from, each once, by the order of declaration.

        A student of another scene set is one of them; what that was made from is not.
        """
        found: dict[Path, tuple[Step, ArtifactKey]] = {}
        waiting: list[tuple[Step, str | None]] = [(step, scene_id)]
        while waiting:
            made, scene = waiting.pop()
            for one in made.active_inputs(self):
                for of in self.scenes_of(one, scene) or (None,):
                    origin = self.origin(one, of)
                    if origin.key.folder not in found:
                        maker = STEPS[origin.step]
                        found[origin.key.folder] = (maker, origin.key)
                        if origin.plan is self:
                            waiting.append((maker, of))
        order = list(STEPS.values())
        yield from sorted(found.values(), key=lambda each: order.index(each[0]))

    @cached_property
    def _manifests_by_step(self) -> dict[str, Manifests]:
        return {}

    def _manifests(self, step_name: str) -> Manifests:
        """The metadata of all scenes' artifacts of a step in the object store, asked for once."""

        def folders() -> Iterator[RemoteFolder]:
            remote = (self.key(step_name, scene).remote for scene in self.scenes())
            return (one.folder for one in remote if one is not None)

        return self._manifests_by_step.setdefault(step_name, Manifests(folders))

    @cached_property
    def source(self) -> StudentSource | None:
        """The student that the config names to start from, or to ask; None where it names none.

        Raises ConfigError as of ``source_of``.
        """
        place = self.experiment.finetune.start or self.experiment.predict.student
        return source_of(place, self.config, self.overrides) if place else None

    def read(self, step_name: str, part: str, scene_id: str | None = None) -> Any:
        """A part of a step's artifact, for commands; ArtifactError where it cannot be read."""
        return self.read_part(STEPS[step_name], part, self.key(step_name, scene_id))

    def read_part(self, step: Step, part: str, key: ArtifactKey) -> Any:
        """A part of an artifact by the reader that its step declares."""
        told = step.parts[part]
        reader = load(told.reader)
        return reader(key.place, self.root) if told.takes_root else reader(key.place)

    def student(self) -> ArtifactKey:
        """The student that answers: this set's, the same fine-tuned, or another set's."""
        return self._input_of("predict_masks", "student")

    def text(self) -> ArtifactKey:
        """The text student that goes with it; UserError when the encoder's weights are missing."""
        one = next(each for each in STEPS["predict_masks"].inputs if each.name == "text")
        return self.origin(one, None).key

    def _input_of(self, step_name: str, name: str) -> ArtifactKey:
        return self.origin(STEPS[step_name].input(name, self), None).key


def output_root() -> Path:
    """Where artifacts go: ``$MLLM3D_OUTPUT``, else ``./output``."""
    return Path(os.environ.get(OUTPUT_VARIABLE) or "output").absolute()


def cache_root() -> RemoteFolder | None:
    """Where the artifacts of some steps go instead: ``$MLLM3D_CACHE``, an object store.

    None where it is not set. Raises ConfigError or UserError as of ``reachable``, before anything
    is made.
    """
    url = os.environ.get(CACHE_VARIABLE, "")
    return reachable(url) if url else None


def experiment_of(scene_set: SceneSet, layers: Sequence[Layer]) -> Experiment:
    """The experiment that a scene set's defaults and further layers give; ConfigError as theirs.

    A teacher that is left without weights gets the published ones that the set names.
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
    """The experiment that the layers give, with the sections of the steps that they name.

    ``steps`` names modules that declare further steps; each may bring a section of its own.
    Raises ConfigError for a module that cannot be imported, and as of ``load_layers``.
    """
    named: Any = next((layer["steps"] for _, layer in reversed(layers) if "steps" in layer), [])
    is_list = isinstance(named, list) and all(isinstance(name, str) for name in named)
    return load_layers(experiment_model(tuple(named)) if is_list else Experiment, layers)


@lru_cache(maxsize=32)
def experiment_model(modules: tuple[str, ...]) -> type[Experiment]:
    """``Experiment`` with the sections of the steps that modules from outside declare."""
    sections: dict[str, Any] = {}
    for step in steps_from(modules):
        if step.settings is not None:
            sections[step.section] = (step.settings, step.settings())
    return create_model("Experiment", __base__=Experiment, **sections) if sections else Experiment


@lru_cache(maxsize=128)  # an ablation has a plan for each of its arms
def _load(
    scene_set: str, config: str, overrides: str, output: Path, cache: RemoteFolder | None
) -> Plan:
    chosen = load_scene_set(scene_set)
    layers = [config_layer(config)] if config else []
    layers.append(("--overrides", parse_overrides(overrides)))
    places = output / chosen.name, cache / chosen.name if cache else None
    plan = Plan(chosen, experiment_of(chosen, layers), *places, scene_set, config, overrides)
    if plan.experiment.teacher.name == "oracle":
        plan.dataset.check_truth("teacher.name=oracle")
    if plan.learns_truth:
        plan.dataset.check_truth("student.supervision=oracle")
    if plan.experiment.finetune.start:
        plan.dataset.check_truth("finetune.start")
    return plan


def load_plan(scene_set: str, config: str = "", overrides: str = "") -> Plan:
    """The plan of a command line's three parameters; ConfigError for anything refused."""
    return _load(scene_set, config, overrides, output_root(), cache_root())


@dataclass(frozen=True)
class StudentSource:
    """A student that a config names by its scene set or its folder.

    ``plan`` is the set's, under the same config and ``overrides``; None for a folder.
    """

    place: str
    key: ArtifactKey
    plan: Plan | None


def source_of(place: str, config: str, overrides: str) -> StudentSource:
    """The student of a scene set under the same config, or the one in a folder.

    Raises ConfigError for what is neither, and for the folder of something else.
    """
    if is_scene_set(place):
        layer = {"finetune": {"start": ""}, "predict": {"student": ""}}
        plan = load_plan(place, config, overrides_with(overrides, layer))
        return StudentSource(place, plan.student(), plan)
    folder = Path(place).expanduser().absolute()
    content = read_metadata(folder) or {}
    step = STEPS.get(str(content.get("stage")))
    if step is None or not step.trains or content.get("schema_version") != step.version:
        raise ConfigError(
            f"{place}: expected a scene set, or the folder of a finished student such as "
            f"output/demo/train_student/<fingerprint>, found {_found(folder, content)}"
        )
    told = (content["fingerprint"], step.name, step.version, content["config"], content["inputs"])
    return StudentSource(place, ArtifactKey(folder, *told), None)


def _found(folder: Path, content: Mapping[str, Any]) -> str:
    if not folder.is_dir():
        return "neither"
    if "stage" not in content:
        return "a folder without a finished artifact"
    return f"an artifact of {content['stage']}, schema {content.get('schema_version')}"

"""The experiment of a run: all sections of the config, those of steps from outside included."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from pydantic import create_model

from pipeline.config import Layer, load_layers
from pipeline.scene_sets import SceneSet
from pipeline.steps.declaration import steps_from
from stages.configs import Experiment


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

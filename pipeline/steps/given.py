"""What a step is given when it runs: its config and the inputs that it declared, no others."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.artifacts.object_store import Place
from data.artifacts.store import ArtifactKey, read_metadata
from pipeline.process import process, progress, slots
from pipeline.steps.declaration import STEPS, Input, Step, holds_labels

if TYPE_CHECKING:
    from pipeline.plan import Plan
    from pipeline.scene_sets import Dataset
    from stages.configs import Experiment

LOG = logging.getLogger("luigi-interface.stages")


class Given:
    """A step's way to what it reads; LookupError for whatever its declaration does not name.

    Args:
        plan: where the inputs lie.
        step: whose inputs they are.
        scene: the scene that the step works on; None for the whole set.
        device: "auto", "cpu" or "cuda".
        processes: processes that a training may use.
    """

    def __init__(
        self, plan: Plan, step: Step, scene: str | None, device: str = "auto", processes: int = 1
    ) -> None:
        self._plan, self._step, self._scene = plan, step, scene
        self._device, self.processes = device, processes

    @property
    def scene(self) -> str:
        """The scene that the step works on."""
        if self._scene is None:
            raise LookupError(f"step {self._step.name} works on the whole set, not on a scene")
        return self._scene

    @property
    def dataset(self) -> Dataset:
        """The scene set's scenes, splits, places and reader; nothing that a step has made."""
        return self._plan.dataset

    @property
    def config(self) -> Any:
        """The step's section of the config."""
        return self.section(self._step.section)

    def section(self, name: str) -> Any:
        """A section of the config that the step declared."""
        if name not in (self._step.section, *self._step.also) or not name:
            raise LookupError(f"step {self._step.name} does not declare that it reads {name!r}")
        return getattr(self._plan.experiment, name)

    @property
    def experiment(self) -> Experiment:
        """All sections, for a step that declared "*"."""
        if "*" not in self._step.also:
            raise LookupError(f"step {self._step.name} does not declare that it reads all sections")
        return self._plan.experiment

    def has(self, name: str) -> bool:
        """Whether a declared input is needed under this config."""
        return any(one.name == name for one in self._step.active_inputs(self._plan))

    def scenes(self, name: str) -> tuple[str, ...]:
        """The scenes that an input of many scenes has an artifact for."""
        return self._plan.scenes_of(self._step.input(name, self._plan), self._scene)

    def place(self, name: str, scene: str | None = None) -> Place:
        """Where an input's artifact lies, for a scene of many or the step's own scene."""
        return self._key(self._step.input(name, self._plan), scene).place

    def folder(self, name: str, scene: str | None = None) -> Path:
        """The same of an artifact that is never in an object store."""
        return self._key(self._step.input(name, self._plan), scene).folder

    def config_of(self, name: str) -> Mapping[str, Any]:
        """The config that an input's artifact of the whole set was made under."""
        return self._key(self._step.input(name, self._plan), None).config

    def read(self, name: str, part: str = "", scene: str | None = None) -> Any:
        """A part of an input, by the reader that its step declares for it.

        ``part`` may be left out where the input declares one alone. Raises ArtifactError as the
        reader does.
        """
        one = self._step.input(name, self._plan)
        part = part or (one.parts[0] if len(one.parts) == 1 else "")
        if part not in one.parts:
            raise LookupError(
                f"step {self._step.name} reads part {part!r} of its input {name}, and declares "
                f"{', '.join(one.parts) or 'none'}"
            )
        maker = STEPS[one.step]
        is_label_free = self._step.labels == "never" and not self._step.oracle(self._plan)
        if is_label_free and holds_labels(one, part):
            raise LookupError(f"step {self._step.name} is label-free and may not read {part!r}")
        return self._plan.read_part(maker, part, self._key(one, scene))

    def _key(self, one: Input, scene: str | None) -> ArtifactKey:
        of = None if one.scenes == "set" else scene or self._scene
        if one.scenes not in ("set", "same") and scene is None:
            raise LookupError(f"input {one.name} of step {self._step.name}: name the scene")
        return self._plan.origin(one, of).key

    def costs(self) -> Mapping[Step, Sequence[Mapping[str, Any]]]:
        """Metadata of all finished artifacts that the step's were made from, by step."""
        found: dict[Step, list[Mapping[str, Any]]] = {}
        for step, key in self._plan.upstream(self._step, self._scene):
            content = read_metadata(key.place)
            if content:
                found.setdefault(step, []).append(content)
        return found

    @property
    def device(self) -> str:
        """The device that tensors are to live on: "cpu" or "cuda"."""
        return process.resolved(self._device)

    @property
    def device_if_gpu(self) -> str:
        """The same, found out without importing PyTorch where there is no GPU to be asked for."""
        return self.device if slots.gpus_needed(self._device) else "cpu"

    def progress(self, alone: bool = False) -> progress.Show:
        """A ``show(done, total)`` callback; ``alone`` where no other task runs beside."""
        title = " ".join(filter(None, (self._step.task_name, self._scene)))
        return progress.reporter(title, alone=alone)

"""Access of a running step to its config and inputs, limited to what its declaration names."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.artifacts.object_store import StoragePath
from data.artifacts.store import ArtifactKey, read_metadata
from pipeline.process import process, progress, slots
from pipeline.steps.declaration import STEPS, Input, Step, holds_labels

if TYPE_CHECKING:
    from pipeline.plan import Plan
    from pipeline.scene_sets import Dataset
    from stages.configs import Experiment

LOG = logging.getLogger("luigi-interface.stages")


class StepInputs:
    """Config and inputs of a running step.

    Raises LookupError for an input, part or section that the step's declaration does not name.

    Args:
        plan: the plan that gives the inputs' folders.
        step: the running step.
        scene: the scene that the step works on; None for the whole set.
        device: "auto", "cpu" or "cuda".
        processes: number of processes that a training may use.
    """

    def __init__(
        self, plan: Plan, step: Step, scene: str | None, device: str = "auto", processes: int = 1
    ) -> None:
        self._plan, self._step, self._scene = plan, step, scene
        self._device, self.processes = device, processes

    @property
    def scene(self) -> str:
        """Id of the scene that the step works on."""
        if self._scene is None:
            raise LookupError(f"step {self._step.name} works on the whole set, not on a scene")
        return self._scene

    @property
    def dataset(self) -> Dataset:
        """Scenes, splits, places and reader of the scene set; it reads no artifact."""
        return self._plan.dataset

    @property
    def config(self) -> Any:
        """The step's section of the config."""
        return self.section(self._step.section)

    def section(self, name: str) -> Any:
        """A section of the config that the step declared in ``section`` or ``also``."""
        if name not in (self._step.section, *self._step.also) or not name:
            raise LookupError(f"step {self._step.name} does not declare that it reads {name!r}")
        return getattr(self._plan.experiment, name)

    @property
    def experiment(self) -> Experiment:
        """The whole config, for a step that declared "*" in ``also``."""
        if "*" not in self._step.also:
            raise LookupError(f"step {self._step.name} does not declare that it reads all sections")
        return self._plan.experiment

    @property
    def teacher_warning(self) -> str:
        """What readers of the results must know of the teacher, or ""."""
        return self._plan.teacher_warning

    def has(self, name: str) -> bool:
        """Whether the plan needs a declared input."""
        return any(each.name == name for each in self._step.active_inputs(self._plan))

    def scenes(self, name: str) -> tuple[str, ...]:
        """Ids of the scenes for which an input of many scenes has an artifact."""
        units = self._plan.units_of(self._step.input(name, self._plan), self._scene)
        return tuple(unit for unit in units if unit is not None)

    def place(self, name: str, scene: str | None = None) -> StoragePath:
        """Folder or object-store location of an input's artifact, of ``scene`` or the own scene."""
        return self._key(self._step.input(name, self._plan), scene).place

    def folder(self, name: str, scene: str | None = None) -> Path:
        """Local folder of an input's artifact, for inputs that never lie in an object store."""
        return self._key(self._step.input(name, self._plan), scene).folder

    def config_of(self, name: str) -> Mapping[str, Any]:
        """The config under which an input's artifact of the whole set was made."""
        return self._key(self._step.input(name, self._plan), None).config

    def read(self, name: str, part: str = "", scene: str | None = None) -> Any:
        """Read a part of an input with the reader that the input's step declares.

        ``part`` may be omitted where the input declares a single one. Raises ArtifactError as the
        reader does.
        """
        step_input = self._step.input(name, self._plan)
        part = part or (step_input.parts[0] if len(step_input.parts) == 1 else "")
        if part not in step_input.parts:
            raise LookupError(
                f"step {self._step.name} reads part {part!r} of its input {name}, and declares "
                f"{', '.join(step_input.parts) or 'none'}"
            )
        maker = STEPS[step_input.step]
        is_label_free = self._step.labels == "never" and not self._step.oracle(self._plan)
        if is_label_free and holds_labels(step_input, part):
            raise LookupError(f"step {self._step.name} is label-free and may not read {part!r}")
        return self._plan.read_part(maker, part, self._key(step_input, scene))

    def _key(self, step_input: Input, scene: str | None) -> ArtifactKey:
        input_scene = None if step_input.scenes == "set" else scene or self._scene
        if step_input.scenes not in ("set", "same") and scene is None:
            raise LookupError(f"input {step_input.name} of step {self._step.name}: name the scene")
        return self._plan.origin(step_input, input_scene).key

    def costs(self) -> Mapping[Step, Sequence[Mapping[str, Any]]]:
        """Metadata of all finished artifacts that the step's artifact is made from, by step."""
        metadata: dict[Step, list[Mapping[str, Any]]] = {}
        for step, key in self._plan.upstream(self._step, self._scene):
            record = read_metadata(key.place)
            if record:
                metadata.setdefault(step, []).append(record)
        return metadata

    @property
    def device(self) -> str:
        """The device for tensors: "cpu" or "cuda"."""
        return process.resolved(self._device)

    @property
    def device_if_gpu(self) -> str:
        """The same; where this machine has no GPU it is found without importing PyTorch."""
        return self.device if slots.gpus_needed(self._device) else "cpu"

    def progress(self, alone: bool = False) -> progress.Show:
        """Callback that shows (done, total); ``alone`` where no other task runs beside it."""
        title = " ".join(filter(None, (self._step.task_name, self._scene)))
        return progress.reporter(title, alone=alone)

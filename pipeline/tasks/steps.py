"""One Luigi task class for each declared step, and the task RunAll.

A task of a step that works on scenes, without ``--scene``, makes the artifacts of all scenes of the
set, so every step can be run by its name alone.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import luigi

from data.artifacts.store import ArtifactKey, writing_anywhere
from pipeline import latest_results
from pipeline.plan import Plan, load_plan
from pipeline.process import process, slots
from pipeline.steps import STEPS, Input, Step
from pipeline.steps.declaration import ON_DECLARED, load
from pipeline.steps.step_inputs import StepInputs
from pipeline.tasks.base import ArtifactTask
from pipeline.tasks.preload import preload
from stages.network_configs import check_processes
from stages.teacher.identity import require_weights

_LOG = logging.getLogger("luigi-interface.run")


class PipelineTask(ArtifactTask):
    """Parameters and behaviour of all tasks on a scene set."""

    scene_set = luigi.Parameter(
        default="demo", description="name of a file in configs/scene_sets, or path of a YAML file"
    )
    device = luigi.ChoiceParameter(
        choices=["auto", "cpu", "cuda"],
        default="auto",
        significant=False,
        description="device for tensors; never changes results",
    )
    train_processes = luigi.IntParameter(
        default=1,
        significant=False,
        description="processes that train a student together; with CUDA one for each GPU",
    )

    needs_truth = False
    """Whether the task refuses scene sets without ground truth."""

    def check(self) -> None:
        """Refuse wrong parameters, and a set without the ground truth that the task needs."""
        self.plan.scenes()
        check_processes(self.plan.experiment.student, self.train_processes)
        if self.needs_truth:
            self.plan.dataset.check_truth(self.task_family)

    @property
    def plan(self) -> Plan:
        """The plan of this task's parameters, loaded once in each process."""
        return load_plan(self.scene_set, self.config, self.overrides)

    def step_task(
        self, step: Step, scene: str | None = None, overrides: str | None = None
    ) -> StepTask:
        """A step's task with the same parameters, or with other ``overrides``."""
        task = task_of(step)
        parameters = (
            self.shared_parameters()
            if overrides is None
            else {**self.shared_parameters(), "overrides": overrides}
        )
        return task(**parameters, scene=scene) if scene else task(**parameters)

    def shared_parameters(self) -> dict[str, Any]:
        """The parameters that all tasks of a run have in common."""
        names = ("scene_set", "config", "overrides", "device", "train_processes")
        return {name: getattr(self, name) for name in names}


class StepTask(PipelineTask):
    """The task of a declared step; requirements and execution follow from ``step``."""

    step: ClassVar[Step]

    def check(self) -> None:
        """Also refuse what the step's own ``check`` refuses."""
        super().check()
        if self.step.check is not None:
            self.step.check(self.plan)

    def check_ready(self) -> None:
        """Refuse teacher weights that are neither on this machine nor on the hub."""
        if self.step.asks_teacher:
            require_weights(self.plan.experiment.teacher)
            if self.plan.teacher_warning:
                _LOG.warning("%s", self.plan.teacher_warning)

    def key(self) -> ArtifactKey | None:
        """Key of the step's artifact; None for a step that the plan does not have."""
        return self.plan.key(self.step.name) if self.step.exists(self.plan) else None

    def requires(self) -> list[PipelineTask]:
        """The tasks of all declared inputs."""
        return self.input_tasks(self.unit()) if self.step.exists(self.plan) else []

    def input_tasks(self, scene: str | None) -> list[PipelineTask]:
        """The tasks that make the inputs of a scene's artifact, or of the set's."""
        plan = self.plan
        tasks: list[PipelineTask] = []
        for step_input in self.step.active_inputs(plan):
            for input_scene in plan.units_of(step_input, scene):
                task = self._task_of_input(plan, step_input, input_scene)
                if task is not None and task not in tasks:
                    tasks.append(task)
        return tasks

    def _task_of_input(self, plan: Plan, step_input: Input, scene: str | None) -> StepTask | None:
        """The task that makes an input; None for a finished student in a folder."""
        if step_input.origin is None:
            return self.step_task(STEPS[step_input.step], scene)
        origin = step_input.origin(plan)
        if origin.plan is None:
            return None
        if origin.plan is plan:
            return self.step_task(STEPS[origin.step], scene)
        parameters = {"scene_set": origin.plan.asked_set, "overrides": origin.plan.overrides}
        return task_of(STEPS[origin.step])(**{**self.shared_parameters(), **parameters})

    def num_gpus(self) -> int:
        """One for a step that uses a GPU, one for each process of a training, 0 on the CPU."""
        if self.key() is None:
            return 0
        if self.step.trains:
            return slots.gpus_needed(self.device, self.train_processes)
        asks = self.step.asks_teacher and self.plan.experiment.teacher.name != "oracle"
        return slots.gpus_needed(self.device) if asks or self.step.uses_gpu else 0

    def process_resources(self) -> dict[str, int]:
        """The GPUs, or this machine's slot for a big teacher on a CPU, as Luigi resources."""
        if self.step.asks_teacher and not self.num_gpus() and self.key() is not None:
            return slots.teacher_resources(self._has_small_teacher)
        return super().process_resources()

    @property
    def _has_small_teacher(self) -> bool:
        return self.plan.experiment.teacher.is_small

    def preload(self) -> None:
        """Import what the step needs, see ``pipeline.workers.worker.WarmWorker``."""
        if self.key() is not None:
            preload(self.step, self.plan.experiment)

    def make(self, key: ArtifactKey) -> None:
        """Run the step; a big teacher on a CPU waits for its slot."""
        needs_slot = self.step.asks_teacher and not self.num_gpus()
        with slots.teacher_slot(self._has_small_teacher) if needs_slot else nullcontext():
            run_step(self.step, self.plan, self.unit(), self.device, self.train_processes)


class SceneTask(StepTask):
    """The task of a step on one scene, or on all its scenes when none is named."""

    scene = luigi.OptionalParameter(default=None, description="id of one scene; default: all")

    def check(self) -> None:
        """Also refuse a scene that is in no split."""
        super().check()
        if self.scene is not None:
            self.plan.split_of(self.scene)

    def unit(self) -> str | None:
        """The scene id."""
        return self.scene

    def key(self) -> ArtifactKey | None:
        """Key of the scene's artifact."""
        return self.plan.key(self.step.name, self.scene) if self.scene is not None else None

    def requires(self) -> list[PipelineTask]:
        """The inputs of the scene's artifact, or the tasks of all scenes."""
        if self.scene is not None:
            return self.input_tasks(self.scene)
        return [self.step_task(self.step, name) for name in self.plan.scenes(*self.step.splits)]


_TASKS: dict[str, type[StepTask]] = {}


def task_of(step: Step) -> type[StepTask]:
    """The Luigi task class of a declared step, made at the first call."""
    if step.name not in _TASKS:
        base = SceneTask if step.is_per_scene else StepTask
        attributes = {
            "__doc__": step.summary,
            "__module__": "pipeline",
            "step": step,
            "priority": step.priority,
            "needs_truth": step.needs_truth,
        }
        metaclass: Any = type(base)
        _TASKS[step.name] = metaclass(step.task_name, (base,), attributes)
    return _TASKS[step.name]


def _make_task(step: Step) -> None:
    if step.make:
        task_of(step)


# Luigi's command line knows a task as soon as its class exists.
ON_DECLARED.append(_make_task)
for _step in STEPS.values():
    _make_task(_step)


def run_step(
    step: Step, plan: Plan, scene: str | None, device: str = "auto", processes: int = 1
) -> None:
    """Make one artifact, or wait for another process that is making it."""
    key = plan.key(step.name, scene)
    with writing_anywhere(key, step.resumable) as folder:
        if folder is not None:
            load(step.make)(StepInputs(plan, step, scene, device, processes), folder)


class RunAll(PipelineTask):
    """All steps from scans to the report; copies the results to ``<output>/<scene set>/``."""

    def requires(self) -> list[PipelineTask]:
        """The report, and the steps of the modules that the config names."""
        steps = (STEPS["report"], *self.plan.own_steps)
        return [self.step_task(step) for step in steps]

    def identity(self) -> str:
        """Fingerprint of the report."""
        return self.plan.key("report").fingerprint[:12]

    def results_at(self) -> Path:
        """Path of the report page."""
        return self.plan.output / "report.html"

    def complete(self) -> bool:
        """Whether the copied results are those of this config."""
        is_current = latest_results.is_current(self.plan.output, self.plan.key("report"))
        return is_current and all(task.complete() for task in self.requires()[1:])

    def run(self) -> None:
        """Copy the finished report's files."""
        process.set_parent_death_signal()
        latest_results.publish(self.plan.output, self.plan.key("report"))

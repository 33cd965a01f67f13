"""One Luigi task for each declared step, and the task that runs them all.

A task of a step of one scene, asked for without ``--scene``, stands for all scenes of the set, so
every step can be asked for by its name alone.
"""

from __future__ import annotations

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
from pipeline.steps.given import Given
from pipeline.tasks.base import ArtifactTask
from pipeline.tasks.preload import preload
from stages.network_configs import check_processes
from stages.teacher.identity import require_weights


class PipelineTask(ArtifactTask):
    """Parameters and behaviour that all tasks on a scene set share."""

    scene_set = luigi.Parameter(
        default="demo", description="a file in configs/scene_sets, or the path of one"
    )
    device = luigi.ChoiceParameter(
        choices=["auto", "cpu", "cuda"],
        default="auto",
        significant=False,
        description="where tensors live; never changes what is computed",
    )
    train_processes = luigi.IntParameter(
        default=1,
        significant=False,
        description="processes that train a student together, on CUDA one a GPU",
    )

    needs_truth = False
    """Whether the task is for sets alone that have something to measure against."""

    def check(self) -> None:
        """Refuse a wrong config, scene set, split or number, and a set without truth it needs."""
        self.plan.scenes()
        check_processes(self.plan.experiment.student, self.train_processes)
        if self.needs_truth:
            self.plan.dataset.check_truth(self.task_family)

    @property
    def plan(self) -> Plan:
        """The plan of this task's parameters, loaded once per process."""
        return load_plan(self.scene_set, self.config, self.overrides)

    def step_task(
        self, step: Step, scene: str | None = None, overrides: str | None = None
    ) -> StepTask:
        """A step's task under the same parameters, or under other ``overrides``."""
        task = task_of(step)
        parameters = self.same() if overrides is None else {**self.same(), "overrides": overrides}
        return task(**parameters, scene=scene) if scene else task(**parameters)

    def same(self) -> dict[str, Any]:
        """The parameters that tasks on the same scene set share."""
        names = ("scene_set", "config", "overrides", "device", "train_processes")
        return {name: getattr(self, name) for name in names}


class StepTask(PipelineTask):
    """The task of a declared step: what it requires and how it runs follow from ``step``."""

    step: ClassVar[Step]

    @property
    def needs_truth(self) -> bool:  # type: ignore[override]
        """Whether the step is for sets alone that have something to measure against."""
        return self.step.needs_truth

    def check(self) -> None:
        """Refuse also what the step itself refuses."""
        super().check()
        if self.step.check is not None:
            self.step.check(self.plan)

    def check_ready(self) -> None:
        """Refuse a teacher's weights that are nowhere here and cannot be fetched."""
        if self.step.asks_teacher:
            require_weights(self.plan.experiment.teacher)

    def key(self) -> ArtifactKey | None:
        """The step's artifact; None where the plan does not have the step."""
        return self.plan.key(self.step.name) if self.step.exists(self.plan) else None

    def requires(self) -> list[PipelineTask]:
        """The tasks of all declared inputs."""
        return self.input_tasks(self.unit()) if self.step.exists(self.plan) else []

    def input_tasks(self, scene: str | None) -> list[PipelineTask]:
        """The tasks that make the inputs of one scene's artifact, or of the set's."""
        plan, found = self.plan, []
        for one in self.step.active_inputs(plan):
            for of in plan.scenes_of(one, scene) or (None,):
                task = self._task_of_input(plan, one, of)
                if task is not None and task not in found:
                    found.append(task)
        return found

    def _task_of_input(self, plan: Plan, one: Input, scene: str | None) -> StepTask | None:
        """The task that makes an input; None for a finished student's folder."""
        if one.origin is None:
            return self.step_task(STEPS[one.step], scene)
        origin = one.origin(plan)
        if origin.plan is None:
            return None
        if origin.plan is plan:
            return self.step_task(STEPS[origin.step], scene)
        other = {"scene_set": origin.plan.asked_set, "overrides": origin.plan.overrides}
        return task_of(STEPS[origin.step])(**{**self.same(), **other})

    def num_gpus(self) -> int:
        """One for a step that uses them, one for each process of a training; none on the CPU."""
        if self.key() is None:
            return 0
        if self.step.trains:
            return slots.gpus_needed(self.device, self.train_processes)
        asks = self.step.asks_teacher and self.plan.experiment.teacher.name != "oracle"
        return slots.gpus_needed(self.device) if asks or self.step.uses_gpu else 0

    def process_resources(self) -> dict[str, int]:
        """The GPUs, or this machine's place for a big teacher where there is no GPU."""
        if self.step.asks_teacher and not self.num_gpus() and self.key() is not None:
            return slots.teacher_resources(self._has_small_teacher)
        return super().process_resources()

    @property
    def _has_small_teacher(self) -> bool:
        return self.plan.experiment.teacher.is_small

    def preload(self) -> None:
        """Import what the step will need; see ``pipeline.workers.warm_worker``."""
        if self.key() is not None:
            preload(self.step, self.plan.experiment)

    def make(self, key: ArtifactKey) -> None:
        """Run the step; one that asks a big teacher on a CPU waits for its place."""
        waits = self.step.asks_teacher and not self.num_gpus()
        with slots.teacher_slot(self._has_small_teacher) if waits else nullcontext():
            run_step(self.step, self.plan, self.unit(), self.device, self.train_processes)


class SceneTask(StepTask):
    """A step of one scene, or of all scenes (of all validation scenes) when none is named."""

    scene = luigi.OptionalParameter(default=None, description="one scene id; all when left out")

    def check(self) -> None:
        """Refuse also a scene of no split."""
        super().check()
        if self.scene is not None:
            self.plan.split_of(self.scene)

    def unit(self) -> str | None:
        """The scene."""
        return self.scene

    def key(self) -> ArtifactKey | None:
        """The scene's artifact."""
        return self.plan.key(self.step.name, self.scene) if self.scene is not None else None

    def requires(self) -> list[PipelineTask]:
        """The scene's inputs, or the tasks of all scenes that the step stands for."""
        if self.scene is not None:
            return self.input_tasks(self.scene)
        return [self.step_task(self.step, name) for name in self.plan.scenes(*self.step.splits)]


_TASKS: dict[str, type[StepTask]] = {}


def task_of(step: Step) -> type[StepTask]:
    """The Luigi task class of a declared step, made when it is first asked for."""
    if step.name not in _TASKS:
        base = SceneTask if step.is_per_scene else StepTask
        content = {
            "__doc__": step.summary,
            "__module__": "pipeline",
            "step": step,
            "priority": step.priority,
        }
        _TASKS[step.name] = type(base)(step.task_name, (base,), content)
    return _TASKS[step.name]


def _make_task(step: Step) -> None:
    if step.make:
        task_of(step)


# Luigi finds a task on its command line once its class is there.
ON_DECLARED.append(_make_task)
for _step in STEPS.values():
    _make_task(_step)


def run_step(
    step: Step, plan: Plan, scene: str | None, device: str = "auto", processes: int = 1
) -> None:
    """Make one artifact, or wait for another process that is making it."""
    key = plan.key(step.name, scene)
    with writing_anywhere(key, step.resumable) as place:
        if place is not None:
            load(step.make)(Given(plan, step, scene, device, processes), place)


class RunAll(PipelineTask):
    """Scans to report; puts the results at ``<output>/<scene set>/``."""

    def requires(self) -> list[PipelineTask]:
        """The report, and the steps that the config's own modules declare."""
        steps = (STEPS["report"], *self.plan.own_steps)
        return [self.step_task(step) for step in steps]

    def identity(self) -> str:
        """The report's fingerprint."""
        return self.plan.key("report").fingerprint[:12]

    def results_at(self) -> Path:
        """The page."""
        return self.plan.output / "report.html"

    def complete(self) -> bool:
        """Whether the results put in place are those of this very config."""
        is_current = latest_results.is_current(self.plan.output, self.plan.key("report"))
        return is_current and all(task.complete() for task in self.requires()[1:])

    def run(self) -> None:
        """Put the finished report's files in place."""
        process.die_with_parent()
        latest_results.publish(self.plan.output, self.plan.key("report"))

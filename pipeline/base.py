"""What all Luigi tasks share: parameters, completeness and one way of running.

A task knows its artifact's key from the plan, is complete when that artifact is, and runs the
stage of its name through ``pipeline.jobs``. A per-scene task without ``--scene`` stands for all
scenes of the set, so every stage can be asked for by name alone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import luigi
from luigi.task import flatten

from data.artifacts.store import ArtifactKey, is_complete
from data.errors import UserError
from pipeline import full_disk, gpus, process, task_log
from pipeline.plan import Plan, load_plan
from stages.network_configs import check_processes


class ArtifactTarget(luigi.Target):
    """An artifact as Luigi sees it: it exists when it is complete."""

    def __init__(self, key: ArtifactKey) -> None:
        self.key = key

    def exists(self) -> bool:
        """Whether metadata of this very fingerprint is there, and the files it lists."""
        return is_complete(self.key)

    def __str__(self) -> str:
        return str(self.key.place)


class ReadableTask(luigi.Task):
    """A task whose failures a user can read."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    def on_failure(self, exception: BaseException) -> Any:
        """The message of a user's mistake, Luigi's traceback for anything else."""
        if isinstance(exception, UserError):
            return str(exception)
        return super().on_failure(exception)


class ArtifactTask(ReadableTask):
    """A task that makes one artifact, or none and stands for those it needs."""

    config = luigi.Parameter(default="", description="experiment file laid over the defaults")
    overrides = luigi.Parameter(
        default="", description="key=value,key=value laid over everything, e.g. student.lr=0.02"
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.check()
        identity = self.identity()
        if identity:
            names = (self.task_family, self.unit(), identity)
            self.task_id = "_".join(name for name in names if name)

    def check(self) -> None:
        """Refuse wrong parameters before any work."""

    def unit(self) -> str | None:
        """What of many like it the task works on, such as a scene."""
        return None

    def preload(self) -> None:
        """Import what the task will need, in the process that its own is forked from."""

    def key(self) -> ArtifactKey | None:
        """The artifact this task makes; None for one that only stands for others."""
        return None

    def results_at(self) -> Path | None:
        """The place of what the task made; None where there are several."""
        key = self.key()
        return key.folder if key else None

    def identity(self) -> str:
        """What tells two configs' tasks apart on a shared scheduler."""
        key = self.key()
        return key.fingerprint[:12] if key else ""

    def output(self) -> list[ArtifactTarget]:
        """The artifact, or nothing."""
        key = self.key()
        return [ArtifactTarget(key)] if key else []

    def complete(self) -> bool:
        """Whether the artifact is there; for a task without one, whether all it needs is."""
        if self.key():
            return all(target.exists() for target in self.output())
        return all(task.complete() for task in flatten(self.requires()))

    def run(self) -> None:
        """Make the artifact in this worker process."""
        process.die_with_parent()
        key = self.key()
        if key is not None:
            cores = process.num_cores()
            process.limit_threads(max(1, cores // num_workers()) if self.unit() else cores)
            stage = key.folder.parent.parent if self.unit() else key.folder.parent
            log = task_log.artifact_log(key, self.unit())
            with full_disk.explained(key.folder, stage), task_log.kept(log, str(self)):
                with gpus.taken(self.num_gpus()):
                    self.make(key)

    def num_gpus(self) -> int:
        """How many GPUs the task needs for itself, where there are any."""
        return 0

    def process_resources(self) -> dict[str, int]:
        """The GPUs, so that no more tasks start than there are; tasks of other hosts wait."""
        # More than there are would wait for ever, where the task itself says what is wrong.
        count = 0 if process.is_central() else min(self.num_gpus(), len(gpus.visible()))
        return {gpus.resource_name(): count} if count else {}

    @abstractmethod
    def make(self, key: ArtifactKey) -> None:
        """Run the stage."""


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

    uses_gpu = False
    """Whether the stage computes on a GPU where there is one."""
    needs_truth = False
    """Whether the task is for sets alone that have something to measure against."""

    def check(self) -> None:
        """Refuse a wrong config, scene set, split or number, and a set without truth it needs."""
        self.plan.scenes()
        check_processes(self.plan.experiment.student, self.train_processes)
        if self.needs_truth:
            self.plan.check_truth(self.task_family)

    def unit(self) -> str | None:
        """The scene, for a task of one."""
        return getattr(self, "scene", None)

    def num_gpus(self) -> int:
        """One for a stage that uses them, unless it is to run on the CPU."""
        works = self.uses_gpu and self.key() is not None
        return gpus.wanted(self.device) if works else 0

    @property
    def plan(self) -> Plan:
        """The plan of this task's parameters, loaded once per process."""
        return load_plan(self.scene_set, self.config, self.overrides)

    def preload(self) -> None:
        """Import what the stage will need; see ``pipeline.warm_worker``."""
        key = self.key()
        if key is not None:
            from stages.preload import preload

            preload(key.stage, self.plan.experiment)

    def make(self, key: ArtifactKey) -> None:
        """Run the stage of the artifact's name."""
        from pipeline import jobs

        jobs.run(key, self.plan, self.unit(), self.device)

    def other(
        self, task: type[PipelineTask], scene: str | None = None, overrides: str | None = None
    ) -> PipelineTask:
        """Another stage's task under the same parameters, or under other ``overrides``."""
        same = {
            "scene_set": self.scene_set,
            "config": self.config,
            "overrides": self.overrides if overrides is None else overrides,
            "device": self.device,
            "train_processes": self.train_processes,
        }
        return task(**same, scene=scene) if scene else task(**same)

    def each_scene(self, task: type[PipelineTask], *splits: Any) -> Iterator[PipelineTask]:
        """A stage's tasks of all scenes of the splits (of all splits when none is named)."""
        return (self.other(task, scene) for scene in self.plan.scenes(*splits))


def num_workers() -> int:
    """Worker processes of this run, as Luigi resolved them."""
    return max(1, int(luigi.interface.core().workers))


class SceneTask(PipelineTask):
    """A stage of one scene, or of all scenes when none is named."""

    scene = luigi.OptionalParameter(default=None, description="one scene id; all when left out")

    def check(self) -> None:
        """Refuse also a scene of no split."""
        super().check()
        if self.scene is not None:
            self.plan.split_of(self.scene)

    @abstractmethod
    def scene_key(self, scene: str) -> ArtifactKey:
        """The artifact of one scene."""

    def scene_requires(self, scene: str) -> list[PipelineTask]:
        """What the stage of one scene needs."""
        return []

    def key(self) -> ArtifactKey | None:
        """The scene's artifact."""
        return self.scene_key(self.scene) if self.scene is not None else None

    def requires(self) -> list[PipelineTask]:
        """What the scene needs, or all scenes' tasks."""
        if self.scene is not None:
            return self.scene_requires(self.scene)
        return list(self.each_scene(type(self)))

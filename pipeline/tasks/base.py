"""What all Luigi tasks of this project share: parameters, completeness and one way of running."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import luigi
from luigi.task import flatten

from data.artifacts.store import ArtifactKey, is_complete
from data.errors import UserError
from pipeline.process import full_disk, process, slots, task_log


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

    config = luigi.Parameter(
        default="", description="a file in configs/experiments, or the path of one"
    )
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

    def check_ready(self) -> None:
        """Refuse what a run of the task would fail for; asked once per kind of task to be run."""

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
                with slots.hold_gpus(self.num_gpus()):
                    self.make(key)

    def num_gpus(self) -> int:
        """How many GPUs the task needs for itself, where there are any."""
        return 0

    def process_resources(self) -> dict[str, int]:
        """The GPUs, so that no more tasks start than there are; tasks of other hosts wait."""
        # More than there are would wait for ever, where the task itself says what is wrong.
        count = 0 if process.is_central() else min(self.num_gpus(), len(slots.visible_gpus()))
        return {slots.gpu_resource(): count} if count else {}

    def make(self, key: ArtifactKey) -> None:
        """Make the artifact; a task without a key is never asked to."""


def num_workers() -> int:
    """Worker processes of this run, as Luigi resolved them."""
    return max(1, int(luigi.interface.core().workers))

"""Base classes of all Luigi tasks: parameters, completeness, and the frame in which a task runs."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import luigi
from luigi.task import flatten

from data.artifacts.store import ArtifactKey, is_complete
from data.errors import UserError
from pipeline.process import full_disk, process, slots, task_log


class ArtifactTarget(luigi.Target):
    """A Luigi target for an artifact; it exists when the artifact is complete."""

    def __init__(self, key: ArtifactKey) -> None:
        self.key = key

    def exists(self) -> bool:
        """Whether metadata with this fingerprint and all files that it lists exist."""
        return is_complete(self.key)

    def __str__(self) -> str:
        return str(self.key.place)


class ReadableTask(luigi.Task):
    """A task that reports a user's mistake as one message."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    @classmethod
    @functools.cache
    def get_params(cls) -> list[tuple[str, luigi.Parameter]]:
        """The declared parameters by name. Luigi would look for them again for every task."""
        params: list[tuple[str, luigi.Parameter]] = super().get_params()
        return params

    def on_failure(self, exception: BaseException) -> Any:
        """The message of a UserError; Luigi's traceback for any other exception."""
        if isinstance(exception, UserError):
            return str(exception)
        return super().on_failure(exception)


class ArtifactTask(ReadableTask):
    """A task that makes one artifact, or only groups the tasks that it requires."""

    config = luigi.Parameter(
        default="", description="name of a file in configs/experiments, or path of a YAML file"
    )
    overrides = luigi.Parameter(
        default="", description="config keys to change: key=value,key=value, e.g. student.lr=0.02"
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.check()
        identity = self.identity()
        if identity:
            names = (self.task_family, self.unit(), identity)
            self.task_id = "_".join(name for name in names if name)

    def check(self) -> None:
        """Raise UserError for wrong parameters, before any work."""

    def check_ready(self) -> None:
        """Raise UserError for what would fail at run time; called once for each kind of task."""

    def unit(self) -> str | None:
        """The scene or shard that the task works on; None for the whole set."""
        return None

    def preload(self) -> None:
        """Import the task's libraries, in the worker that forks the task."""

    def key(self) -> ArtifactKey | None:
        """Key of the artifact; None for a task that only groups others."""
        return None

    def results_at(self) -> Path | None:
        """Path of the result; None where there are several."""
        key = self.key()
        return key.folder if key else None

    def identity(self) -> str:
        """Text that distinguishes the tasks of two configs on a shared scheduler."""
        key = self.key()
        return key.fingerprint[:12] if key else ""

    def output(self) -> list[ArtifactTarget]:
        """The artifact's target; no target for a task without artifact."""
        key = self.key()
        return [ArtifactTarget(key)] if key else []

    def complete(self) -> bool:
        """Whether the artifact is complete; without one, whether all required tasks are."""
        if self.key():
            return all(target.exists() for target in self.output())
        return all(task.complete() for task in flatten(self.requires()))

    def run(self) -> None:
        """Make the artifact in this process: set threads, hold GPUs, write the log."""
        process.set_parent_death_signal()
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
        """Number of GPUs that the task needs on a machine with GPUs."""
        return 0

    def process_resources(self) -> dict[str, int]:
        """The GPUs as Luigi resources, so that at most as many tasks start as there are GPUs."""
        # Luigi would wait for ever for more GPUs than there are; the task reports that instead.
        count = 0 if process.is_central() else min(self.num_gpus(), len(slots.visible_gpus()))
        return {slots.gpu_resource(): count} if count else {}

    def make(self, key: ArtifactKey) -> None:
        """Make the artifact; never called for a task without a key."""


def num_workers() -> int:
    """Number of worker processes of this run, as Luigi resolved it."""
    return max(1, int(luigi.interface.core().workers))

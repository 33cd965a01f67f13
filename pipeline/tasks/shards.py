"""Luigi task that fills the teacher's cache shard by shard, on several processes or nodes.

``luigi --module pipeline CacheTeacherMasks --scene-set X --num-shards 8 --shard-index 0``

A shard is one task for many scenes, so thousands of scenes are scheduled quickly, and its process
loads the teacher once. The scenes of a shard follow from the queries alone, so all nodes compute
the same shards, and running a lost shard again completes it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property

import luigi

from data.artifacts.store import is_complete
from data.errors import ConfigError, UserError
from pipeline.plan import Plan
from pipeline.process import full_disk, process, progress, slots, task_log
from pipeline.steps import STEPS
from pipeline.steps.questions import question_steps, questions_of
from pipeline.tasks.base import ArtifactTarget
from pipeline.tasks.steps import PipelineTask, run_step
from stages.teacher.identity import require_weights

_LOG = logging.getLogger("luigi-interface.shards")


def balanced(weights: Mapping[str, int], num_shards: int) -> list[list[str]]:
    """Divide names into shards of similar weight: heaviest first, each to the lightest shard.

    The result is the same on every machine; ties are broken by name, then by shard. Within a
    shard the names keep the order of ``weights``.
    """
    loads, chosen = [0] * num_shards, {}
    for name in sorted(weights, key=lambda name: (-weights[name], name)):
        lightest = min(range(num_shards), key=lambda k: (loads[k], k))
        loads[lightest] += weights[name]
        chosen[name] = lightest
    return [[name for name in weights if chosen[name] == k] for k in range(num_shards)]


def are_prepared(plan: Plan) -> bool:
    """Whether the queries are prepared and parsed."""
    return all(is_complete(plan.key(step.name)) for step in question_steps(plan))


def shards_of(plan: Plan, num_shards: int) -> list[list[str]]:
    """Scene ids of each shard, balanced by number of prompts; the queries must be prepared."""
    return balanced(questions_of(plan).counts(), num_shards)


class CacheTeacherMasks(PipelineTask):
    """Teacher caches of one shard of the scenes; also prepares its scenes where needed."""

    num_shards = luigi.IntParameter(
        default=1, description="number of shards that the scenes are divided into"
    )
    shard_index = luigi.IntParameter(default=0, description="number of this shard, from 0")

    def check(self) -> None:
        """Also refuse a shard number outside the number of shards."""
        super().check()
        if self.num_shards < 1 or not 0 <= self.shard_index < self.num_shards:
            raise ConfigError(
                f"--shard-index: expected 0 to {self.num_shards - 1} of --num-shards "
                f"{self.num_shards}, found {self.shard_index}"
            )
        self.plan.key("run_teacher", self.plan.scenes()[0])

    def check_ready(self) -> None:
        """Refuse weights that are neither on this machine nor on the hub."""
        require_weights(self.plan.experiment.teacher)

    def unit(self) -> str:
        """The shard as ``<index>_of_<number>``."""
        return f"{self.shard_index}_of_{self.num_shards}"

    def requires(self) -> list[PipelineTask]:
        """The queries and their trees, which give each scene's number of prompts."""
        return [self.step_task(step) for step in question_steps(self.plan)]

    def identity(self) -> str:
        """Fingerprint of the first scene's teacher cache, which stands for the config."""
        return self.plan.key("run_teacher", self.plan.scenes()[0]).fingerprint[:12]

    @cached_property
    def scenes(self) -> Sequence[str]:
        """Scene ids of this shard; the queries must be prepared.

        A scene's weight is its number of prompts, as most scenes have the same number of views.
        """
        return shards_of(self.plan, self.num_shards)[self.shard_index]

    def output(self) -> list[ArtifactTarget]:
        """The shard's caches; nothing before the queries are prepared."""
        if not are_prepared(self.plan):
            return []
        return [ArtifactTarget(self.plan.key("run_teacher", name)) for name in self.scenes]

    def complete(self) -> bool:
        """Whether every scene of the shard has its cache."""
        return are_prepared(self.plan) and all(target.exists() for target in self.output())

    def num_gpus(self) -> int:
        """One, except for the oracle, which runs no network."""
        return (
            slots.gpus_needed(self.device) if self.plan.experiment.teacher.name != "oracle" else 0
        )

    def run(self) -> None:
        """Fill the caches scene by scene; errors of broken scenes are raised at the end."""
        process.set_parent_death_signal()
        process.limit_threads(process.num_cores())
        log = task_log.log_path(self.plan.output, "cache_teacher_masks", self.unit())
        with task_log.kept(log, str(self)), slots.hold_gpus(self.num_gpus()):
            self._fill()

    def _fill(self) -> None:
        show = progress.reporter(f"CacheTeacherMasks {self.unit()}", alone=True)
        errors: list[str] = []
        for done, name in enumerate(self.scenes):
            show(done, len(self.scenes))
            try:
                for step in (STEPS["prepare_scene"], STEPS["run_teacher"]):
                    folder = self.plan.key(step.name, name).folder
                    with full_disk.explained(folder, folder.parent.parent):
                        run_step(step, self.plan, name, self.device)
            except UserError as error:
                errors.append(f"{name}: {error}")
                _LOG.error("CacheTeacherMasks %s: %s", name, error)
        show(len(self.scenes), len(self.scenes))
        if errors:
            first_errors = "\n  ".join(errors[:5])
            raise UserError(f"{len(errors)} of {len(self.scenes)} scenes failed:\n  {first_errors}")

"""The teacher's cache filled in bulk, by as many processes or nodes as there are.

``luigi --module pipeline CacheTeacherMasks --scene-set X --num-shards 8 --shard-index 0``

A shard is one task, whatever the number of its scenes, so that thousands of them are scheduled at
once; its process loads the teacher once. Which scenes are whose follows from the queries alone,
so every node finds the same, and a lost shard is finished by running it again.
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
from pipeline.steps.questions import questions_of
from pipeline.tasks.base import ArtifactTarget
from pipeline.tasks.steps import PipelineTask, run_step
from stages.teacher.identity import require_weights

_LOG = logging.getLogger("luigi-interface.shards")


def balanced(weights: Mapping[str, int], num_shards: int) -> list[list[str]]:
    """Names in shards of much the same weight: the heaviest first, each to the lightest shard.

    The same for the same weights on every machine; ties go by name, then by shard. Within a
    shard names stand in the order of ``weights``.
    """
    loads, chosen = [0] * num_shards, {}
    for name in sorted(weights, key=lambda name: (-weights[name], name)):
        lightest = min(range(num_shards), key=lambda k: (loads[k], k))
        loads[lightest] += weights[name]
        chosen[name] = lightest
    return [[name for name in weights if chosen[name] == k] for k in range(num_shards)]


def shards_of(plan: Plan, num_shards: int) -> list[list[str]]:
    """The scenes of each shard, by how many questions they are asked; queries are prepared."""
    return balanced(questions_of(plan).counts(), num_shards)


class CacheTeacherMasks(PipelineTask):
    """One shard of all scenes' teacher caches; prepares the scenes that are not prepared."""

    num_shards = luigi.IntParameter(default=1, description="parts that the scenes are dealt to")
    shard_index = luigi.IntParameter(default=0, description="which part this is, from 0 on")

    def check(self) -> None:
        """Refuse also a shard that there is not."""
        super().check()
        if self.num_shards < 1 or not 0 <= self.shard_index < self.num_shards:
            raise ConfigError(
                f"--shard-index: expected 0 to {self.num_shards - 1} of --num-shards "
                f"{self.num_shards}, found {self.shard_index}"
            )
        self.plan.key("run_teacher", self.plan.scenes()[0])

    def check_ready(self) -> None:
        """Refuse weights that are nowhere here and cannot be fetched."""
        require_weights(self.plan.experiment.teacher)

    def unit(self) -> str:
        """The shard."""
        return f"{self.shard_index}_of_{self.num_shards}"

    def requires(self) -> PipelineTask:
        """The queries, which tell how much each scene costs."""
        return self.step_task(STEPS["prepare_prompts"])

    def identity(self) -> str:
        """The first scene's teacher cache stands for the config's."""
        return self.plan.key("run_teacher", self.plan.scenes()[0]).fingerprint[:12]

    @cached_property
    def scenes(self) -> Sequence[str]:
        """This shard's; the queries must have been prepared.

        A scene weighs its questions, as all have as many views, but for those with few images.
        """
        return shards_of(self.plan, self.num_shards)[self.shard_index]

    def output(self) -> list[ArtifactTarget]:
        """The shard's caches, once it is known which they are."""
        if not is_complete(self.plan.key("prepare_prompts")):
            return []
        return [ArtifactTarget(self.plan.key("run_teacher", name)) for name in self.scenes]

    def complete(self) -> bool:
        """Whether every scene of the shard has its cache."""
        prepared = is_complete(self.plan.key("prepare_prompts"))
        return prepared and all(target.exists() for target in self.output())

    def num_gpus(self) -> int:
        """One, but for the oracle, which computes nothing."""
        return (
            slots.gpus_needed(self.device) if self.plan.experiment.teacher.name != "oracle" else 0
        )

    def run(self) -> None:
        """Fill the caches, one scene after the other; a broken scene fails alone, at the end."""
        process.die_with_parent()
        process.limit_threads(process.num_cores())
        log = task_log.log_path(self.plan.output, "cache_teacher_masks", self.unit())
        with task_log.kept(log, str(self)), slots.hold_gpus(self.num_gpus()):
            self._fill()

    def _fill(self) -> None:
        show = progress.reporter(f"CacheTeacherMasks {self.unit()}", alone=True)
        broken: list[str] = []
        for done, name in enumerate(self.scenes):
            show(done, len(self.scenes))
            try:
                for step in (STEPS["prepare_scene"], STEPS["run_teacher"]):
                    folder = self.plan.key(step.name, name).folder
                    with full_disk.explained(folder, folder.parent.parent):
                        run_step(step, self.plan, name, self.device)
            except UserError as error:
                broken.append(f"{name}: {error}")
                _LOG.error("CacheTeacherMasks %s: %s", name, error)
        show(len(self.scenes), len(self.scenes))
        if broken:
            told = "\n  ".join(broken[:5])
            raise UserError(f"{len(broken)} of {len(self.scenes)} scenes failed:\n  {told}")

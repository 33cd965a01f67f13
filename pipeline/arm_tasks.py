"""What the tasks of ablation and error curves share: leaf tasks and keys of several arms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data.artifacts.store import ArtifactKey
from data.artifacts.versions import VERSIONS
from data.types import Split
from pipeline import ablation_jobs
from pipeline.arms import Arm, ArmRun
from pipeline.base import PipelineTask
from pipeline.plan import Plan, load_plan
from pipeline.result_tasks import JudgeTeacher, PredictMasks
from pipeline.tasks import FuseMasks


class ArmsTask(PipelineTask):
    """What tasks share that score several arms."""

    needs_truth = True

    def run_plans(self, of_runs: Sequence[ArmRun]) -> list[tuple[ArmRun, Plan]]:
        """Each run with the plan of its overrides."""
        return [(run, load_plan(self.scene_set, self.config, run.overrides)) for run in of_runs]

    def leaves(self, of_runs: Sequence[ArmRun], split: Split) -> Iterator[PipelineTask]:
        """The tasks whose artifacts are scored, each artifact's once."""
        known: set[str] = set()
        for run, plan in self.run_plans(of_runs):
            for scene in plan.scenes(split):
                folder = str(ablation_jobs.leaf_key(run.arm, plan, scene).folder)
                if folder not in known:
                    known.add(folder)
                    yield self.other(_task(run.arm), scene, run.overrides)

    def inputs(self, of_runs: Sequence[ArmRun], split: Split, prefix: str = "") -> dict[str, str]:
        """Fingerprints of all that is scored."""
        return {
            f"{prefix}{run.arm.name} {run.seed} {scene}": ablation_jobs.leaf_key(
                run.arm, plan, scene
            ).fingerprint
            for run, plan in self.run_plans(of_runs)
            for scene in plan.scenes(split)
        }


def _task(arm: Arm) -> type[PipelineTask]:
    tasks: dict[str, type[PipelineTask]] = {"labels": FuseMasks, "teacher_2d": JudgeTeacher}
    return tasks.get(arm.scored, PredictMasks)


def arms_key(
    plan: Plan, stage: str, config: Mapping[str, Any], inputs: Mapping[str, str]
) -> ArtifactKey:
    """Key of an artifact that is made of several plans' artifacts."""
    return ArtifactKey.make(plan.output, stage, VERSIONS[stage], config, inputs)

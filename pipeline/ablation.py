"""The ablation as Luigi tasks: every arm from one cache.

``luigi --module pipeline Ablation --scene-set demo_large --seeds 3``
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import luigi

from data.artifacts.store import ArtifactKey
from data.errors import ConfigError
from data.types import Split
from pipeline import ablation_jobs, arms, process, published
from pipeline.arm_tasks import ArmsTask, arms_key
from pipeline.arms import Arm, ArmRun
from pipeline.base import PipelineTask
from pipeline.result_tasks import Evaluate
from pipeline.tasks import PreparePrompts

_LOG = logging.getLogger("luigi-interface.stages")
_POINTERS = {"val": "latest_ablation.json", "tune": "latest_ablation_tune.json"}
_NAMES: Mapping[str, Mapping[str, str]] = {
    "val": {"ablation.json": "ablation.json", "ablation.svg": "ablation.svg"},
    "tune": {"ablation.json": "ablation_tune.json", "ablation.svg": "ablation_tune.svg"},
}


class AblationTask(ArmsTask):
    """Parameters of the ablation."""

    seeds = luigi.IntParameter(default=3, description="seeds that students are trained with")
    arms = luigi.Parameter(
        default="", description="arms such as B,E,F; when left out, all possible ones"
    )
    split = luigi.ChoiceParameter(
        choices=["val", "tune"],
        default="val",
        description="rooms to score: val to report, tune to choose settings by",
    )

    def check(self) -> None:
        """Refuse also unknown arms, a number of seeds under 1 and a split without scenes."""
        super().check()
        arms.chosen(self.arms)
        if self.seeds < 1:
            raise ConfigError(f"--seeds: expected 1 or more, found {self.seeds}")
        if not self.plan.scenes(self.rooms):
            raise ConfigError(
                f"--split: {self.plan.scene_set.source} has no scenes to {self.split}"
            )

    @property
    def rooms(self) -> Split:
        """The split that is scored."""
        return "tune" if self.split == "tune" else "val"

    def chosen_arms(self) -> tuple[Arm, ...]:
        """The arms named, or all that are possible with this teacher."""
        chosen = arms.chosen(self.arms)
        return chosen if self.arms else arms.possible(chosen, self.plan.experiment)

    def runs(self) -> list[ArmRun]:
        """Every arm with every seed."""
        return arms.runs(self.chosen_arms(), self.seeds, self.overrides)

    def measured(self) -> ArtifactKey:
        """The figures of all arms."""
        told = [[arm.name, arm.title, arm.scored] for arm in self.chosen_arms()]
        config = {"arms": told, "system": arms.SYSTEM, "split": self.split}
        inputs = {"prompts": self.plan.prompts().fingerprint}
        inputs |= self.inputs(self.runs(), self.rooms)
        return arms_key(self.plan, "ablation", config, inputs)

    def reported(self) -> ArtifactKey:
        """The report that has a section on the ablation."""
        evaluation = self.plan.evaluate().fingerprint
        inputs = {"evaluation": evaluation, "ablation": self.measured().fingerprint}
        return arms_key(self.plan, "report", self.plan.experiment.report.model_dump(), inputs)

    def alike(self, task: type[AblationTask]) -> AblationTask:
        """Another of these tasks under the same parameters."""
        return task(**self.param_kwargs)


class MeasureArms(AblationTask):
    """Figures, rows and chart of all arms."""

    def key(self) -> ArtifactKey:
        """The figures."""
        return self.measured()

    def requires(self) -> list[PipelineTask]:
        """The queries, and every arm's masks."""
        return [self.other(PreparePrompts), *self.leaves(self.runs(), self.rooms)]

    def make(self, key: ArtifactKey) -> None:
        """Score all arms; those left out are told."""
        here = self.chosen_arms()
        for arm in arms.chosen(self.arms):
            if arm not in here:
                reason = "this teacher has no language model; set text.encoder and text.weights"
                _LOG.warning("Ablation: arm %s (%s) is left out: %s", arm.name, arm.title, reason)
        ablation_jobs.measure(key, self.plan, self.run_plans(self.runs()), self.rooms)


class AblationReport(AblationTask):
    """The report of the experiment as configured, with a section on the ablation."""

    def key(self) -> ArtifactKey:
        """The report."""
        return self.reported()

    def requires(self) -> list[PipelineTask]:
        """The metrics, and the arms' figures."""
        return [self.other(Evaluate), self.alike(MeasureArms)]

    def make(self, key: ArtifactKey) -> None:
        """Write the page."""
        ablation_jobs.report(key, self.plan, self.measured().folder)


class Ablation(AblationTask):
    """All arms; puts ablation.json, its chart and the report at ``<output>/<scene set>/``.

    On tuning rooms there is no report, and the files are ablation_tune.json and .svg.
    """

    def requires(self) -> PipelineTask:
        """The report, or for tuning rooms the figures alone."""
        return self.alike(AblationReport if self.split == "val" else MeasureArms)

    def identity(self) -> str:
        """The fingerprint of what is put in place."""
        return (self.reported() if self.split == "val" else self.measured()).fingerprint[:12]

    def complete(self) -> bool:
        """Whether the files put in place are those of these very parameters."""
        output, pointer = self.plan.output, _POINTERS[self.split]
        current = published.is_current(output, self.measured(), pointer)
        return current and (self.split != "val" or published.is_current(output, self.reported()))

    def run(self) -> None:
        """Put the finished files in place."""
        process.die_with_parent()
        output = self.plan.output
        if self.split == "val":
            published.publish(output, self.reported())
        published.publish(output, self.measured(), _POINTERS[self.split], _NAMES[self.split])

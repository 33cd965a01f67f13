"""Luigi tasks of the ablation and of the error curves.

``Ablation`` scores the masks of every arm; all arms share the teacher's cache. ``ErrorCurves``
scores three arms while an oracle teacher makes one kind of error at a time:
``luigi --module pipeline Ablation --scene-set demo_large --seeds 3``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import luigi

from data.artifacts.store import ArtifactKey
from data.errors import ConfigError
from data.types import Split
from pipeline import latest_results
from pipeline.config import overrides_with
from pipeline.plan import Plan, load_plan
from pipeline.process import process
from pipeline.steps import STEPS, Step, declare
from pipeline.tasks import arm_rows, arms
from pipeline.tasks.arms import Arm, ArmRun
from pipeline.tasks.steps import PipelineTask

ABLATION = declare(Step("ablation", 2, "Metrics of all arms, their rows and a chart."))
ERROR_CURVES = declare(
    Step("error_curves", 1, "mIoU of three arms against the error rate of an oracle teacher.")
)


class ArmsTask(PipelineTask):
    """Base class of tasks that score several arms."""

    needs_truth = True

    def run_plans(self, of_runs: Sequence[ArmRun]) -> list[tuple[ArmRun, Plan]]:
        """Each run with the plan under its overrides."""
        return [(run, load_plan(self.scene_set, self.config, run.overrides)) for run in of_runs]

    def leaves(self, of_runs: Sequence[ArmRun], split: Split) -> Iterator[PipelineTask]:
        """The tasks that make the scored artifacts, once for each artifact."""
        folders: set[str] = set()
        for run, plan in self.run_plans(of_runs):
            for scene in plan.scenes(split):
                folder = str(arm_rows.leaf_key(run.arm, plan, scene).folder)
                if folder not in folders:
                    folders.add(folder)
                    yield self.step_task(STEPS[run.arm.step], scene, run.overrides)

    def inputs(self, of_runs: Sequence[ArmRun], split: Split, prefix: str = "") -> dict[str, str]:
        """Fingerprints of all scored artifacts, by arm, seed and scene."""
        return {
            f"{prefix}{run.arm.name} {run.seed} {scene}": arm_rows.leaf_key(
                run.arm, plan, scene
            ).fingerprint
            for run, plan in self.run_plans(of_runs)
            for scene in plan.scenes(split)
        }


def arms_key(
    plan: Plan, step: Step, config: Mapping[str, Any], inputs: Mapping[str, str]
) -> ArtifactKey:
    """Key of an artifact made from artifacts of several plans."""
    return ArtifactKey.make(plan.output, step.name, step.version, config, inputs)


_LOG = logging.getLogger("luigi-interface.stages")
_POINTERS = {"val": "latest_ablation.json", "tune": "latest_ablation_tune.json"}
_NAMES: Mapping[str, Mapping[str, str]] = {
    "val": {"ablation.json": "ablation.json", "ablation.svg": "ablation.svg"},
    "tune": {"ablation.json": "ablation_tune.json", "ablation.svg": "ablation_tune.svg"},
}


class AblationTask(ArmsTask):
    """Parameters and keys of the ablation."""

    seeds = luigi.IntParameter(default=3, description="number of seeds for each trained student")
    arms = luigi.Parameter(
        default="", description="arms such as B,E,F; default: all that this teacher allows"
    )
    split = luigi.ChoiceParameter(
        choices=["val", "tune"],
        default="val",
        description="scenes to score: val for reported results, tune to choose settings",
    )

    def check(self) -> None:
        """Also refuse unknown arms, a number of seeds below 1 and a split without scenes."""
        super().check()
        arms.chosen(self.arms)
        if self.seeds < 1:
            raise ConfigError(f"--seeds: expected 1 or more, found {self.seeds}")
        if not self.plan.scenes(self.scored_split):
            raise ConfigError(
                f"--split: {self.plan.scene_set.source} has no scenes in split {self.split}; "
                "name one that has scenes"
            )

    @property
    def scored_split(self) -> Split:
        """The split whose scenes are scored."""
        return "tune" if self.split == "tune" else "val"

    def chosen_arms(self) -> tuple[Arm, ...]:
        """The arms named, or all that this teacher allows."""
        chosen = arms.chosen(self.arms)
        return chosen if self.arms else arms.possible(chosen, self.plan.experiment)

    def runs(self) -> list[ArmRun]:
        """Every arm with every seed."""
        return arms.runs(self.chosen_arms(), self.seeds, self.overrides)

    def measured(self) -> ArtifactKey:
        """Key of the metrics of all arms."""
        arm_fields = [[arm.name, arm.title, arm.scored] for arm in self.chosen_arms()]
        config = {"arms": arm_fields, "system": arms.SYSTEM, "split": self.split}
        inputs = {"prompts": self.plan.key("prepare_prompts").fingerprint}
        inputs |= self.inputs(self.runs(), self.scored_split)
        return arms_key(self.plan, ABLATION, config, inputs)

    def reported(self) -> ArtifactKey:
        """Key of the report with a section on the ablation."""
        evaluation = self.plan.key("evaluate").fingerprint
        inputs = {"evaluation": evaluation, "ablation": self.measured().fingerprint}
        return arms_key(
            self.plan, STEPS["report"], self.plan.experiment.report.model_dump(), inputs
        )

    def sibling(self, task: type[AblationTask]) -> AblationTask:
        """Another task of the ablation with the same parameters."""
        return task(**self.param_kwargs)


class MeasureArms(AblationTask):
    """Metrics, rows and chart of all arms."""

    def key(self) -> ArtifactKey:
        """Key of the metrics."""
        return self.measured()

    def requires(self) -> list[PipelineTask]:
        """The queries, and every arm's masks."""
        return [
            self.step_task(STEPS["prepare_prompts"]),
            *self.leaves(self.runs(), self.scored_split),
        ]

    def make(self, key: ArtifactKey) -> None:
        """Score all arms; log those that this teacher does not allow."""
        included = self.chosen_arms()
        for arm in arms.chosen(self.arms):
            if arm not in included:
                reason = "its teacher has no language model; set text.encoder and text.weights"
                _LOG.warning("Ablation: arm %s (%s) is left out: %s", arm.name, arm.title, reason)
        arm_rows.measure(key, self.plan, self.run_plans(self.runs()), self.scored_split)


class AblationReport(AblationTask):
    """The report of the configured experiment, with a section on the ablation."""

    def key(self) -> ArtifactKey:
        """Key of the report."""
        return self.reported()

    def requires(self) -> list[PipelineTask]:
        """The metrics of the run, and those of the arms."""
        return [self.step_task(STEPS["evaluate"]), self.sibling(MeasureArms)]

    def make(self, key: ArtifactKey) -> None:
        """Write the report."""
        arm_rows.report(key, self.plan, self.measured().folder, self.device)


class Ablation(AblationTask):
    """All arms; copies ablation.json, its chart and the report to ``<output>/<scene set>/``.

    On the tuning split there is no report, and the files are ablation_tune.json and .svg.
    """

    def requires(self) -> PipelineTask:
        """The report, or for the tuning split the metrics alone."""
        return self.sibling(AblationReport if self.split == "val" else MeasureArms)

    def identity(self) -> str:
        """Fingerprint of the copied artifact."""
        return (self.reported() if self.split == "val" else self.measured()).fingerprint[:12]

    def complete(self) -> bool:
        """Whether the copied files are those of these parameters."""
        output, pointer = self.plan.output, _POINTERS[self.split]
        current = latest_results.is_current(output, self.measured(), pointer)
        return current and (
            self.split != "val" or latest_results.is_current(output, self.reported())
        )

    def run(self) -> None:
        """Copy the finished files."""
        process.set_parent_death_signal()
        output = self.plan.output
        if self.split == "val":
            latest_results.publish(output, self.reported())
        latest_results.publish(output, self.measured(), _POINTERS[self.split], _NAMES[self.split])


ERRORS = ("hallucinate", "miss", "ragged")
_CURVE_ARMS = "B,E,F"
_CURVE_POINTER = "latest_error_curves.json"
_CURVE_NAMES = {name: name for name in ("error_curves.json", "error_curves.svg")}


class ErrorCurvesTask(ArmsTask):
    """Parameters and keys of the error curves."""

    errors = luigi.Parameter(
        default=",".join(ERRORS), description="kinds of error, some of " + ", ".join(ERRORS)
    )
    rates = luigi.Parameter(default="0,0.1,0.3,0.5", description="rates of error, from 0 to 1")

    def check(self) -> None:
        """Also refuse unknown kinds of error and rates outside [0, 1]."""
        super().check()
        self.chosen_errors()
        self.chosen_rates()

    def chosen_errors(self) -> list[str]:
        """The kinds of error in the order of ``ERRORS``; ConfigError for an unknown one."""
        names = set(self.errors.split(","))
        if not names <= set(ERRORS):
            raise ConfigError(
                f"--errors: expected some of {','.join(ERRORS)}, found {self.errors!r}"
            )
        return [error for error in ERRORS if error in names]

    def chosen_rates(self) -> list[float]:
        """The rates in ascending order, each once; ConfigError for one outside [0, 1]."""
        try:
            rates = sorted({float(rate) for rate in self.rates.split(",")})
        except ValueError:
            rates = [math.nan]
        if not all(0 <= rate <= 1 for rate in rates):
            raise ConfigError(f"--rates: expected numbers from 0 to 1, found {self.rates!r}")
        return rates

    def settings(self) -> dict[str, dict[float, list[ArmRun]]]:
        """The runs by kind of error and rate; the oracle's other errors are 0."""
        settings: dict[str, dict[float, list[ArmRun]]] = {}
        for error in self.chosen_errors():
            for rate in self.chosen_rates():
                oracle = {**dict.fromkeys((*ERRORS, "confuse"), 0.0), error: rate}
                teacher = {"name": "oracle", "class": "", "oracle": oracle}
                overrides = overrides_with(self.overrides, {"teacher": teacher})
                of_rate = arms.runs(arms.chosen(_CURVE_ARMS), 1, overrides)
                settings.setdefault(error, {})[rate] = of_rate
        return settings

    def measured(self) -> ArtifactKey:
        """Key of the curves."""
        inputs = {"prompts": self.plan.key("prepare_prompts").fingerprint}
        for error, by_rate in self.settings().items():
            for rate, of_runs in by_rate.items():
                inputs |= self.inputs(of_runs, "val", f"{error} {rate:g} ")
        return arms_key(self.plan, ERROR_CURVES, {"arms": _CURVE_ARMS}, inputs)


class MeasureErrorCurves(ErrorCurvesTask):
    """Values and chart of the error curves."""

    def key(self) -> ArtifactKey:
        """Key of the curves."""
        return self.measured()

    def requires(self) -> list[PipelineTask]:
        """The queries, and the masks of every setting."""
        all_runs = [
            run for by_rate in self.settings().values() for runs in by_rate.values() for run in runs
        ]
        return [self.step_task(STEPS["prepare_prompts"]), *self.leaves(all_runs, "val")]

    def make(self, key: ArtifactKey) -> None:
        """Score all settings."""
        settings = {
            error: {rate: self.run_plans(of_runs) for rate, of_runs in by_rate.items()}
            for error, by_rate in self.settings().items()
        }
        arm_rows.error_curves(key, self.plan, settings)


class ErrorCurves(ErrorCurvesTask):
    """mIoU of arms B, E and F as an oracle teacher errs; copies error_curves.json and .svg."""

    def requires(self) -> PipelineTask:
        """The curves."""
        return MeasureErrorCurves(**self.param_kwargs)

    def identity(self) -> str:
        """Fingerprint of the curves."""
        return self.measured().fingerprint[:12]

    def complete(self) -> bool:
        """Whether the copied files are those of these parameters."""
        return latest_results.is_current(self.plan.output, self.measured(), _CURVE_POINTER)

    def run(self) -> None:
        """Copy the finished files."""
        process.set_parent_death_signal()
        latest_results.publish(self.plan.output, self.measured(), _CURVE_POINTER, _CURVE_NAMES)

"""The controlled-error curves as Luigi tasks: an oracle teacher makes one kind of error at a time.

``luigi --module pipeline ErrorCurves --scene-set demo_large``
"""

from __future__ import annotations

import math

import luigi

from data.artifacts.store import ArtifactKey
from data.errors import ConfigError
from pipeline import ablation_jobs, arms, process, published
from pipeline.arm_tasks import ArmsTask, arms_key
from pipeline.arms import ArmRun
from pipeline.base import PipelineTask
from pipeline.config import overrides_with
from pipeline.tasks import PreparePrompts

ERRORS = ("hallucinate", "miss", "ragged")
_ARMS = "B,E,F"
_POINTER = "latest_error_curves.json"
_NAMES = {name: name for name in ("error_curves.json", "error_curves.svg")}


class ErrorCurvesTask(ArmsTask):
    """Parameters of the error curves."""

    errors = luigi.Parameter(
        default=",".join(ERRORS), description="kinds of error, of " + ", ".join(ERRORS)
    )
    rates = luigi.Parameter(default="0,0.1,0.3,0.5", description="rates of error, from 0 to 1")

    def check(self) -> None:
        """Refuse also what is no error and no rate."""
        super().check()
        self.chosen_errors()
        self.chosen_rates()

    def chosen_errors(self) -> list[str]:
        """The kinds of error in the order of ``ERRORS``; ConfigError for any other."""
        asked = set(self.errors.split(","))
        if not asked <= set(ERRORS):
            raise ConfigError(
                f"--errors: expected some of {','.join(ERRORS)}, found {self.errors!r}"
            )
        return [error for error in ERRORS if error in asked]

    def chosen_rates(self) -> list[float]:
        """The rates in order, each once; ConfigError for what is none."""
        try:
            rates = sorted({float(rate) for rate in self.rates.split(",")})
        except ValueError:
            rates = [math.nan]
        if not all(0 <= rate <= 1 for rate in rates):
            raise ConfigError(f"--rates: expected numbers from 0 to 1, found {self.rates!r}")
        return rates

    def settings(self) -> dict[str, dict[float, list[ArmRun]]]:
        """The runs by kind of error and rate; all other errors of the oracle are 0."""
        found: dict[str, dict[float, list[ArmRun]]] = {}
        for error in self.chosen_errors():
            for rate in self.chosen_rates():
                oracle = {**dict.fromkeys((*ERRORS, "confuse"), 0.0), error: rate}
                teacher = {"name": "oracle", "class": "", "oracle": oracle}
                overrides = overrides_with(self.overrides, {"teacher": teacher})
                of_rate = arms.runs(arms.chosen(_ARMS), 1, overrides)
                found.setdefault(error, {})[rate] = of_rate
        return found

    def measured(self) -> ArtifactKey:
        """The curves."""
        inputs = {"prompts": self.plan.prompts().fingerprint}
        for error, by_rate in self.settings().items():
            for rate, of_runs in by_rate.items():
                inputs |= self.inputs(of_runs, "val", f"{error} {rate:g} ")
        return arms_key(self.plan, "error_curves", {"arms": _ARMS}, inputs)


class MeasureErrorCurves(ErrorCurvesTask):
    """Figures and chart of the error curves."""

    def key(self) -> ArtifactKey:
        """The curves."""
        return self.measured()

    def requires(self) -> list[PipelineTask]:
        """The queries, and every setting's masks."""
        every = [
            r for by_rate in self.settings().values() for runs in by_rate.values() for r in runs
        ]
        return [self.other(PreparePrompts), *self.leaves(every, "val")]

    def make(self, key: ArtifactKey) -> None:
        """Score all settings."""
        settings = {
            error: {rate: self.run_plans(of_runs) for rate, of_runs in by_rate.items()}
            for error, by_rate in self.settings().items()
        }
        ablation_jobs.error_curves(key, self.plan, settings)


class ErrorCurves(ErrorCurvesTask):
    """mIoU of B, E and F as an oracle teacher errs; puts error_curves.json and .svg in place."""

    def requires(self) -> PipelineTask:
        """The curves."""
        return MeasureErrorCurves(**self.param_kwargs)

    def identity(self) -> str:
        """The curves' fingerprint."""
        return self.measured().fingerprint[:12]

    def complete(self) -> bool:
        """Whether the files put in place are those of these very parameters."""
        return published.is_current(self.plan.output, self.measured(), _POINTER)

    def run(self) -> None:
        """Put the finished files in place."""
        process.die_with_parent()
        published.publish(self.plan.output, self.measured(), _POINTER, _NAMES)

"""A student taken elsewhere: trained further on labels, or asked on scenes of another set.

``luigi --module pipeline Finetune --scene-set demo --from demo``
``luigi --module pipeline EvaluateZeroShot --scene-set demo_other --student-from demo``
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import luigi

from data.artifacts.store import ArtifactKey, write_text_atomic
from data.errors import ConfigError
from pipeline import latest_results
from pipeline.config import overrides_with
from pipeline.plan import Plan, load_plan
from pipeline.process import process
from pipeline.steps import STEPS
from pipeline.tasks.steps import PipelineTask

COMPARISON = "comparison.json"
_SOURCES = ("student", "together", "fusion_only")
_FIGURES = ("num_queries", "miou", "giou", "ciou", "acc25", "acc50")


class TransferTask(PipelineTask):
    """A run under a layer that says whose student it is about; results in a folder of their own."""

    needs_truth = True
    folder_name = ""

    @abstractmethod
    def layer(self) -> Mapping[str, Any]:
        """What is laid over the config."""

    def check(self) -> None:
        """Refuse also a student that cannot be found."""
        super().check()
        if not self.place():
            raise ConfigError(
                f"{self.task_family}: whose student? Give a scene set, such as demo, or the "
                "folder of a student."
            )
        self.layered().student()

    @abstractmethod
    def place(self) -> str:
        """The scene set or the folder that the student comes from."""

    def all_overrides(self) -> str:
        """The user's overrides with the layer over them."""
        return overrides_with(self.overrides, self.layer())

    def layered(self) -> Plan:
        """The plan under the layer."""
        return load_plan(self.scene_set, self.config, self.all_overrides())

    def reported(self) -> ArtifactKey:
        """The report of the layered run."""
        return self.layered().key("report")

    def requires(self) -> list[PipelineTask]:
        """The report."""
        return [self.step_task(STEPS["report"], overrides=self.all_overrides())]

    def identity(self) -> str:
        """The report's fingerprint."""
        return self.reported().fingerprint[:12]

    @property
    def folder(self) -> Path:
        """Where the results are put."""
        return self.plan.output / self.folder_name

    def complete(self) -> bool:
        """Whether the results put in place are those of these very parameters."""
        return latest_results.is_current(self.folder, self.reported())

    def results_at(self) -> Path:
        """The page."""
        return self.folder / "report.html"

    def run(self) -> None:
        """Put the finished report's files in place."""
        process.die_with_parent()
        self.folder.mkdir(parents=True, exist_ok=True)
        latest_results.publish(self.folder, self.reported())


class EvaluateZeroShot(TransferTask):
    """Another scene set's student asked on this one; results in ``<output>/<set>/zero_shot/``."""

    folder_name = "zero_shot"
    student_from = luigi.Parameter(
        default="", description="the scene set whose student answers, or the folder of a student"
    )

    def place(self) -> str:
        """Whose student answers."""
        return str(self.student_from)

    def layer(self) -> Mapping[str, Any]:
        """The student that answers."""
        return {"finetune": {"start": ""}, "predict": {"student": self.place()}}


class Finetune(TransferTask):
    """A label-free student trained further on truth; results in ``<output>/<set>/finetuned/``.

    ``comparison.json`` there holds figures before and after, of the same queries.
    """

    folder_name = "finetuned"
    # The parameter is called --from, which Python keeps for itself.
    vars()["from"] = luigi.Parameter(
        default="", description="the scene set whose student to start from, or a student's folder"
    )

    def check(self) -> None:
        """Refuse also a start that saw labels."""
        super().check()
        start = self.layered().source
        if start is not None and start.key.config.get("supervision") == "oracle":
            raise ConfigError(
                f"--from: the student of {self.place()} was itself trained on truth; "
                "start from a label-free one (student.supervision=label_free)"
            )

    def place(self) -> str:
        """Whose student to start from."""
        return str(getattr(self, "from"))

    def layer(self) -> Mapping[str, Any]:
        """The student to start from."""
        return {"finetune": {"start": self.place()}, "predict": {"student": ""}}

    def before_overrides(self) -> str:
        """The run of the student as it was."""
        layer = {"finetune": {"start": ""}, "predict": {"student": self.place()}}
        return overrides_with(self.overrides, layer)

    def requires(self) -> list[PipelineTask]:
        """The report of the new student, and the metrics of the one it started from."""
        before = self.step_task(STEPS["evaluate"], overrides=self.before_overrides())
        return [*super().requires(), before]

    def complete(self) -> bool:
        """Whether also the comparison is there."""
        return super().complete() and (self.folder / COMPARISON).exists()

    def run(self) -> None:
        """Put the report's files and the comparison in place."""
        before = load_plan(self.scene_set, self.config, self.before_overrides())
        after = self.layered().key("evaluate").folder
        before_folder = before.key("evaluate").folder
        figures = {"before": _figures(before_folder), "after": _figures(after)}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text_atomic(self.folder / COMPARISON, json.dumps(figures, indent=1) + "\n")
        super().run()


def _figures(evaluation: Path) -> dict[str, dict[str, Any]]:
    metrics = json.loads((evaluation / "metrics.json").read_text(encoding="utf-8"))
    return {source: {name: metrics[source][name] for name in _FIGURES} for source in _SOURCES}

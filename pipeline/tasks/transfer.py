"""Luigi tasks that use a trained student elsewhere: fine-tuning, and zero-shot evaluation.

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
_METRICS = ("num_queries", "miou", "giou", "ciou", "acc25", "acc50")


class TransferTask(PipelineTask):
    """A run under a config layer that names another student; its results have their own folder."""

    needs_truth = True
    folder_name = ""

    @abstractmethod
    def layer(self) -> Mapping[str, Any]:
        """The config layer that names the student."""

    def check(self) -> None:
        """Also refuse a student that cannot be found."""
        super().check()
        if not self.student_reference():
            raise ConfigError(
                f"{self.task_family}: expected a student, found none. Name a scene "
                "set, such as demo, or the folder of a student."
            )
        self.layered().student()

    @abstractmethod
    def student_reference(self) -> str:
        """The scene set or the folder of the student."""

    def all_overrides(self) -> str:
        """The user's overrides with the layer merged over them."""
        return overrides_with(self.overrides, self.layer())

    def layered(self) -> Plan:
        """The plan under the layer."""
        return load_plan(self.scene_set, self.config, self.all_overrides())

    def reported(self) -> ArtifactKey:
        """Key of the report of the layered run."""
        return self.layered().key("report")

    def requires(self) -> list[PipelineTask]:
        """The report."""
        return [self.step_task(STEPS["report"], overrides=self.all_overrides())]

    def identity(self) -> str:
        """Fingerprint of the report."""
        return self.reported().fingerprint[:12]

    @property
    def folder(self) -> Path:
        """Folder for the copied results."""
        return self.plan.output / self.folder_name

    def complete(self) -> bool:
        """Whether the copied results are those of these parameters."""
        return latest_results.is_current(self.folder, self.reported())

    def results_at(self) -> Path:
        """Path of the report page."""
        return self.folder / "report.html"

    def run(self) -> None:
        """Copy the finished report's files."""
        process.set_parent_death_signal()
        self.folder.mkdir(parents=True, exist_ok=True)
        latest_results.publish(self.folder, self.reported())


class EvaluateZeroShot(TransferTask):
    """Evaluate another set's student on this set; results in ``<output>/<set>/zero_shot/``."""

    folder_name = "zero_shot"
    student_from = luigi.Parameter(
        default="", description="the scene set whose student answers, or the folder of a student"
    )

    def student_reference(self) -> str:
        """The scene set or folder of the student that answers."""
        return str(self.student_from)

    def layer(self) -> Mapping[str, Any]:
        """The layer that names the answering student."""
        return {"finetune": {"start": ""}, "predict": {"student": self.student_reference()}}


class Finetune(TransferTask):
    """Train a label-free student further on ground truth; results in ``<output>/<set>/finetuned/``.

    ``comparison.json`` there holds the metrics before and after, on the same queries.
    """

    folder_name = "finetuned"
    # The parameter is called --from, a reserved word in Python.
    vars()["from"] = luigi.Parameter(
        default="", description="the scene set whose student to start from, or a student's folder"
    )

    def check(self) -> None:
        """Also refuse a start that was trained on ground truth."""
        super().check()
        start = self.layered().source
        if start is not None and start.key.config.get("supervision") == "oracle":
            raise ConfigError(
                f"--from: expected a label-free student, found that of {self.student_reference()}, "
                "trained on ground truth. Use one made with student.supervision=label_free."
            )

    def student_reference(self) -> str:
        """The scene set or folder of the student to start from."""
        return str(getattr(self, "from"))

    def layer(self) -> Mapping[str, Any]:
        """The layer that names the student to start from."""
        return {"finetune": {"start": self.student_reference()}, "predict": {"student": ""}}

    def before_overrides(self) -> str:
        """Overrides of a run that evaluates the student before fine-tuning."""
        layer = {"finetune": {"start": ""}, "predict": {"student": self.student_reference()}}
        return overrides_with(self.overrides, layer)

    def requires(self) -> list[PipelineTask]:
        """The report of the new student, and the metrics of the old one."""
        before = self.step_task(STEPS["evaluate"], overrides=self.before_overrides())
        return [*super().requires(), before]

    def complete(self) -> bool:
        """Whether also the comparison exists."""
        return super().complete() and (self.folder / COMPARISON).exists()

    def run(self) -> None:
        """Write the comparison and copy the report's files."""
        before = load_plan(self.scene_set, self.config, self.before_overrides())
        after = self.layered().key("evaluate").folder
        before_folder = before.key("evaluate").folder
        metrics = {"before": _read_metrics(before_folder), "after": _read_metrics(after)}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text_atomic(self.folder / COMPARISON, json.dumps(metrics, indent=1) + "\n")
        super().run()


def _read_metrics(evaluation: Path) -> dict[str, dict[str, Any]]:
    metrics = json.loads((evaluation / "metrics.json").read_text(encoding="utf-8"))
    return {source: {name: metrics[source][name] for name in _METRICS} for source in _SOURCES}

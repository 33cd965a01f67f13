"""Luigi tasks of answers, figures and the page that shows them."""

from __future__ import annotations

from pathlib import Path

from data.artifacts.store import ArtifactKey
from pipeline import process, published
from pipeline.base import PipelineTask, SceneTask
from pipeline.learning_tasks import asked_student, asked_text
from pipeline.tasks import FuseMasks, PreparePrompts, PrepareScene, RunTeacher


class ValidationTask(SceneTask):
    """A stage of one scene, or of all validation scenes when none is named."""

    def requires(self) -> list[PipelineTask]:
        """What the scene needs, or all validation scenes' tasks."""
        if self.scene is not None:
            return self.scene_requires(self.scene)
        return list(self.each_scene(type(self), "val"))


class PredictMasks(ValidationTask):
    """The student's masks on the original points; validation scenes when none is named."""

    uses_gpu = True

    def scene_key(self, scene: str) -> ArtifactKey:
        """The scene's masks."""
        return self.plan.predict(scene)

    def scene_requires(self, scene: str) -> list[PipelineTask]:
        """The student, and the scene's query tokens or, asked by words, the adapter."""
        needed = [*asked_student(self), self.other(PreparePrompts)]
        if self.plan.experiment.predict.tokens == "text":
            return [*needed, *asked_text(self), self.other(PrepareScene, scene)]
        return [*needed, self.other(FuseMasks, scene)]


class AnswerQuestions(ValidationTask):
    """One answer in words a query, of all views; validation scenes when none is named."""

    def scene_key(self, scene: str) -> ArtifactKey:
        """The scene's answers."""
        return self.plan.said(scene)

    def scene_requires(self, scene: str) -> list[PipelineTask]:
        """What the teacher said on each view, the views' weights, and what was found."""
        stages = (RunTeacher, FuseMasks, PredictMasks)
        return [self.other(stage, scene) for stage in stages]


class FindRooms(PipelineTask):
    """Which room of its place each search means; nothing for a set without places."""

    def key(self) -> ArtifactKey | None:
        """The choices."""
        return self.plan.rooms_found() if self.plan.places else None

    def requires(self) -> list[PipelineTask]:
        """All validation scenes' answers, the student's and the lifted labels'."""
        stages = (PredictMasks, FuseMasks) if self.plan.places else ()
        return [task for stage in stages for task in self.each_scene(stage, "val")]


class JudgeTeacher(ValidationTask):
    """The teacher's masks against ground truth in 2D; validation scenes when none is named."""

    needs_truth = True

    def scene_key(self, scene: str) -> ArtifactKey:
        """The scene's marked answers."""
        return self.plan.judge(scene)

    def scene_requires(self, scene: str) -> list[PipelineTask]:
        """The scene with its labels, the queries with theirs, and the answers."""
        needed = (self.other(PrepareScene, scene), self.other(PreparePrompts))
        return [*needed, self.other(RunTeacher, scene)]


class Evaluate(PipelineTask):
    """Metrics over the validation split, of student, lifted labels and the teacher in 2D."""

    needs_truth = True

    def key(self) -> ArtifactKey:
        """The metrics."""
        return self.plan.evaluate()

    def requires(self) -> list[PipelineTask]:
        """All validation scenes' answers, the rooms found, and how good the teacher was on them."""
        stages = (PredictMasks, AnswerQuestions, JudgeTeacher)
        of_scenes = [task for stage in stages for task in self.each_scene(stage, "val")]
        return of_scenes + ([self.other(FindRooms)] if self.plan.places else [])


class Report(PipelineTask):
    """report.html with metrics.json, or with answers.json where there is no truth."""

    def key(self) -> ArtifactKey:
        """The report."""
        return self.plan.report()

    def requires(self) -> list[PipelineTask]:
        """The metrics; without truth the answers."""
        if self.plan.scene_set.has_truth:
            return [self.other(Evaluate)]
        return [self.other(PredictMasks), self.other(AnswerQuestions)]


class RunAll(PipelineTask):
    """Scans to report; puts the results at ``<output>/<scene set>/``."""

    def requires(self) -> PipelineTask:
        """The report."""
        return self.other(Report)

    def identity(self) -> str:
        """The report's fingerprint."""
        return self.plan.report().fingerprint[:12]

    def results_at(self) -> Path:
        """The page."""
        return self.plan.output / "report.html"

    def complete(self) -> bool:
        """Whether the results put in place are those of this very config."""
        return published.is_current(self.plan.output, self.plan.report())

    def run(self) -> None:
        """Put the finished report's files in place."""
        process.die_with_parent()
        published.publish(self.plan.output, self.plan.report())

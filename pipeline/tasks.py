"""One Luigi task per stage: what it makes and what it needs; ``pipeline.base`` does the rest."""

from __future__ import annotations

import platform

from data.artifacts.store import ArtifactKey
from pipeline import process, published
from pipeline.base import PipelineTask, SceneTask
from pipeline.plan import Plan


class GenerateRoom(SceneTask):
    """One procedural room of a generated scene set."""

    def scene_key(self, scene: str) -> ArtifactKey:
        """The room's scene folder."""
        return self.plan.room(scene)


class GenerateRooms(PipelineTask):
    """All rooms of a generated scene set, with splits, metadata and queries."""

    def key(self) -> ArtifactKey | None:
        """The dataset's root folder; None for a set that lies on disk already."""
        return self.plan.rooms_index() if self.plan.scene_set.generated else None

    def requires(self) -> list[PipelineTask]:
        """Its rooms."""
        return list(self.each_scene(GenerateRoom)) if self.plan.scene_set.generated else []


class PrepareScene(SceneTask):
    """Scan to scene: points, superpoints, cameras, depth, and apart, labels."""

    def scene_key(self, scene: str) -> ArtifactKey:
        """The prepared scene."""
        return self.plan.prepare(scene)

    def scene_requires(self, scene: str) -> list[PipelineTask]:
        """The room, where rooms are generated."""
        return [self.other(GenerateRoom, scene)] if self.plan.scene_set.generated else []


class PreparePrompts(PipelineTask):
    """All queries of the set, checked against its scenes."""

    def key(self) -> ArtifactKey:
        """The checked queries."""
        return self.plan.prompts()

    def requires(self) -> PipelineTask:
        """The dataset."""
        return self.other(GenerateRooms)


class LinkPoints(SceneTask):
    """Visible points per view, with pixel coordinates."""

    def scene_key(self, scene: str) -> ArtifactKey:
        """The scene's links."""
        return self.plan.link(scene)

    def scene_requires(self, scene: str) -> list[PipelineTask]:
        """The prepared scene."""
        return [self.other(PrepareScene, scene)]


class RunTeacher(SceneTask):
    """The 2D teacher's answers to every query in every view."""

    def scene_key(self, scene: str) -> ArtifactKey:
        """The scene's teacher cache."""
        return self.plan.teacher(scene)

    def scene_requires(self, scene: str) -> list[PipelineTask]:
        """The prepared scene and the queries."""
        return [self.other(PrepareScene, scene), self.other(PreparePrompts)]

    def process_resources(self) -> dict[str, int]:
        """Big teachers work one at a time on a machine, unless luigi.cfg allows it more of them."""
        return {} if self.scene is None else _one_big_teacher(self.plan)


class LiftFeatures(SceneTask):
    """The teacher's image features on superpoints, where ``student.loss.image`` asks for them."""

    def check(self) -> None:
        """Refuse also a teacher that has none."""
        super().check()
        self.plan.check_features()

    def scene_key(self, scene: str) -> ArtifactKey:
        """The scene's features."""
        return self.plan.features(scene)

    def scene_requires(self, scene: str) -> list[PipelineTask]:
        """The links; the teacher answers nothing here."""
        return [self.other(LinkPoints, scene)]

    def process_resources(self) -> dict[str, int]:
        """As of ``RunTeacher``."""
        return {} if self.scene is None else _one_big_teacher(self.plan)


def _one_big_teacher(plan: Plan) -> dict[str, int]:
    is_small = plan.experiment.teacher.name in ("oracle", "lisa_nano")
    return {} if is_small else {f"teacher_{platform.node().lower()}": 1}


class FuseMasks(SceneTask):
    """Masks of many views to one soft label per point."""

    def scene_key(self, scene: str) -> ArtifactKey:
        """The scene's soft labels."""
        return self.plan.fuse(scene)

    def scene_requires(self, scene: str) -> list[PipelineTask]:
        """Links and teacher cache."""
        return [self.other(LinkPoints, scene), self.other(RunTeacher, scene)]


class OracleLabels(SceneTask):
    """Ground truth in the shape of soft labels: for the upper bound, never label-free."""

    needs_truth = True

    def scene_key(self, scene: str) -> ArtifactKey:
        """The scene's true labels."""
        return self.plan.oracle_labels(scene)

    def scene_requires(self, scene: str) -> list[PipelineTask]:
        """The scene with its labels, the queries with theirs, and the queries' tokens."""
        needed = (self.other(PrepareScene, scene), self.other(PreparePrompts))
        return [*needed, self.other(FuseMasks, scene)]


class TrainStudent(PipelineTask):
    """The sparse 3D U-Net, trained on the training split's soft labels."""

    def key(self) -> ArtifactKey:
        """The student."""
        return self.plan.student()

    def requires(self) -> list[PipelineTask]:
        """The queries' words, and labels (and image features) of all training scenes."""
        is_oracle = self.plan.experiment.student.supervision == "oracle"
        labels = OracleLabels if is_oracle else FuseMasks
        learnt = (labels, LiftFeatures) if self.plan.learns_features else (labels,)
        scenes = [task for stage in learnt for task in self.each_scene(stage, "train")]
        return [self.other(PreparePrompts), *scenes]


class DistilText(PipelineTask):
    """An adapter from words to query tokens, so that new sentences need no teacher."""

    def key(self) -> ArtifactKey:
        """The text student."""
        return self.plan.text()

    def requires(self) -> list[PipelineTask]:
        """The queries' words, and tokens of all training scenes."""
        return [self.other(PreparePrompts), *self.each_scene(FuseMasks, "train")]


class ValidationTask(SceneTask):
    """A stage of one scene, or of all validation scenes when none is named."""

    def requires(self) -> list[PipelineTask]:
        """What the scene needs, or all validation scenes' tasks."""
        if self.scene is not None:
            return self.scene_requires(self.scene)
        return list(self.each_scene(type(self), "val"))


class PredictMasks(ValidationTask):
    """The student's masks on the original points; validation scenes when none is named."""

    def scene_key(self, scene: str) -> ArtifactKey:
        """The scene's masks."""
        return self.plan.predict(scene)

    def scene_requires(self, scene: str) -> list[PipelineTask]:
        """The student, and the scene's query tokens or, asked by words, the adapter."""
        needed = [self.other(TrainStudent), self.other(PreparePrompts)]
        if self.plan.experiment.predict.tokens == "text":
            return [*needed, self.other(DistilText), self.other(PrepareScene, scene)]
        return [*needed, self.other(FuseMasks, scene)]


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
        """All validation scenes' masks, and how good the teacher was on them."""
        stages = (PredictMasks, JudgeTeacher)
        return [task for stage in stages for task in self.each_scene(stage, "val")]


class Report(PipelineTask):
    """report.html with metrics.json, or with answers.json where there is no truth."""

    def key(self) -> ArtifactKey:
        """The report."""
        return self.plan.report()

    def requires(self) -> PipelineTask:
        """The metrics; without truth the answers."""
        return self.other(Evaluate if self.plan.scene_set.has_truth else PredictMasks)


class RunAll(PipelineTask):
    """Scans to report; puts the results at ``<output>/<scene set>/``."""

    def requires(self) -> PipelineTask:
        """The report."""
        return self.other(Report)

    def identity(self) -> str:
        """The report's fingerprint."""
        return self.plan.report().fingerprint[:12]

    def complete(self) -> bool:
        """Whether the results put in place are those of this very config."""
        return published.is_current(self.plan.output, self.plan.report())

    def run(self) -> None:
        """Put the finished report's files in place."""
        process.die_with_parent()
        published.publish(self.plan.output, self.plan.report())

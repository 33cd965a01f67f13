"""Luigi tasks of what is learnt from all scenes together: students, and the way from words."""

from __future__ import annotations

from data.artifacts.store import ArtifactKey
from data.errors import ConfigError
from pipeline import gpus
from pipeline.base import PipelineTask, SceneTask
from pipeline.tasks import FuseMasks, LiftFeatures, PreparePrompts, PrepareScene


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


class TrainingTask(PipelineTask):
    """A task that trains a student, in as many processes as asked for."""

    # The longest piece of work that nothing can share: what it needs goes first (Luigi hands the
    # priority down), and validation scenes are worked on beside it.
    priority = 1

    def num_gpus(self) -> int:
        """One for each process."""
        return gpus.wanted(self.device, self.train_processes)

    def make(self, key: ArtifactKey) -> None:
        """Run the stage of the artifact's name."""
        from pipeline import jobs

        jobs.run(key, self.plan, None, self.device, processes=self.train_processes)


class TrainStudent(TrainingTask):
    """The sparse 3D U-Net, trained on the training split's soft labels."""

    def key(self) -> ArtifactKey:
        """The student."""
        return self.plan.own_student()

    def requires(self) -> list[PipelineTask]:
        """The queries' words, and labels (and image features) of all training scenes."""
        return _learnt_from(self, OracleLabels if self.plan.learns_truth else FuseMasks)


class FinetuneStudent(TrainingTask):
    """Another student, trained further on the training split's truth; never label-free."""

    needs_truth = True

    def check(self) -> None:
        """Refuse also a config that names no student to start from."""
        super().check()
        if not self.plan.experiment.finetune.start:
            raise ConfigError(
                "FinetuneStudent: finetune.start names no student. "
                "Use Finetune --from, with a scene set or the folder of a student."
            )

    def key(self) -> ArtifactKey:
        """The student."""
        return self.plan.student()

    def requires(self) -> list[PipelineTask]:
        """The student it starts from, and the truth of all training scenes."""
        return [*source_student(self), *_learnt_from(self, OracleLabels)]


def _learnt_from(task: PipelineTask, labels: type[PipelineTask]) -> list[PipelineTask]:
    """The queries' words, and labels (and image features) of all training scenes."""
    learnt = (labels, LiftFeatures) if task.plan.learns_features else (labels,)
    scenes = [one for stage in learnt for one in task.each_scene(stage, "train")]
    return [task.other(PreparePrompts), *scenes]


def source_student(task: PipelineTask) -> list[PipelineTask]:
    """What trains the student that the config names; nothing where that is a folder."""
    return _of_source(task, TrainStudent)


def asked_student(task: PipelineTask) -> list[PipelineTask]:
    """What makes the student that answers; nothing where a folder has it."""
    if task.plan.experiment.finetune.start:
        return [task.other(FinetuneStudent)]
    if task.plan.experiment.predict.student:
        return source_student(task)
    return [task.other(TrainStudent)]


def asked_text(task: PipelineTask) -> list[PipelineTask]:
    """What makes the way from words to the tokens of the student that answers."""
    if task.plan.experiment.predict.student:
        return _of_source(task, DistilText)
    return [task.other(DistilText)]


def _of_source(task: PipelineTask, stage: type[PipelineTask]) -> list[PipelineTask]:
    source = task.plan.source
    if source is None or source.plan is None:
        return []
    asked = {
        "config": task.config,
        "overrides": source.overrides,
        "device": task.device,
        "train_processes": task.train_processes,
    }
    return [stage(scene_set=source.place, **asked)]


class DistilText(PipelineTask):
    """An adapter from words to query tokens, so that new sentences need no teacher."""

    uses_gpu = True

    def key(self) -> ArtifactKey:
        """The text student."""
        return self.plan.text()

    def requires(self) -> list[PipelineTask]:
        """The queries' words, and tokens of all training scenes."""
        return [self.other(PreparePrompts), *self.each_scene(FuseMasks, "train")]

"""One Luigi task per stage, from scans to labels of points; ``pipeline.base`` does the rest."""

from __future__ import annotations

from contextlib import nullcontext

from data.artifacts.store import ArtifactKey
from pipeline import gpus, teacher_slots
from pipeline.base import PipelineTask, SceneTask
from stages.teacher_identity import require_weights


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

    uses_gpu = True

    def scene_key(self, scene: str) -> ArtifactKey:
        """The scene's links."""
        return self.plan.link(scene)

    def scene_requires(self, scene: str) -> list[PipelineTask]:
        """The prepared scene."""
        return [self.other(PrepareScene, scene)]


class TeacherTask(SceneTask):
    """A stage that asks the teacher's network.

    Big teachers work one at a time on a machine without GPUs, unless luigi.cfg allows it more of
    them; on one with GPUs, each has its own.
    """

    def check_ready(self) -> None:
        """Refuse weights that are nowhere here and cannot be fetched."""
        require_weights(self.plan.experiment.teacher)

    def num_gpus(self) -> int:
        """One, but for the oracle, which computes nothing."""
        asks = self.scene is not None and self.plan.experiment.teacher.name != "oracle"
        return gpus.wanted(self.device) if asks else 0

    def process_resources(self) -> dict[str, int]:
        """The GPU, or this machine's place for a big teacher."""
        if self.num_gpus() or self.scene is None:
            return super().process_resources()
        return teacher_slots.resources(self.plan)

    def make(self, key: ArtifactKey) -> None:
        """Run the stage once there is a place for the teacher."""
        with nullcontext() if self.num_gpus() else teacher_slots.slot(self.plan):
            super().make(key)


class RunTeacher(TeacherTask):
    """The 2D teacher's answers to every query in every view."""

    def scene_key(self, scene: str) -> ArtifactKey:
        """The scene's teacher cache."""
        return self.plan.teacher(scene)

    def scene_requires(self, scene: str) -> list[PipelineTask]:
        """The prepared scene and the queries."""
        return [self.other(PrepareScene, scene), self.other(PreparePrompts)]


class LiftFeatures(TeacherTask):
    """The teacher's image features on superpoints, where ``student.loss.image`` asks for them."""

    def check(self) -> None:
        """Refuse also a teacher that has none."""
        super().check()
        self.plan.check_features()

    def scene_key(self, scene: str) -> ArtifactKey:
        """The scene's features."""
        return self.plan.features(scene)

    def scene_requires(self, scene: str) -> list[PipelineTask]:
        """The scene and its links; the teacher answers nothing here."""
        return [self.other(PrepareScene, scene), self.other(LinkPoints, scene)]


class FuseMasks(SceneTask):
    """Masks of many views to one soft label per point."""

    uses_gpu = True

    def scene_key(self, scene: str) -> ArtifactKey:
        """The scene's soft labels."""
        return self.plan.fuse(scene)

    def scene_requires(self, scene: str) -> list[PipelineTask]:
        """Scene and queries, links and teacher cache.

        Where the latter come from another machine, nothing else here asks for the former.
        """
        prepared = (self.other(PrepareScene, scene), self.other(PreparePrompts))
        return [*prepared, self.other(LinkPoints, scene), self.other(RunTeacher, scene)]

"""One Luigi task per stage, from scans to labels of points; ``pipeline.base`` does the rest."""

from __future__ import annotations

import platform

from data.artifacts.store import ArtifactKey
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
        """The scene and its links; the teacher answers nothing here."""
        return [self.other(PrepareScene, scene), self.other(LinkPoints, scene)]

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
        """Scene and queries, links and teacher cache.

        Where the latter come from another machine, nothing else here asks for the former.
        """
        prepared = (self.other(PrepareScene, scene), self.other(PreparePrompts))
        return [*prepared, self.other(LinkPoints, scene), self.other(RunTeacher, scene)]

"""Build the oracle teacher of one scene from its ground truth, rendered as instance masks.

``InstanceRenderer`` renders the masks of objects into views; ``make_oracle`` maps the words of
queries to objects.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csc_array

from data.geometry.raycast import Raycaster
from data.queries.hierarchical_search import EXTRA_TASKS
from data.queries.prompts import BANK_TASK, bank_text
from data.types import Array, GroundTruth, Prompt, PromptTruth, Scene
from models.oracle import OracleErrors, OracleTeacher
from models.teacher import MaskGrid
from stages.configs import TeacherConfig


class InstanceRenderer:
    """Renders instance masks of a scene's views by casting a ray through every grid cell.

    A cell belongs to an object when the first vertex of the triangle that its ray hits belongs
    to the object. Objects may overlap: a cell of a pillow is a cell of its bed as well. One cell
    is ``stride`` image pixels wide.
    """

    def __init__(self, scene: Scene, truth: GroundTruth, stride: int) -> None:
        self._views = {view.view_id: view for view in scene.views}
        self._triangles = scene.triangles
        self._caster = Raycaster(scene.cloud.points, scene.triangles)
        lengths = np.diff(truth.offsets)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        shape = (len(truth.object_ids), len(scene.cloud))
        ones = np.ones(len(rows), bool)
        self._members = csc_array((ones, (rows, truth.point_ids)), shape=shape)
        camera = scene.views[0].camera
        height, width = max(camera.height // stride, 1), max(camera.width // stride, 1)
        self.grid = MaskGrid(height, width, (float(width), float(height)))

    def masks(self, view_id: str) -> Array:
        """Render (K, h, w) bool masks of all K objects; KeyError for an unknown view."""
        view = self._views[view_id]
        camera = view.camera.scaled(self.grid.height, self.grid.width)
        triangle_ids = self._caster.render(camera, view.world_to_camera)[1].ravel()
        hit = np.flatnonzero(triangle_ids >= 0)
        vertices = self._triangles[triangle_ids[hit], 0]
        masks = np.zeros((self._members.shape[0], len(triangle_ids)), bool)
        masks[:, hit] = self._members[:, vertices].toarray()
        return masks.reshape(-1, self.grid.height, self.grid.width)


def make_oracle(
    scene: Scene,
    truth: GroundTruth,
    prompts: Sequence[Prompt],
    prompt_truths: Sequence[PromptTruth],
    cfg: TeacherConfig,
) -> OracleTeacher:
    """Make an ``OracleTeacher`` that renders this scene's objects when asked.

    A teacher knows the words of a query only, so queries of equal text mean the union of their
    objects. A background category means all objects of that label, possibly none; where a query
    has the same words, its truth is used, so that background categories change no answer to a
    query. The categories of a search mean its target objects in the room it is about, and all
    objects of that label in other rooms.

    Raises ValueError when a query has no truth, and KeyError when a truth names an object that
    the scene does not have.
    """
    by_prompt = {truth_.prompt_id: truth_ for truth_ in prompt_truths}
    targets: dict[str, set[int]] = {}
    for prompt in prompts:
        if prompt.prompt_id in by_prompt:
            object_ids = by_prompt[prompt.prompt_id].object_ids
            targets.setdefault(prompt.text, set()).update(object_ids)
        elif prompt.task not in (BANK_TASK, *EXTRA_TASKS):
            raise ValueError(f"prompt {prompt.prompt_id} has no truth")
    for text in {prompt.text for prompt in prompts} - targets.keys():
        targets[text] = _of_label(truth, text)
    unknown = set().union(*targets.values()) - set(truth.object_ids)
    if unknown:
        raise KeyError(f"scene {scene.scene_id} has no objects {sorted(unknown)}")
    renderer = InstanceRenderer(scene, truth, cfg.oracle.stride)
    return OracleTeacher(
        scene.scene_id,
        truth.object_ids,
        truth.labels,
        renderer.masks,
        {text: sorted(ids) for text, ids in targets.items()},
        renderer.grid,
        OracleErrors(cfg.seed, **cfg.oracle.model_dump(exclude={"stride"})),
    )


def _of_label(truth: GroundTruth, text: str) -> set[int]:
    """Return the ids of the objects whose label equals ``text``."""
    named = zip(truth.object_ids, truth.labels, strict=True)
    return {object_id for object_id, label in named if bank_text(label) == text}

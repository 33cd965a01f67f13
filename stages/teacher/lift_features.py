"""Stage: the teacher's image features on superpoints, for a student that learns to be like them.

A point's feature is the mean over the views that see it, a superpoint's the mean over those of
its points that any view sees. Views are read one at a time and sums are kept of superpoints
alone, so memory grows neither with views nor with points times channels.
"""

from __future__ import annotations

import numpy as np

from data.artifacts.embeddings import LARGEST, LiftedFeatures
from data.artifacts.links import Links
from data.errors import UserError
from data.geometry.voxels import sum_by_group
from data.types import Array, Progress, Scene, View, silent
from models.teacher import AnyTeacher, FeatureTeacher
from stages.fusion.sample_masks import Sampling, check_links, sample_bilinear
from stages.scene.view_images import read_image
from stages.teacher.identity import no_features

_LINKS_AT_ONCE = 1 << 15


def run(
    scene: Scene, links: Links, teacher: AnyTeacher, progress: Progress = silent
) -> LiftedFeatures:
    """Features of all superpoints of a scene; those that no view sees have 0.

    Raises:
        UserError: the teacher has no image features, or none that can be used.
        DataError: an image that cannot be decoded or does not fit its camera.
        ValueError: links of other views or points.
    """
    if not isinstance(teacher, FeatureTeacher):
        raise no_features(teacher.name)
    check_links(scene, links)
    ids = scene.superpoint_ids
    num = int(ids.max(initial=-1)) + 1
    times = _times_seen(links)
    totals = np.zeros((num, 0))
    for index, view in enumerate(scene.views):
        features, extent = _encoded(teacher, view)
        if index == 0:
            totals = np.zeros((num, len(features)))
        if len(features) != totals.shape[1]:
            told = f"{len(features)} channels for one view, {totals.shape[1]} for another"
            raise UserError(f"{teacher.name}: image_features gives {told}.")
        seen = links.view(index)
        size = np.asarray((view.camera.width, view.camera.height), np.float32)
        for start in range(0, len(seen.uv), _LINKS_AT_ONCE):
            points = seen.point_ids[start : start + _LINKS_AT_ONCE]
            uv = seen.uv[start : start + _LINKS_AT_ONCE]
            values = sample_bilinear(features, Sampling(uv, size, np.asarray(extent, np.float64)))
            totals += sum_by_group(values / times[points, None], ids[points], num)
        progress(index + 1, len(scene.views))
    known = np.bincount(ids[times > 0], minlength=num)
    means = totals / np.maximum(known, 1)[:, None]
    return LiftedFeatures(scene.scene_id, means.astype(np.float32), known > 0)


def _times_seen(links: Links) -> Array:
    """(N,) int64: how many views see each point."""
    times = np.zeros(links.num_points, np.int64)
    for index in range(len(links)):
        times[links.view(index).point_ids] += 1
    return times


def _encoded(teacher: FeatureTeacher, view: View) -> tuple[Array, tuple[float, float]]:
    """(C, h, w) float32 of one view, checked, and how many cells the image's width, height cover.

    Raises UserError unless the features fit their grid and can be stored.
    """
    height, width, extent = teacher.feature_grid(view.camera.height, view.camera.width)
    found = np.asarray(teacher.image_features(read_image(view)), np.float32)
    where = f"{teacher.name}, view {view.view_id}: image_features gives"
    if found.ndim != 3 or not len(found) or found.shape[1:] != (height, width):
        raise UserError(f"{where} an array {found.shape} for a grid of {height}x{width} cells.")
    if not np.all(np.abs(found) <= LARGEST):
        raise UserError(f"{where} values that are not finite, or beyond {LARGEST:g}.")
    return found, extent

"""Stage: average the teacher's image features over superpoints, as targets for the student.

The feature of a point is the mean over the views that see the point; the feature of a superpoint
is the mean over its points that any view sees. Views are read one at a time and only sums of
superpoints are kept, so memory grows neither with views nor with points times channels.
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
    """Compute the features of all superpoints of a scene; unseen superpoints get 0.

    Raises:
        UserError: the teacher has no image features, or they are not finite or misshapen.
        DataError: an image cannot be decoded or does not fit its camera.
        ValueError: the links belong to other views or points.
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
            raise UserError(
                f"{teacher.name}: image_features gives {totals.shape[1]} channels for the first "
                f"view and {len(features)} for {view.view_id}; they must be equal."
            )
        seen = links.view(index)
        size = np.asarray((view.camera.width, view.camera.height), np.float32)
        for start in range(0, len(seen.uv), _LINKS_AT_ONCE):
            points = seen.point_ids[start : start + _LINKS_AT_ONCE]
            uv = seen.uv[start : start + _LINKS_AT_ONCE]
            values = sample_bilinear(features, Sampling(uv, size, np.asarray(extent, np.float64)))
            totals += sum_by_group(values / times[points, None], ids[points], num)
        progress(index + 1, len(scene.views))
    num_seen = np.bincount(ids[times > 0], minlength=num)
    means = totals / np.maximum(num_seen, 1)[:, None]
    return LiftedFeatures(scene.scene_id, means.astype(np.float32), num_seen > 0)


def _times_seen(links: Links) -> Array:
    """Return (N,) int64, the number of views that see each point."""
    times = np.zeros(links.num_points, np.int64)
    for index in range(len(links)):
        times[links.view(index).point_ids] += 1
    return times


def _encoded(teacher: FeatureTeacher, view: View) -> tuple[Array, tuple[float, float]]:
    """Return checked features (C, h, w) float32 of one view and the extent of their grid.

    Raises UserError unless the features fit their grid and the number range of the artifact.
    """
    height, width, extent = teacher.feature_grid(view.camera.height, view.camera.width)
    features = np.asarray(teacher.image_features(read_image(view)), np.float32)
    where = f"{teacher.name}, view {view.view_id}: image_features gives"
    if features.ndim != 3 or not len(features) or features.shape[1:] != (height, width):
        raise UserError(f"{where} an array {features.shape} for a grid of {height}x{width} cells.")
    if not np.all(np.abs(features) <= LARGEST):
        raise UserError(f"{where} values that are not finite, or beyond {LARGEST:g}.")
    return features, extent

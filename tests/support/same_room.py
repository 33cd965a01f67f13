"""Checks that two readers' scans of the tiny room give equal points, views, masks and links."""

from __future__ import annotations

import numpy as np

from data.artifacts.links import ViewLinks
from data.types import Scan, Scene
from stages.configs import LinkConfig, PrepareConfig
from stages.scene import link_points, prepare_scene

TOLERANCE = 1e-5


def links_of(scan: Scan) -> list[ViewLinks]:
    prepared = prepare_scene.run(scan, PrepareConfig())
    scene = Scene(
        prepared.scene_id,
        prepared.cloud,
        prepared.triangles,
        prepared.superpoint_ids,
        prepared.views,
        list(prepared.depths),
    )
    return list(link_points.run(scene, LinkConfig()))


def check_same_room(scan: Scan, expected: Scan) -> None:
    """Compare all but names, segments and images; views are compared in their order."""
    np.testing.assert_allclose(scan.cloud.points, expected.cloud.points, atol=TOLERANCE)
    np.testing.assert_allclose(scan.cloud.normals, expected.cloud.normals, atol=TOLERANCE)
    np.testing.assert_array_equal(scan.cloud.colors, expected.cloud.colors)
    np.testing.assert_array_equal(scan.triangles, expected.triangles)
    assert len(scan.views) == len(expected.views) == 6
    for view, other in zip(scan.views, expected.views):
        assert view.camera.model == other.camera.model
        assert (view.camera.height, view.camera.width) == (other.camera.height, other.camera.width)
        np.testing.assert_allclose(view.camera.K, other.camera.K, atol=TOLERANCE)
        np.testing.assert_allclose(view.world_to_camera, other.world_to_camera, atol=TOLERANCE)
    assert scan.truth.labels == expected.truth.labels
    for object_id, other_id in zip(scan.truth.object_ids, expected.truth.object_ids):
        mask, other_mask = scan.truth.mask([object_id]), expected.truth.mask([other_id])
        np.testing.assert_array_equal(mask, other_mask)
        assert mask.any()
    for links, others in zip(links_of(scan), links_of(expected), strict=True):
        np.testing.assert_array_equal(links.point_ids, others.point_ids)
        np.testing.assert_allclose(links.uv, others.uv, atol=TOLERANCE)
        assert len(links.point_ids) > 50

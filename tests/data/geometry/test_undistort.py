"""Undistortion here gives what the dataset's own files give, and knows what no lens saw."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.artifacts.links import ViewLinks
from data.errors import DataError
from data.geometry.cameras import lens_end, pixel_centers, project, unproject
from data.geometry.undistort import Undistorter, undistorted_camera, undistorter_between
from data.readers.scannetpp import read_scan, scene_identity
from data.types import Array, Camera, Scene
from stages.configs import LinkConfig, PrepareConfig
from stages.scene import link_points, prepare_scene
from stages.scene.view_images import read_image, read_valid
from tests.support.scans.scannetpp_pictures import forget_undistorted, paint_tree, recipe_camera
from tests.support.scans.scannetpp_tree import CAMERAS, FISHEYE, HEIGHT, SCENE, WIDTH, room


def edges_focal(camera: Camera) -> float:
    """Balance 0 in own words: the picture just reaches the nearest middle of an edge.

    The four middles of the edges (OpenCV's corner is the first pixel's centre) are undistorted;
    each distance from their mean, as a share of half the picture, asks for one focal length,
    and the longest of them shows no pixel that lies beyond.
    """
    middles = [(WIDTH / 2, 0), (WIDTH, HEIGHT / 2), (WIDTH / 2, HEIGHT), (0, HEIGHT / 2)]
    rays = unproject(camera, np.array(middles) + 0.5)[:, :2]
    aspect = camera.K[0, 0] / camera.K[1, 1]
    rays[:, 1] *= aspect
    x, y = rays.T
    cx, cy = rays.mean(axis=0)
    half_width, half_height = WIDTH / 2, HEIGHT / 2 * aspect
    asked = (half_width / (cx - x.min()), half_width / (x.max() - cx))
    return float(max(*asked, half_height / (cy - y.min()), half_height / (y.max() - cy)))


def test_the_camera_follows_the_recipe() -> None:
    camera = undistorted_camera(FISHEYE)
    assert camera.model == "PINHOLE" and (camera.height, camera.width) == (HEIGHT, WIDTH)
    assert (camera.K[0, 2], camera.K[1, 2]) == (WIDTH / 2, HEIGHT / 2)
    assert camera.K[0, 0] == pytest.approx(edges_focal(FISHEYE), rel=1e-5)
    assert camera.K[0, 0] / camera.K[1, 1] == pytest.approx(60.0 / 60.5, rel=1e-6)


def test_a_lens_that_cannot_be_undistorted_is_refused(root: Path) -> None:
    forget_undistorted(root)
    path = root / "data" / SCENE / CAMERAS
    wild = (1e200, -1e200, 1e200, -1e200)
    values = " ".join(repr(value) for value in wild)
    old = " ".join(repr(value) for value in FISHEYE.distortion)
    path.write_text(path.read_text().replace(old, values))
    transforms = root / "data" / SCENE / "dslr" / "nerfstudio" / "transforms.json"
    text = transforms.read_text()
    for value, other in zip(FISHEYE.distortion, wild):
        text = text.replace(f": {value!r}", f": {other!r}")
    transforms.write_text(text)
    with pytest.raises(DataError, match="cameras.txt"):
        read_scan(root, SCENE, "undistorted")


@pytest.mark.parametrize(("images", "transforms"), [(True, False), (False, True), (True, True)])
def test_views_equal_those_of_the_shipped_folder(
    root: Path, images: bool, transforms: bool, caplog: pytest.LogCaptureFixture
) -> None:
    dslr = paint_tree(root)
    shipped = read_scan(root, SCENE, "undistorted").views
    pictures = [read_image(view) for view in shipped]
    forget_undistorted(root, images, transforms)
    with caplog.at_level(logging.INFO):
        made = read_scan(root, SCENE, "undistorted").views
    assert "6 images are undistorted as they are read" in caplog.text
    assert len(made) == len(shipped) == 6
    for view, other, expected in zip(made, shipped, pictures):
        assert view.view_id == other.view_id
        assert view.image_path == dslr / "resized_images" / f"{view.view_id}.JPG"
        assert view.camera.model == "PINHOLE" and view.camera.distortion == ()
        np.testing.assert_allclose(view.camera.K, other.camera.K, atol=1e-5)
        np.testing.assert_array_equal(view.world_to_camera, other.world_to_camera)
        valid = read_valid(view)
        inside = np.ones((HEIGHT, WIDTH), bool) if valid is None else valid
        difference = np.abs(read_image(view).astype(int) - expected.astype(int))
        assert inside.mean() > 0.9 and difference[inside].max() <= 2


def linked(root: Path) -> list[ViewLinks]:
    prepared = prepare_scene.run(read_scan(root, SCENE, "undistorted"), PrepareConfig())
    scene = Scene(
        SCENE,
        prepared.cloud,
        prepared.triangles,
        prepared.superpoint_ids,
        prepared.views,
        list(prepared.depths),
    )
    return list(link_points.run(scene, LinkConfig()))


def test_links_equal_those_of_the_shipped_folder(root: Path) -> None:
    paint_tree(root)
    shipped = linked(root)
    forget_undistorted(root)
    for found, expected in zip(linked(root), shipped, strict=True):
        assert len(found.point_ids) > 30
        np.testing.assert_array_equal(found.point_ids, expected.point_ids)
        np.testing.assert_allclose(found.uv, expected.uv, atol=1e-5)


def test_shipped_pictures_are_not_undistorted_again(root: Path) -> None:
    paint_tree(root)
    views = read_scan(root, SCENE, "undistorted").views
    assert not any(view.is_distorted for view in views)
    assert all(view.lens is not None and view.lens.K[0, 0] == 60.0 for view in views)


def seen_by_lens(lens: Camera, pinhole: Camera) -> tuple[Array, Array]:
    """Of each pinhole pixel: whether the lens's picture surely holds it, and surely not."""
    uv = project(lens, unproject(pinhole, pixel_centers(pinhole.height, pinhole.width)))
    low, high = uv.min(axis=1) - 0.5, (uv - [lens.width - 0.5, lens.height - 0.5]).max(axis=1)
    margin = np.minimum(low, -high)
    margin = np.where(np.isnan(margin), -np.inf, margin)
    shape = (pinhole.height, pinhole.width)
    return (margin > 1e-3).reshape(shape), (margin < -1e-3).reshape(shape)


@pytest.mark.parametrize("focal", [30.0, 45.0, 60.0])
def test_pixels_beyond_the_lens_are_outside(focal: float) -> None:
    K = np.array([[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]])
    pinhole = Camera("PINHOLE", K, HEIGHT, WIDTH)
    inside, outside = seen_by_lens(FISHEYE, pinhole)
    made = Undistorter.between(FISHEYE, pinhole)
    assert not (made.outside & inside).any() and (made.outside | ~outside).all()
    assert (focal > 50) or outside.sum() > 100


def test_a_lens_that_turns_back_ends_there() -> None:
    lens = replace(FISHEYE, distortion=(-0.6, 0.0, 0.0, 0.0))
    assert lens_end(lens.distortion) == pytest.approx(np.sqrt(1 / 1.8))
    K = np.array([[30.0, 0, WIDTH / 2], [0, 30.0, HEIGHT / 2], [0, 0, 1]])
    pinhole = Camera("PINHOLE", K, HEIGHT, WIDTH)
    inside, outside = seen_by_lens(lens, pinhole)
    made = Undistorter.between(lens, pinhole)
    assert not (made.outside & inside).any() and (made.outside | ~outside).all()
    folded = (made.map_x >= 0) & (made.map_x <= WIDTH - 1)
    folded &= (made.map_y >= 0) & (made.map_y <= HEIGHT - 1)
    assert (folded & outside).any()  # the maps alone would have taken these


def test_maps_are_kept_by_value() -> None:
    pinhole = undistorted_camera(FISHEYE)
    first = undistorter_between(FISHEYE, pinhole)
    assert undistorter_between(replace(FISHEYE, K=FISHEYE.K.copy()), pinhole) is first
    other = undistorter_between(replace(FISHEYE, distortion=(0.0,) * 4), pinhole)
    assert not np.allclose(other.map_x, first.map_x)


def test_the_recipe_of_the_test_is_that_of_the_code() -> None:
    np.testing.assert_allclose(undistorted_camera(FISHEYE).K, recipe_camera().K, atol=1e-6)


def test_identity_tells_undistorted_here_from_shipped(root: Path) -> None:
    paint_tree(root)
    seen = [scene_identity(root, SCENE, "undistorted")]
    forget_undistorted(root, images=False)
    seen.append(scene_identity(root, SCENE, "undistorted"))
    image = root / "data" / SCENE / "dslr" / "resized_images" / "view2.JPG"
    image.write_bytes(image.read_bytes() + b" ")
    seen.append(scene_identity(root, SCENE, "undistorted"))
    image.unlink()
    seen.append(scene_identity(root, SCENE, "undistorted"))
    assert len(set(seen)) == 4


def test_poses_still_have_to_agree(root: Path) -> None:
    forget_undistorted(root)
    path = root / "data" / SCENE / "dslr" / "colmap" / "images.txt"
    name = room()[0].views[3].view_id
    path.write_text(path.read_text().replace(f"{name}.JPG", "other.JPG"))
    with pytest.raises(DataError, match=f"{name}.JPG"):
        read_scan(root, SCENE, "undistorted")

"""Pixels blanked for privacy or mirrored at a border are found, and nothing is linked to them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.artifacts.links import ViewLinks
from data.errors import DataError
from data.geometry.cameras import pixel_centers, project, unproject
from data.images import check_image
from data.readers.scannetpp import read_scan, scene_identity
from data.readers.scannetpp_layout import CameraChoice
from data.types import Array, Camera, Scene, View
from stages.configs import LinkConfig
from stages.scene import link_points
from stages.scene.view_images import read_image, read_valid
from tests.support.scans.scannetpp_pictures import forget_undistorted, paint_tree, write_masks
from tests.support.scans.scannetpp_tree import FISHEYE, HEIGHT, SCENE, WIDTH, room
from tests.support.scans.tiny_scene import make_tiny_scene

FOLDERS: dict[CameraChoice, str] = {
    "undistorted": "resized_undistorted_masks",
    "fisheye": "resized_anon_masks",
}


def patched() -> Array:
    """All valid but for rows 20 to 49, columns 30 to 69."""
    mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
    mask[20:50, 30:70] = 0
    return mask


def views_with(root: Path, camera: CameraChoice, masks: dict[str, Array]) -> tuple[View, ...]:
    write_masks(root / "data" / SCENE / "dslr" / FOLDERS[camera], masks)
    return read_scan(root, SCENE, camera).views


def test_without_masks_fisheye_pictures_are_valid_everywhere(whole: Path) -> None:
    views = read_scan(whole, SCENE, "fisheye").views
    assert all(view.mask_path is None and view.lens is None for view in views)
    assert all(read_valid(view) is None for view in views)


def test_a_fisheye_mask_is_taken_as_it_stands(root: Path) -> None:
    masks = {f"view{i}": np.full((HEIGHT, WIDTH), 255, np.uint8) for i in range(6)}
    masks["view2"] = patched()
    masks["view2"][0, 0] = 254  # what is not wholly valid is not valid
    views = views_with(root, "fisheye", masks)
    assert [read_valid(view) is None for view in views] == [i != 2 for i in range(6)]
    np.testing.assert_array_equal(read_valid(views[2]), masks["view2"] == 255)


def test_a_shipped_mask_counts_together_with_the_border(root: Path) -> None:
    paint_tree(root)
    border = read_valid(read_scan(root, SCENE, "undistorted").views[1])
    valid = read_valid(
        views_with(root, "undistorted", {f"view{i}": patched() for i in range(6)})[1]
    )
    assert border is not None and not border.all() and border.mean() > 0.9
    np.testing.assert_array_equal(valid, border & (patched() == 255))


def test_a_mask_is_undistorted_as_its_picture_is(root: Path) -> None:
    paint_tree(root)
    forget_undistorted(root)
    masks = {f"view{i}": patched() for i in range(6)}
    write_masks(root / "data" / SCENE / "dslr" / "resized_anon_masks", masks)
    view = read_scan(root, SCENE, "undistorted").views[1]
    valid = read_valid(view)
    assert view.is_distorted and valid is not None
    # Where a pixel's centre falls in the lens's picture, with the pixels that bilinear touches.
    uv = project(FISHEYE, unproject(view.camera, pixel_centers(HEIGHT, WIDTH)))
    u, v = uv.T.reshape(2, HEIGHT, WIDTH)
    touched = (u > 29.5 + 0.02) & (u < 70.5 - 0.02) & (v > 19.5 + 0.02) & (v < 50.5 - 0.02)
    clear = (u < 29.5 - 0.02) | (u > 70.5 + 0.02) | (v < 19.5 - 0.02) | (v > 50.5 + 0.02)
    inside = (u > 1) & (u < WIDTH - 1) & (v > 1) & (v < HEIGHT - 1)
    assert touched.sum() > 900 and not valid[touched].any()
    assert valid[clear & inside].all()
    assert not valid[(u < 0) | (v < 0) | (u > WIDTH) | (v > HEIGHT)].any()


def test_pictures_without_a_mask_are_counted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    views = views_with(root, "fisheye", {"view1": patched(), "view4": patched()})
    assert [view.mask_path is not None for view in views] == [i in (1, 4) for i in range(6)]
    assert (
        "4 of 6 images have no mask" in caplog.text and caplog.records[0].levelno == logging.WARNING
    )


def link(views: tuple[View, ...], cfg: LinkConfig | None = None) -> list[ViewLinks]:
    scene, _ = make_tiny_scene(SCENE, 0.25, HEIGHT, WIDTH)
    depths = scene.depths
    found = link_points.run(replace(scene, views=views, depths=depths), cfg or LinkConfig())
    return list(found)


def test_nothing_is_linked_to_a_masked_pixel(root: Path) -> None:
    def views_of(scene: Scene) -> tuple[View, ...]:
        folder = root / "masks"
        write_masks(folder, {view.view_id: patched() for view in scene.views})
        return tuple(
            replace(view, mask_path=folder / f"{view.view_id}.png") for view in scene.views
        )

    scene = make_tiny_scene(SCENE, 0.25, HEIGHT, WIDTH)[0]
    free, masked = link(scene.views), link(views_of(scene))
    dropped = 0
    for before, after in zip(free, masked):
        column, row = np.floor(before.uv).astype(int).T
        shown = ~((row >= 20) & (row < 50) & (column >= 30) & (column < 70))
        np.testing.assert_array_equal(after.point_ids, before.point_ids[shown])
        np.testing.assert_array_equal(after.uv, before.uv[shown])
        dropped += int((~shown).sum())
    assert dropped > 20
    for before, after in zip(free, link(views_of(scene), LinkConfig(masks=False))):
        np.testing.assert_array_equal(after.point_ids, before.point_ids)


def test_nothing_is_linked_beyond_what_the_lens_saw() -> None:
    scene = make_tiny_scene(SCENE, 0.25, HEIGHT, WIDTH)[0]
    K = np.array([[90.0, 0, WIDTH / 2], [0, 90.0, HEIGHT / 2], [0, 0, 1]])
    narrow = Camera("OPENCV_FISHEYE", K, HEIGHT, WIDTH, (0.2, 0.0, 0.0, 0.0))
    views = tuple(replace(view, lens=narrow) for view in scene.views)
    free, bordered = link(scene.views), link(views)
    dropped = 0
    for before, after, view in zip(free, bordered, views):
        points = scene.cloud.points[after.point_ids].astype(np.float64)
        pose = view.world_to_camera
        uv = project(narrow, points @ pose[:3, :3].T + pose[:3, 3])
        assert set(after.point_ids) <= set(before.point_ids)
        dropped += len(before.point_ids) - len(after.point_ids)
        assert (uv > -0.5).all() and (uv < [WIDTH + 0.5, HEIGHT + 0.5]).all()
    assert dropped > 100


WRONG = [
    (np.full((HEIGHT, WIDTH), 1, np.uint8), "255"),
    (np.full((HEIGHT // 2, WIDTH), 255, np.uint8), "128x48"),
]


@pytest.mark.parametrize(("mask", "hint"), WRONG)
def test_a_wrong_mask_is_named(root: Path, mask: Array, hint: str) -> None:
    with pytest.raises(DataError) as caught:
        read_valid(views_with(root, "fisheye", {f"view{i}": mask for i in range(6)})[0])
    assert "view0.png" in str(caught.value) and hint in str(caught.value)


def test_a_wholly_blanked_picture_is_no_error(root: Path) -> None:
    nothing = np.zeros((HEIGHT, WIDTH), np.uint8)
    valid = read_valid(views_with(root, "fisheye", {"view3": nothing})[3])
    assert valid is not None and not valid.any()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_a_truncated_mask_is_named(root: Path, share: float) -> None:
    folder = root / "data" / SCENE / "dslr" / "resized_anon_masks"
    write_masks(folder, {"view3": patched()})
    path = folder / "view3.png"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match="view3.png"):
        read_scan(root, SCENE, "fisheye")


def test_a_mask_that_went_away_is_named(root: Path) -> None:
    view = views_with(root, "fisheye", {"view3": patched()})[3]
    assert view.mask_path is not None
    view.mask_path.unlink()
    with pytest.raises(DataError, match="view3.png.*found no file"):
        read_valid(view)


@settings(max_examples=200)
@given(st.integers(0, 2**31), st.integers(1, 12), st.booleans())
def test_a_damaged_mask_is_harmless_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, cut: bool
) -> None:
    folder = tmp_path_factory.getbasetemp() / "masks"
    write_masks(folder, {"view0": patched()})
    path = folder / "view0.png"
    rng = np.random.default_rng(seed)
    bad = np.frombuffer(path.read_bytes(), np.uint8).copy()
    bad[rng.integers(0, len(bad), count)] = rng.integers(0, 256, count)
    path.write_bytes(bad.tobytes()[: int(rng.integers(0, len(bad))) if cut else None])
    view = replace(room()[0].views[0], camera=FISHEYE, mask_path=path)
    try:
        check_image(path, HEIGHT, WIDTH)
        valid = read_valid(view)
        assert valid is None or valid.shape == (HEIGHT, WIDTH)
    except DataError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("camera", ["undistorted", "fisheye"])
def test_identity_changes_with_masks(root: Path, camera: CameraChoice) -> None:
    seen = {scene_identity(root, SCENE, camera)}
    folder = root / "data" / SCENE / "dslr" / FOLDERS[camera]
    write_masks(folder, {"view3": patched()})
    seen.add(scene_identity(root, SCENE, camera))
    (folder / "view3.png").unlink()
    write_masks(folder, {"view4": np.zeros((3, 3), np.uint8)})
    seen.add(scene_identity(root, SCENE, camera))
    assert len(seen) == 3


def test_the_image_of_another_size_is_named_when_read(root: Path) -> None:
    view = read_scan(root, SCENE, "fisheye").views[0]
    Image.new("RGB", (WIDTH, HEIGHT + 1)).save(view.image_path, format="PNG")
    with pytest.raises(DataError, match="128x97"):
        read_image(view)


def test_a_view_needs_a_lens_to_be_distorted() -> None:
    view = room()[0].views[0]
    with pytest.raises(ValueError, match="lens"):
        replace(view, is_distorted=True)
    with pytest.raises(ValueError, match="fisheye"):
        replace(view, lens=view.camera)

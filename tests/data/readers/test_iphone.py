"""iPhone views: frames and poses joined by name, frames taken out of the video by a command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.errors import DataError
from data.readers import scannetpp_iphone
from data.readers.scannetpp import read_scan, scene_identity
from data.readers.scannetpp_layout import ScenePaths
from stages.scene.view_images import read_image, read_valid
from tests.support.scans.iphone_capture import CENTRE, FOCAL, SIZE, entry, shade, write_frames
from tests.support.scans.scannetpp_pictures import write_masks
from tests.support.scans.scannetpp_tree import GROUPS, SCENE, room

POSES = "iphone/pose_intrinsic_imu.json"


@pytest.fixture
def scene(root: Path) -> Path:
    """A scene with frames taken out, and nothing of the DSLR."""
    folder = root / "data" / SCENE
    shutil.rmtree(folder / "dslr")
    write_frames(folder)
    return folder


def edit(scene: Path, change: Callable[[Any], object]) -> None:
    content = json.loads((scene / POSES).read_text())
    change(content)
    (scene / POSES).write_text(json.dumps(content))


def broken(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_scan(root, SCENE, "iphone")
    return str(caught.value)


def test_views_are_the_rooms(root: Path, scene: Path) -> None:
    scan = read_scan(root, SCENE, "iphone")
    assert scan.truth.object_ids == tuple(object_id for _, object_id, _ in GROUPS)
    assert [view.view_id for view in scan.views] == [f"frame_{20 * i:06d}" for i in range(6)]
    for index, (view, original) in enumerate(zip(scan.views, room()[0].views)):
        np.testing.assert_allclose(view.world_to_camera, original.world_to_camera, atol=1e-9)
        camera = view.camera
        assert camera.model == "PINHOLE" and (camera.height, camera.width) == SIZE
        assert (camera.K[0, 0], camera.K[1, 1]) == FOCAL
        assert (camera.K[0, 2], camera.K[1, 2]) == CENTRE
        assert np.abs(read_image(view).astype(int) - shade(20 * index)).max() <= 3
        assert read_valid(view) is None


def test_the_data_folder_itself_may_be_given(root: Path, scene: Path) -> None:
    assert len(read_scan(root / "data", SCENE, "iphone").views) == 6


def test_frames_and_poses_are_joined_by_name(
    root: Path, scene: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit(scene, lambda c: c.pop("frame_000020"))
    edit(scene, lambda c: c["frame_000060"]["aligned_pose"][1].__setitem__(3, float("-inf")))
    edit(scene, lambda c: c["frame_000080"].update(aligned_pose=[[float("nan")] * 4] * 4))
    (scene / "iphone" / "rgb" / "frame_000000.jpg").unlink()
    views = read_scan(root, SCENE, "iphone").views
    assert [view.view_id for view in views] == ["frame_000040", "frame_000100"]
    for view, index in zip(views, (2, 5)):
        expected = room()[0].views[index].world_to_camera
        np.testing.assert_allclose(view.world_to_camera, expected, atol=1e-9)
    assert "of 5 frames, 1 have no pose and 2 have a pose that is not finite" in caplog.text


def test_other_files_beside_the_frames_do_not_hide_them(root: Path, scene: Path) -> None:
    rgb = scene / "iphone" / "rgb"
    (rgb / "frame_000020.bak").write_text("x")
    (rgb / "frame_000040.png").write_bytes((rgb / "frame_000040.jpg").read_bytes())
    (rgb / "notes.txt").write_text("x")
    views = read_scan(root, SCENE, "iphone").views
    assert [view.image_path.name for view in views] == [f"frame_{20 * i:06d}.jpg" for i in range(6)]


def test_a_pose_of_rounded_numbers_is_made_rigid(root: Path, scene: Path) -> None:
    edit(
        scene,
        lambda c: c["frame_000040"].update(
            aligned_pose=np.round(c["frame_000040"]["aligned_pose"], 4).tolist()
        ),
    )
    pose = read_scan(root, SCENE, "iphone").views[2].world_to_camera
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(pose, room()[0].views[2].world_to_camera, atol=1e-3)


def test_masks_are_used(root: Path, scene: Path) -> None:
    mask = np.full(SIZE, 255, np.uint8)
    mask[10:20, 30:50] = 0
    write_masks(scene / "iphone" / "rgb_masks", {f"frame_{20 * i:06d}": mask for i in range(6)})
    valid = read_valid(read_scan(root, SCENE, "iphone").views[3])
    np.testing.assert_array_equal(valid, mask == 255)


def no_pose(content: Any) -> None:
    for name in list(content):
        if int(name[-6:]) % 20 == 0:
            content.pop(name)


WRONG: list[tuple[Callable[[Any], object], str]] = [
    (lambda c: c["frame_000040"].pop("aligned_pose"), "frame_000040.aligned_pose"),
    (lambda c: c["frame_000040"].update(aligned_pose="x"), "frame_000040.aligned_pose"),
    (lambda c: c["frame_000040"].update(aligned_pose=[[1, 2], [3]]), "frame_000040.aligned_pose"),
    (lambda c: c["frame_000040"]["aligned_pose"].pop(), "frame_000040.aligned_pose"),
    (lambda c: c["frame_000040"]["aligned_pose"][0].__setitem__(0, None), "aligned_pose"),
    (lambda c: c["frame_000040"]["aligned_pose"][0].__setitem__(0, 3.0), "rigid"),
    (lambda c: c["frame_000040"].update(aligned_pose=np.diag([1, 1, -1, 1]).tolist()), "rigid"),
    (lambda c: c["frame_000040"].update(aligned_pose=(2 * np.eye(4)).tolist()), "rigid"),
    (lambda c: c["frame_000040"].pop("intrinsic"), "frame_000040.intrinsic"),
    (lambda c: c["frame_000040"]["intrinsic"][0].__setitem__(0, -50.0), "focal"),
    (lambda c: c["frame_000040"]["intrinsic"][0].__setitem__(0, float("nan")), "finite"),
    (lambda c: c["frame_000040"]["intrinsic"][0].__setitem__(1, 4.0), "skew"),
    (lambda c: c["frame_000040"]["intrinsic"][0].__setitem__(2, 960.0), "principal point"),
    (lambda c: c.update(frame_000040=7), "frame_000040"),
    (lambda c: c.clear(), "empty"),
    (no_pose, "none of 6"),
]


@pytest.mark.parametrize(("change", "hint"), WRONG)
def test_wrong_poses_are_named(
    root: Path, scene: Path, change: Callable[[Any], object], hint: str
) -> None:
    edit(scene, change)
    message = broken(root)
    assert str(scene / POSES) in message and hint in message


def test_wrong_frames_are_named(root: Path, scene: Path) -> None:
    frame = scene / "iphone" / "rgb" / "frame_000040.jpg"
    good = frame.read_bytes()
    Image.new("RGB", (40, 30)).save(frame)
    assert str(frame) in broken(root)
    frame.write_bytes(good[: len(good) // 2])
    assert str(frame) in broken(root)
    frame.write_bytes(good)
    first = frame.with_name("frame_000000.jpg")
    first.write_bytes(b"404")
    assert str(first) in broken(root)
    (scene / POSES).unlink()
    assert str(scene / POSES) in broken(root)


def test_identity_changes_with_frames_masks_and_poses(root: Path, scene: Path) -> None:
    seen = [scene_identity(root, SCENE, "iphone"), scene_identity(root, SCENE, "undistorted")]
    edit(scene, lambda c: c.pop("frame_000020"))
    seen.append(scene_identity(root, SCENE, "iphone"))
    (scene / "iphone" / "rgb" / "frame_000040.jpg").unlink()
    seen.append(scene_identity(root, SCENE, "iphone"))
    write_masks(scene / "iphone" / "rgb_masks", {"frame_000000": np.zeros(SIZE, np.uint8)})
    seen.append(scene_identity(root, SCENE, "iphone"))
    (scene / POSES).unlink()
    seen.append(scene_identity(root, SCENE, "iphone"))
    assert len(set(seen)) == 6


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    write_frames(folder)
    return folder


@settings(max_examples=100)
@given(st.integers(0, 2**31), st.integers(1, 12), st.booleans())
def test_damaged_poses_are_harmless_or_one_clear_error(
    kept: Path, seed: int, count: int, cut: bool
) -> None:
    path = kept / POSES
    good = path.read_bytes()
    rng = np.random.default_rng(seed)
    bad = np.frombuffer(good, np.uint8).copy()
    bad[rng.integers(0, len(bad), count)] = rng.integers(32, 127, count)
    path.write_bytes(bad.tobytes()[: int(rng.integers(0, len(bad))) if cut else None])
    try:
        views = scannetpp_iphone.read_views(ScenePaths(kept, "iphone"))
        assert all(np.isfinite(view.world_to_camera).all() for view in views)
    except DataError as error:
        assert str(path) in str(error)
    finally:
        path.write_bytes(good)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
)


@settings(max_examples=100)
@given(st.sampled_from(["aligned_pose", "intrinsic", None]), VALUES)
def test_any_json_value_is_harmless_or_one_clear_error(
    kept: Path, key: str | None, value: object
) -> None:
    path = kept / POSES
    good = path.read_bytes()
    content = {"frame_000000": entry(np.eye(4))}
    if key is None:
        content["frame_000000"] = value  # type: ignore[assignment]
    else:
        content["frame_000000"][key] = value
    try:
        path.write_text(json.dumps(content))
        scannetpp_iphone.read_views(ScenePaths(kept, "iphone"))
    except DataError as error:
        assert str(path) in str(error)
    finally:
        path.write_bytes(good)

"""Frames taken out of an iPhone's video and depth stream, by the command the reader names."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError, UserError
from data.readers.scannetpp import read_scan
from pipeline.__main__ import main
from stages.scene import extract_iphone
from tests.support.scans.iphone_capture import (
    SIZE,
    depth_pictures,
    encode_depth,
    shade,
    write_frames,
    write_video,
)
from tests.support.scans.scannetpp_tree import SCENE


@pytest.fixture
def scene(root: Path) -> Path:
    """A scene with frames taken out, and nothing of the DSLR."""
    folder = root / "data" / SCENE
    shutil.rmtree(folder / "dslr")
    write_frames(folder)
    return folder


def broken(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_scan(root, SCENE, "iphone")
    return str(caught.value)


def test_a_video_alone_is_told_how_to_take_frames_out(root: Path, scene: Path) -> None:
    shutil.rmtree(scene / "iphone" / "rgb")
    message = broken(root)
    assert str(scene / "iphone" / "rgb") in message and "Download" in message
    write_video(scene / "iphone" / "rgb.mkv", [shade(number) for number in range(101)])
    (scene / "iphone" / "depth.bin").write_bytes(encode_depth(depth_pictures(101), "lz4"))
    for folder in (False, True):
        if folder:
            (scene / "iphone" / "rgb").mkdir()
        message = broken(root)
        assert f"extract-iphone --scene {scene} --output {scene / 'iphone'} --every 20" in message
    (scene / "iphone" / "rgb").rmdir()
    command = message[message.index("extract-iphone") :].split()
    assert main(command) == 0
    assert [view.view_id for view in read_scan(root, SCENE, "iphone").views] == [
        f"frame_{20 * i:06d}" for i in range(6)
    ]


def test_what_is_taken_out(scene: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    patch = np.full((*SIZE, 3), 255, np.uint8)
    patch[10:30, 20:60] = 0
    write_video(scene / "iphone" / "rgb.mkv", [shade(number) for number in range(9)])
    write_video(scene / "iphone" / "rgb_mask.mkv", [patch] * 9)
    pictures = depth_pictures(4)
    (scene / "iphone" / "depth.bin").write_bytes(encode_depth(pictures, "stream"))
    output = tmp_path / "frames"
    assert extract_iphone.run(scene, output, 3) == (3, 3, 2)
    assert "2 frames in depth, 3 in rgb" in caplog.text
    assert sorted(p.name for p in output.iterdir()) == ["depth", "rgb", "rgb_masks"]
    assert sorted(p.name for p in (output / "rgb").iterdir()) == [
        f"frame_{number:06d}.jpg" for number in (0, 3, 6)
    ]
    depth = np.array(Image.open(output / "depth" / "frame_000003.png"))
    assert depth.dtype == np.uint16 and depth.shape == (192, 256)
    np.testing.assert_array_equal(depth, np.rint(pictures[3] * 1000))
    mask = np.array(Image.open(output / "rgb_masks" / "frame_000006.png"))
    np.testing.assert_array_equal(mask, patch[..., 0])
    with pytest.raises(UserError, match="exists already"):
        extract_iphone.run(scene, output, 3)


def test_a_damaged_stream_leaves_no_folder(scene: Path, tmp_path: Path) -> None:
    write_video(scene / "iphone" / "rgb.mkv", [shade(number) for number in range(3)])
    whole = encode_depth(depth_pictures(3), "deflate")
    (scene / "iphone" / "depth.bin").write_bytes(whole[:-5])
    with pytest.raises(DataError, match="depth.bin"):
        extract_iphone.run(scene, tmp_path / "frames", 1)
    assert [p.name for p in (tmp_path / "frames").iterdir()] == ["rgb"]


def test_the_command_refuses_a_folder_without_a_capture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["extract-iphone", "--scene", str(tmp_path), "--output", str(tmp_path)]
    assert main(options) == 2
    assert "a folder iphone, found none" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*options, "--every", "0"])

"""``.sens`` streams: what is read, what the command writes, and every way of being cut."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import DataError
from data.readers.scannet import read_scan
from data.readers.scannet_sens import SensFile, SensFrame, export_frames
from pipeline.__main__ import main
from tests.support.same_room import check_same_room
from tests.support.scans.scannet_stream import (
    DEPTH,
    FRAME_HEADER,
    HEADER_SIZE,
    color_bytes,
    frame_bytes,
    header_bytes,
    intrinsics,
    room_poses,
    sens_bytes,
)
from tests.support.scans.scannet_tree import SCENE, write_scan, write_tree


@pytest.fixture(scope="module")
def content() -> bytes:
    return sens_bytes(room_poses())


@pytest.fixture
def stream(content: bytes, tmp_path: Path) -> Path:
    path = tmp_path / f"{SCENE}.sens"
    path.write_bytes(content)
    return path


def read_all(path: Path, every: int = 1) -> list[SensFrame]:
    with SensFile(path) as sens:
        return list(sens.frames(every))


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_all(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_every_field_is_read(stream: Path) -> None:
    with SensFile(stream) as sens:
        header, frames = sens.header, list(sens.frames())
    assert header.sensor_name == "StructureSensor"
    np.testing.assert_array_equal(header.color_intrinsics, intrinsics().astype(np.float32))
    np.testing.assert_array_equal(header.color_extrinsics, np.eye(4))
    np.testing.assert_array_equal(header.depth_intrinsics, 2 * np.eye(4))
    assert (header.color_size, header.depth_size) == ((96, 128), (48, 64))
    assert (header.depth_shift, header.num_frames) == (1000.0, 6)
    for index, (frame, pose) in enumerate(zip(frames, room_poses(), strict=True)):
        assert frame.index == index and frame.color == color_bytes(index)
        np.testing.assert_allclose(frame.camera_to_world, pose, atol=1e-6)


def test_every_nth_keeps_its_number(stream: Path) -> None:
    assert [frame.index for frame in read_all(stream, 2)] == [0, 2, 4]
    assert read_all(stream, 4)[1].color == color_bytes(4)


def test_readings_after_the_frames_do_no_harm(stream: Path, content: bytes) -> None:
    stream.write_bytes(content + struct.pack("<Q", 3) + b"imu")
    assert len(read_all(stream)) == 6


def test_extracted_frames_are_the_same_room(tmp_path: Path, content: bytes) -> None:
    """Float32 poses, so the room is the same to 1e-5 (about 1e-7 of 4 metres)."""
    write_tree(tmp_path / "whole")
    folder = tmp_path / "scannet" / "scans" / SCENE
    folder.mkdir(parents=True)
    write_scan(folder, SCENE)
    (folder / f"{SCENE}.sens").write_bytes(content)
    with pytest.raises(DataError, match="extract-sens") as caught:
        read_scan(tmp_path / "scannet", SCENE, "undistorted")
    told = str(caught.value)
    arguments = told[told.index("extract-sens") :].split()
    assert main(arguments) == 0
    expected = read_scan(tmp_path / "whole", SCENE, "undistorted")
    check_same_room(read_scan(tmp_path / "scannet", SCENE, "undistorted"), expected)


def test_the_command_writes_what_the_exporter_does(
    stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    poses = room_poses()
    poses[4] = np.full((4, 4), -np.inf)
    stream.write_bytes(sens_bytes(poses))
    output = tmp_path / "out" / "deep"
    arguments = ["extract-sens", "--input", str(stream), "--output", str(output), "--every", "2"]
    assert main(arguments) == 0
    assert "3 of 6 frames, 1 without a pose" in capsys.readouterr().out
    names = sorted(str(path.relative_to(output)) for path in output.rglob("*.*"))
    kinds = ("extrinsic_color", "extrinsic_depth", "intrinsic_color", "intrinsic_depth")
    assert names == [
        *("color/0.jpg", "color/2.jpg", "color/4.jpg"),
        *(f"intrinsic/{kind}.txt" for kind in kinds),
        *("pose/0.txt", "pose/2.txt", "pose/4.txt"),
    ]
    np.testing.assert_allclose(np.loadtxt(output / "pose" / "2.txt"), poses[2], atol=1e-6)
    assert (np.loadtxt(output / "pose" / "4.txt") == -np.inf).all()
    K = np.loadtxt(output / "intrinsic" / "intrinsic_color.txt")
    np.testing.assert_array_equal(K, intrinsics())
    assert (output / "color" / "2.jpg").read_bytes() == color_bytes(2)


def test_a_broken_stream_leaves_nothing_behind(
    stream: Path, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stream.write_bytes(content[:-1])
    output = tmp_path / "out"
    assert main(["extract-sens", "--input", str(stream), "--output", str(output)]) == 2
    told = capsys.readouterr().err
    assert "frame 5 of 6" in told and str(stream) in told and told.count("\n") == 1
    assert list(output.iterdir()) == []
    stream.write_bytes(content)
    assert export_frames(stream, output).written == 6


@pytest.mark.parametrize("name", ["color", "pose", "intrinsic"])
def test_nothing_is_written_over(stream: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "out" / name).mkdir(parents=True)
    with pytest.raises(DataError, match=name):
        export_frames(stream, tmp_path / "out")
    with pytest.raises(DataError, match="a file"):
        export_frames(stream, stream)


@pytest.mark.parametrize("every", ["0", "-1", "1.5", "x", ""])
def test_every_is_a_whole_number(every: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["extract-sens", "--input", "a", "--output", "b", f"--every={every}"])
    assert caught.value.code == 2 and "whole number" in capsys.readouterr().err


def test_a_missing_stream_is_named(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.sens")
    (tmp_path / "folder.sens").mkdir()
    refused(tmp_path / "folder.sens")


def test_a_cut_names_the_frame(stream: Path, content: bytes) -> None:
    """Cut anywhere, the first frame that is not whole is named."""
    starts = [HEADER_SIZE]
    for index in range(6):
        starts.append(starts[-1] + FRAME_HEADER + len(color_bytes(index)) + len(DEPTH))
    assert starts[-1] == len(content)
    for cut in range(HEADER_SIZE + 6 * FRAME_HEADER, len(content), 7):
        stream.write_bytes(content[:cut])
        frame = next(i for i in range(6) if starts[i + 1] > cut)
        assert f"frame {frame} of 6" in refused(stream)


@pytest.mark.parametrize("cut", [0, 1, 4, 11, 20, HEADER_SIZE - 1, HEADER_SIZE, HEADER_SIZE + 50])
def test_a_cut_in_the_header_is_told(stream: Path, content: bytes, cut: int) -> None:
    stream.write_bytes(content[:cut])
    refused(stream)


def test_other_versions_and_compressions_are_refused(stream: Path) -> None:
    frame = frame_bytes(np.eye(4), color_bytes(0))
    stream.write_bytes(header_bytes(1, version=3) + frame)
    assert "version 4" in refused(stream)
    stream.write_bytes(header_bytes(1, compression=1) + frame)
    assert "JPEG" in refused(stream)
    stream.write_bytes(header_bytes(0))
    assert "none" in refused(stream)
    stream.write_bytes(header_bytes(2**63) + frame)
    assert "cannot hold more than" in refused(stream)


def test_colour_that_is_no_whole_jpeg_names_the_frame(stream: Path) -> None:
    frames = [frame_bytes(np.eye(4), color) for color in (color_bytes(0), color_bytes(1)[:-70])]
    stream.write_bytes(header_bytes(2) + b"".join(frames))
    assert "frame 1 of 2" in refused(stream)


def test_huge_sizes_are_refused_without_allocating(stream: Path) -> None:
    head = bytearray(frame_bytes(np.eye(4), color_bytes(0)))
    head[80:88] = struct.pack("<Q", 2**62)
    stream.write_bytes(header_bytes(1) + bytes(head))
    assert "frame 0 of 1" in refused(stream)


def test_memory_stays_flat(tmp_path: Path) -> None:
    """60 frames of half a MiB of colour: a reader that keeps them would need 30 MiB."""
    path = tmp_path / "long.sens"
    color = b"\xff\xd8" + bytes(1 << 19) + b"\xff\xd9"
    frame = frame_bytes(np.eye(4), color, bytes(1 << 19))
    with open(path, "wb") as file:
        file.write(header_bytes(60))
        for _ in range(60):
            file.write(frame)
    tracemalloc.start()
    with SensFile(path) as sens:
        count = sum(1 for _ in sens.frames())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    path.unlink()
    assert count == 60 and peak < 8 << 20


@settings(max_examples=400)
@given(st.data())
def test_any_damage_is_either_harmless_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject
) -> None:
    bad = bytearray(content)
    # Most bytes are pictures: the fields are hit as often.
    places = st.one_of(st.integers(0, HEADER_SIZE + FRAME_HEADER), st.integers(0, len(bad) - 1))
    for place in data.draw(st.lists(places, min_size=1, max_size=8)):
        bad[place] = data.draw(st.integers(0, 255))
    del bad[data.draw(st.one_of(st.just(len(bad)), st.integers(0, len(bad)))) :]
    path = tmp_path_factory.getbasetemp() / "damaged.sens"
    path.write_bytes(bytes(bad))
    try:
        assert len(read_all(path)) <= 6
    except DataError as error:
        assert str(path) in str(error)

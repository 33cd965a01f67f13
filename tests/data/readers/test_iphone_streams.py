"""Depth of an iPhone in every encoding, LZ4 blocks made by hand, and videos."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import DataError
from data.readers.scannetpp_iphone import depth_frames, video_frames
from tests.support.scans.iphone_capture import (
    COLUMNS,
    ROWS,
    Encoding,
    depth_pictures,
    encode_depth,
    shade,
    write_video,
)

ENCODINGS: tuple[Encoding, ...] = ("stream", "deflate", "lz4")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "depth.bin"


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("count", [1, 7])
def test_every_encoding_gives_the_same_metres(path: Path, encoding: Encoding, count: int) -> None:
    pictures = depth_pictures(count)
    path.write_bytes(encode_depth(pictures, encoding))
    found = list(depth_frames(path))
    assert len(found) == count
    for depth, expected in zip(found, pictures):
        assert depth.shape == (ROWS, COLUMNS) and depth.dtype == np.float32
        np.testing.assert_allclose(depth, expected, atol=1e-6)
        assert (depth[5:9, 7:11] == 0).all()


def test_blocks_of_both_kinds_may_alternate(path: Path) -> None:
    pictures = depth_pictures(4)
    kinds: list[Encoding] = ["lz4", "deflate", "deflate", "lz4"]
    path.write_bytes(b"".join(encode_depth([p], kind) for p, kind in zip(pictures, kinds)))
    for depth, expected in zip(depth_frames(path), pictures, strict=True):
        np.testing.assert_allclose(depth, expected, atol=1e-6)


def lz4_run(value: bytes, length: int) -> bytes:
    """An LZ4 block by hand: ``value`` (2 bytes) written once, then repeated to ``length`` bytes.

    A sequence is a token (4 bits of literals, 4 of match length - 4), the literals, the
    distance back (2 bytes) and the rest of the match length, 255 a byte; the last sequence is
    at least five literals and nothing else.
    """
    match = length - 2 - 6
    more = match - 4 - 15
    extension = b"\xff" * (more // 255) + bytes([more % 255])
    return bytes([0x2F]) + value + struct.pack("<H", 2) + extension + b"\x60" + value * 3


def test_an_lz4_block_made_by_hand(path: Path) -> None:
    block = lz4_run(struct.pack("<H", 1234), 2 * ROWS * COLUMNS)
    path.write_bytes(2 * (struct.pack("<I", len(block)) + block))
    for depth in depth_frames(path):
        assert depth.shape == (ROWS, COLUMNS) and (depth == np.float32(1.234)).all()


@pytest.mark.parametrize("length", [2 * ROWS * COLUMNS - 2, 2 * ROWS * COLUMNS + 2])
def test_a_block_of_another_size_is_refused(path: Path, length: int) -> None:
    block = lz4_run(struct.pack("<H", 1234), length)
    path.write_bytes(struct.pack("<I", len(block)) + block)
    with pytest.raises(DataError, match="depth.bin"):
        list(depth_frames(path))


@pytest.mark.parametrize("encoding", ["stream", "deflate"])
def test_what_is_not_finite_is_no_measurement(path: Path, encoding: Encoding) -> None:
    picture = depth_pictures(1)[0]
    picture[0, :3] = (np.nan, np.inf, -np.inf)
    path.write_bytes(encode_depth([picture], encoding))
    (depth,) = depth_frames(path)
    assert depth[0, :3].tolist() == [0, 0, 0] and depth[0, 3] == picture[0, 3]


@pytest.mark.parametrize("value", [-0.001, 65.6, 1e30])
@pytest.mark.parametrize("encoding", ["stream", "deflate"])
def test_depths_that_cannot_be_are_refused(path: Path, encoding: Encoding, value: float) -> None:
    pictures = depth_pictures(3)
    pictures[2][3, 4] = value
    path.write_bytes(encode_depth(pictures, encoding))
    frames = depth_frames(path)
    assert len(list(itertools.islice(frames, 2))) == 2
    with pytest.raises(DataError, match="image 2"):
        next(frames)


def test_the_stream_is_not_read_ahead(path: Path) -> None:
    path.write_bytes(encode_depth(depth_pictures(2), "lz4") + b"\x09\x00")
    frames = depth_frames(path)
    assert len(list(itertools.islice(frames, 2))) == 2
    with pytest.raises(DataError, match="image 2.*truncated"):
        next(frames)


def test_missing_empty_and_foreign_files(path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        list(depth_frames(path))
    for content in (
        b"",
        b"\0",
        b"\0" * 100,
        b"\xff" * 9,
        b"version https://git-lfs\n",
        b"\x03\x00",
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match="depth.bin"):
            list(depth_frames(path))
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match="depth.bin"):
        list(depth_frames(path))


WHOLE = {encoding: encode_depth(depth_pictures(2), encoding) for encoding in ENCODINGS}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("share", [0.001, 0.3, 0.5, 0.7, 0.999])
def test_a_cut_file_is_named(path: Path, encoding: Encoding, share: float) -> None:
    path.write_bytes(WHOLE[encoding][: int(share * len(WHOLE[encoding]))])
    # Blocks cut exactly between two are a shorter recording; these cuts are elsewhere.
    with pytest.raises(DataError, match="depth.bin"):
        list(depth_frames(path))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_rest_behind_the_pictures_is_named(path: Path, encoding: Encoding) -> None:
    path.write_bytes(WHOLE[encoding] + b"more")
    with pytest.raises(DataError, match="depth.bin"):
        list(depth_frames(path))


@settings(max_examples=500)
@given(st.sampled_from(ENCODINGS), st.integers(0, 2**31), st.integers(1, 8), st.booleans())
def test_damage_is_harmless_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, encoding: Encoding, seed: int, count: int, cut: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "depth.bin"
    rng = np.random.default_rng(seed)
    bad = np.frombuffer(WHOLE[encoding], np.uint8).copy()
    # Most damage near the start, where sizes and headers stand.
    reach = len(bad) if seed % 2 else 64
    bad[rng.integers(0, reach, count)] = rng.integers(0, 256, count)
    path.write_bytes(bad.tobytes()[: int(rng.integers(0, len(bad))) if cut else None])
    try:
        for depth in depth_frames(path):
            assert depth.shape == (ROWS, COLUMNS) and (depth >= 0).all() and (depth < 65.6).all()
    except DataError as error:
        assert str(path) in str(error)


def test_video_frames_have_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "rgb.mkv"
    write_video(path, [shade(number) for number in range(11)])
    found = list(video_frames(path, 4))
    assert [number for number, _ in found] == [0, 4, 8]
    for number, picture in found:
        assert picture.shape == (60, 80, 3) and picture.dtype == np.uint8
        assert np.abs(picture.astype(int) - shade(number)).max() <= 3  # the video's colour space
    assert len(list(video_frames(path, 1))) == 11


def test_videos_without_pictures_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rgb.mkv"
    with pytest.raises(DataError, match="no such file"):
        list(video_frames(path, 1))
    write_video(path, [shade(0)] * 3)
    whole = path.read_bytes()
    for content in (b"", b"404: not found\n", whole[:50]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="rgb.mkv"):
            list(video_frames(path, 1))

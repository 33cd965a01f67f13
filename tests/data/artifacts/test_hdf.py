"""HDF5 files as h5py itself writes them, and what a disk does not take is an error at the end."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from data.artifacts.scene import create_hdf


def fill(file: h5py.File) -> None:
    """Many groups, and arrays in compressed chunks."""
    rng = np.random.default_rng(0)
    for k in range(40):
        group = file.create_group(f"g/{k:03d}")
        group.attrs["name"] = "x" * k
        values = rng.integers(0, 9, (50, 60), dtype=np.uint16)
        group.create_dataset("d", data=values, chunks=(25, 60), compression="gzip")


def content(path: Path) -> dict[str, tuple[str, bytes]]:
    """Each array's values and its group's attribute, read by h5py from the path."""
    with h5py.File(path) as file:
        groups = {name: file[f"g/{name}"] for name in file["g"]}
        return {n: (str(g.attrs["name"]), g["d"][...].tobytes()) for n, g in groups.items()}


def test_the_content_is_that_of_h5py_and_the_bytes_are_the_same_each_time(tmp_path: Path) -> None:
    for name in ("one.h5", "two.h5"):
        with create_hdf(tmp_path / name) as file:
            fill(file)
    with h5py.File(tmp_path / "theirs.h5", "w") as file:
        fill(file)
    assert content(tmp_path / "one.h5") == content(tmp_path / "theirs.h5")
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()


def test_a_disk_that_takes_no_more_is_one_error(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from data.artifacts.scene import create_hdf\n"
        "from tests.data.artifacts.test_hdf import fill\n"
        "limit = int(sys.argv[2])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
        "try:\n"
        "    with create_hdf(Path(sys.argv[1])) as file:\n"
        "        fill(file)\n"
        "        assert (file['g/003/d'][...] < 9).all() and file['g/007/d'][...].any()\n"
        "except OSError as error: sys.exit(error.errno)\n"
    )
    for limit in (0, 100, 20_000, 60_000):
        line = [sys.executable, "-c", code, str(tmp_path / "a.h5"), str(limit)]
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(line, capture_output=True, text=True, check=False, env=env)
        assert done.returncode == errno.EFBIG and not done.stderr, (limit, done.stderr)


def test_an_error_of_the_body_is_the_one_that_is_told(tmp_path: Path) -> None:
    with pytest.raises(KeyError), create_hdf(tmp_path / "a.h5"):
        raise KeyError("body")

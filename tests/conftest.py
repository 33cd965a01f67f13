"""Shared by all tests: reproducible hypothesis runs, and a folder of one's own for outputs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.scannetpp_tree import write_tree

settings.register_profile(
    "project",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("project")


@pytest.fixture(autouse=True)
def _own_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes outside its temporary folder, or reads the user's datasets."""
    monkeypatch.setenv("MLLM3D_OUTPUT", str(tmp_path / "output"))
    monkeypatch.delenv("MLLM3D_DATA", raising=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole ScanNet++ tree of one small scene, to read."""
    root = tmp_path_factory.mktemp("whole")
    write_tree(root)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy of the whole tree, to break."""
    shutil.copytree(whole, tmp_path / "root")
    return tmp_path / "root"

"""Shared by all tests: reproducible hypothesis runs, and a folder of one's own for outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

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

"""Stand-ins for Slurm's commands on PATH; fixtures to import."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.tiny_set import write_set


def stub(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def stubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a folder first on PATH; its sbatch numbers jobs and records its calls."""
    folder = tmp_path / "bin"
    calls = folder / "calls"
    stub(folder, "sbatch", f'echo "$@" >> {calls}; echo "$((40 + $(wc -l < {calls})));cluster"')
    stub(folder, "squeue", "true")
    stub(folder, "scancel", f'echo "scancel $@" >> {calls}')
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return folder


@pytest.fixture
def scene_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a set of two training rooms and one validation room in the current folder."""
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "tiny.yaml")
    return "tiny.yaml"


def directives(script: str) -> list[str]:
    return [line for line in script.splitlines() if line.startswith("#SBATCH")]

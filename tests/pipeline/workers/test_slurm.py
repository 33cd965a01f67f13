"""A run over a real Slurm on this machine: killed, warned and cancelled jobs, and its result.

Skipped where Debian's slurm-wlm and munge are not installed, or for others than root.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from benchmarks import torture
from benchmarks.torture import Pipeline
from pipeline.workers.worker import INTERRUPTED
from tests.support import slurm_cluster
from tests.support.slurm_cluster import wait_for
from tests.support.warm import forker

# Pytest finds a module's fixtures by name.
slurm_config = slurm_cluster.slurm_config

ROOMS_OF_ELEMENT = (1, 2)
WORDS = {"time": "Invalid --time specification", "partition": "invalid partition specified"}


class Cluster(Pipeline):
    """Runs of a folder whose name has to be quoted, and commands about them."""

    def __init__(self, folder: Path, slurm_config: Path) -> None:
        # Views take long enough to be killed between.
        super().__init__(folder, pause=0.5)
        self.env = {name: value for name, value in os.environ.items() if "SLURM" not in name}
        self.env |= {"SLURM_CONF": str(slurm_config), "HOME": str(folder), **self.environment()}

    def ask(self, *line: str) -> str:
        """Ask Slurm."""
        done = subprocess.run(
            line, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ours(self, name: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run a command of ours."""
        line = ["python", "-m", "pipeline", name, "--scene-set", "tiny.yaml", *options]
        return forker().run(line, self.folder, self.env)

    def submit(self, *options: str) -> Path:
        """Submit elements; the submission's folder."""
        resources = ("--partition", "rooms", "--cpus-per-task", "1", "--mem", "100")
        done = self.ours("submit", *resources, *options)
        assert done.returncode == 0, done.stdout
        return max((self.output / "tiny" / "slurm").iterdir())

    def status(self) -> str:
        """Return what ``status`` prints."""
        done = self.ours("status")
        assert done.returncode == 0, done.stdout
        return done.stdout

    def job(self, folder: Path, of: str = "array_job") -> str:
        return str(json.loads((folder / "submission.json").read_text())[of])

    def runs_of(self, element: int) -> list[int]:
        """The process that an element's script waits for, where it lives."""
        mine = set(self.processes())
        found = []
        for pid in mine:
            try:
                environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
                of_parent = Path(f"/proc/{parent_of(pid)}/cmdline").read_bytes()
            except OSError:
                continue
            is_element = f"SLURM_ARRAY_TASK_ID={element}".encode() in environ
            if is_element and b"CacheTeacherMasks" in line and b"-m\0luigi" not in of_parent:
                found.append(pid)
        return found


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def notes(folder: Path, name: str) -> list[str]:
    path = folder / f"{name}.notes"
    return path.read_text().splitlines() if path.exists() else []


def checksums(output: Path) -> dict[str, str]:
    """SHA-256 of every artifact's files, as its metadata lists them, but for those with times."""
    found = {}
    for path in sorted(output.rglob("metadata.json")):
        content = json.loads(path.read_text())
        for name, file in content.get("files", {}).items():
            if Path(name).name not in torture._TIMED:
                found[f"{path.parent.relative_to(output)}/{name}"] = file["sha256"]
    return found


def test_an_array_with_a_killed_and_a_warned_element_ends_as_a_local_run(
    slurm_config: Path, tmp_path: Path, untouched: Pipeline
) -> None:
    cluster = Cluster(tmp_path / "it's a % cluster", slurm_config)
    folder = cluster.submit(
        "--array", "2", "--time", "30", "--sbatch-option", "comment=three rooms"
    )
    assert cluster.job(folder) in cluster.status()
    wait_for(lambda: bool(cluster.answered()), 120, "the first view")
    wait_for(lambda: bool(cluster.runs_of(0)), 60, "element 0")
    os.kill(cluster.runs_of(0)[0], signal.SIGKILL)
    wait_for(lambda: bool(cluster.runs_of(1)), 60, "element 1")
    # As Slurm does a while before the time limit; its scancel sends the signal twice at times.
    os.kill(parent_of(cluster.runs_of(1)[0]), signal.SIGUSR1)
    for element, code in ((0, 128 + signal.SIGKILL), (1, INTERRUPTED)):
        note = f"requeued after {code}"
        wait_for(lambda: note in notes(folder, f"element-{element}"), 60, f"{element}: {note}")
    assert "requeued 1 x" in cluster.status()
    wait_for(lambda: notes(folder, "rest")[-1:] == ["ended 0"], 240, "the rest")
    for element in range(len(ROOMS_OF_ELEMENT)):
        told = notes(folder, f"element-{element}")
        starts = [note for note in told if note.startswith("started ")]
        assert told[-1] == "ended 0" and len(starts) == 2, told
    page = cluster.status()
    assert "results of this config: in place" in page
    done = [line.split() for line in page.splitlines() if line.startswith("element ")]
    assert [row[2:4] for row in done] == [[f"{n}/{n}", "done"] for n in ROOMS_OF_ELEMENT]
    # Each view was answered once, but for those that the two were on.
    again = sum(count - 1 for count in cluster.answered().values())
    assert cluster.answered().keys() == untouched.answered().keys() and again <= 2
    assert len(cluster.answered()) == 12 and not cluster.processes()
    expected = checksums(untouched.output)
    assert len(expected) > 100 and checksums(cluster.output) == expected


def test_a_cancelled_array_stays_cancelled_and_takes_the_rest_with_it(
    slurm_config: Path, tmp_path: Path
) -> None:
    cluster = Cluster(tmp_path / "cancelled", slurm_config)
    folder = cluster.submit("--array", "1")
    array, rest = cluster.job(folder), cluster.job(folder, "rest_job")
    wait_for(lambda: bool(cluster.runs_of(0)), 120, "the element")
    cluster.ask("scancel", array)
    wait_for(lambda: notes(folder, "element-0")[-1].startswith("ended "), 60, "the end")
    states = ["squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={array},{rest}"]
    wait_for(lambda: set(cluster.ask(*states).split()) == {"CANCELLED"}, 60, "both cancelled")
    assert "requeued" not in " ".join(notes(folder, "element-0")) and not notes(folder, "rest")
    page = cluster.status()
    rows = [line for line in page.splitlines() if line.startswith(("element 0 ", "RunAll "))]
    assert [re.findall("failed|cancelled", row) for row in rows] == [["failed", "cancelled"]] * 2
    assert f"logs: {folder}" in page and not cluster.processes()


@pytest.mark.parametrize("option", ["time=nonsense", "partition=nowhere"])
def test_what_slurm_refuses_is_told_in_its_words(
    slurm_config: Path, tmp_path: Path, option: str
) -> None:
    cluster = Cluster(tmp_path / "refused", slurm_config)
    key, _, value = option.partition("=")
    done = cluster.ours("submit", "--array", "1", f"--{key}", value)
    assert done.returncode == 1 and done.stdout.count("\n") == 1
    assert "sbatch refused" in done.stdout and WORDS[key] in done.stdout
    assert not list(cluster.output.rglob("submission.json"))

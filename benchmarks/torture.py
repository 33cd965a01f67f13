"""Kill a running pipeline repeatedly, and compare its output with that of an undisturbed run.

    python -m benchmarks.torture --kills 50 --seed 0

A run of very small rooms is started, a random process of it (parent, worker, trainer) is killed
with SIGKILL at a random moment, and the run is started again, until the number of kills is
reached. Whenever a run finishes, its output is compared and removed. At the end no process of a
run may live, no file may be half-written, every artifact must have the bytes of an undisturbed
run, and the teacher must have answered each view once, apart from views interrupted by kills.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

LUIGI = Path(sys.executable).parent / "luigi"
SCENE_SET = """
generated: true
splits: {train: nvs_sem_train, val: nvs_sem_val}
queries: {train: queries/train.json, val: queries/val.json}
config:
  generate: {train_rooms: 2, val_rooms: 1, views: 4, height: 64, width: 96, vertex_spacing: 0.2}
  teacher: {class: "counting_teacher:CountingTeacher"}
  student: {preset: nano, voxel_size: 0.2, epochs: 3, feature_dim: 16}
  report: {picture_width: 64, view_width: 32, points: 500}
"""
TEACHER = '''
"""A teacher that masks what is dark, and notes down every view it answers for."""

import os
import time
from pathlib import Path

import numpy as np

from models.teacher import MaskGrid, TeacherAnswer

class CountingTeacher:
    name = "counting"
    embedding_dim = 4

    def mask_grid(self, height, width):
        return MaskGrid(height // 4, width // 4, (width / 4, height / 4))

    def encode_view(self, image, view_id):
        time.sleep(float(os.environ["TORTURE_PAUSE"]))
        line = f"{image[::7, ::7].sum()} {view_id}\\n".encode()
        note = os.open(os.environ["TORTURE_NOTES"], os.O_APPEND | os.O_CREAT | os.O_WRONLY)
        os.write(note, line)
        os.close(note)
        return image[2::4, 2::4].mean(axis=2)

    def answer(self, gray, texts):
        return [self._answer(gray, text) for text in texts]

    def _answer(self, gray, text):
        level = 60 + 10 * (len(text) % 13)
        logits = np.clip((level - gray) / 8, -9, 9).astype(np.float32)[None]
        vector = np.array([[len(text) % 5, 1, len(text) % 3, 1]], np.float32)
        vector /= np.linalg.norm(vector)
        return TeacherAnswer("It is dark, [SEG].", logits, np.full(1, 0.8, np.float32), vector)
'''
# Logs and pages tell when and how long; metadata too, which the pipeline itself checks.
_TIMED = ("metadata.json", "metrics.jsonl", "state.pt", "report.html", "latest.json")


@dataclass
class Outcome:
    """The numbers of kills and runs, and a line for every failed check."""

    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    seconds: float = 0.0
    views: int = 0
    views_again: int = 0
    compared: int = 0
    files: int = 0
    wrong: list[str] = field(default_factory=list)


class Process(Protocol):
    """A running command, as ``subprocess.Popen`` gives it."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code."""

    def send_signal(self, number: int, /) -> None:
        """Send a signal."""


class Pipeline:
    """Runs in one folder, and the processes and files that they leave."""

    def __init__(self, folder: Path, pause: float = 0.0) -> None:
        """Prepare runs in ``folder``; the teacher waits ``pause`` seconds before each view."""
        self.folder, self.pause = folder, pause
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tiny.yaml").write_text(SCENE_SET)
        (folder / "counting_teacher.py").write_text(TEACHER)
        self.output, self.notes = folder / "output", folder / "notes"

    def start(self) -> Process:
        """Start one RunAll; its output goes to a log."""
        env = {**os.environ, **self.environment()}
        with open(self.folder / "log", "ab") as log:
            return subprocess.Popen(
                self.command(), cwd=self.folder, env=env, stdout=log, stderr=log
            )

    def command(self, *arguments: str) -> list[str]:
        """The command line of one RunAll."""
        line = [str(LUIGI), "--module", "pipeline", "RunAll", "--scene-set", "tiny.yaml"]
        return [*line, *arguments]

    def environment(self) -> dict[str, str]:
        """The environment of such a run."""
        path = os.pathsep.join([str(self.folder), os.environ.get("PYTHONPATH", "")])
        return {
            "MLLM3D_OUTPUT": str(self.output),
            "TORTURE_NOTES": str(self.notes),
            "TORTURE_PAUSE": str(self.pause),
            "PYTHONPATH": path.rstrip(os.pathsep),
        }

    def processes(self) -> list[int]:
        """Return every living process that was started in this folder."""
        return [pid for pid in living() if link_of(pid, "cwd") == str(self.folder.resolve())]

    def answered(self) -> Counter[str]:
        """Count how often the teacher started each view."""
        return Counter(self.notes.read_text().splitlines()) if self.notes.exists() else Counter()

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of every file without times, of all artifacts."""
        files = [path for path in sorted(self.output.rglob("*")) if path.is_file()]
        paths = [path for path in files if path.suffix != ".log" and path.name not in _TIMED]
        return {
            str(path.relative_to(self.output)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in paths
            if not path.name.startswith(".")
        }

    def litter(self) -> list[str]:
        """Return the files that only an interrupted write leaves."""
        kinds = ("*.tmp", "*.partial", ".*.tmp")
        return sorted({str(path) for kind in kinds for path in self.output.rglob(kind)})


def living() -> Iterator[int]:
    """Yield the processes that run, this one apart."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and entry.name != str(os.getpid()):
            try:
                state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue
            if state != "Z":
                yield int(entry.name)


def link_of(pid: int, name: str) -> str:
    """Return where a link in a process's folder leads; nowhere if the process has ended."""
    try:
        return os.readlink(f"/proc/{pid}/{name}")
    except OSError:
        return ""


def torture(
    folder: Path,
    kills: int,
    seed: int,
    longest: float = 8.0,
    kind: type[Pipeline] = Pipeline,
    untouched: Pipeline | None = None,
) -> Outcome:
    """Kill ``kills`` times, then let a run finish; the folder is removed after success.

    Args:
        folder: folder of all runs.
        kills: number of kills.
        seed: seed of moments and victims.
        longest: seconds from the start of a run to the latest kill.
        kind: how runs start.
        untouched: a finished run to compare with; made first if None.
    """
    rng, outcome, start = random.Random(seed), Outcome(), time.monotonic()
    if untouched is None:
        untouched = kind(folder / "untouched")
        _finish(untouched, outcome, "the untouched run")
    tortured = kind(folder / "tortured")
    outcome.views = len(untouched.answered())
    while sum(outcome.kills.values()) < kills and not outcome.wrong:
        run = tortured.start()
        outcome.runs += 1
        _kill_one(tortured, run, rng, longest, outcome)
        _expect_nothing_runs(tortured, outcome)
        if run.returncode == 0:
            _compare(untouched, tortured, outcome)
            shutil.rmtree(tortured.output)
            tortured.notes.unlink()
    _finish(tortured, outcome, "the last run")
    _compare(untouched, tortured, outcome)
    outcome.seconds = time.monotonic() - start
    if not outcome.wrong:
        shutil.rmtree(folder)
    return outcome


def _finish(pipeline: Pipeline, outcome: Outcome, what: str) -> None:
    run = pipeline.start()
    outcome.runs += 1
    if run.wait(timeout=600):
        outcome.wrong.append(f"{what} ended with {run.returncode}, see {pipeline.folder / 'log'}")
    _expect_nothing_runs(pipeline, outcome)


def _kill_one(
    pipeline: Pipeline,
    run: Process,
    rng: random.Random,
    longest: float,
    outcome: Outcome,
) -> None:
    """Wait for a random time and kill a random process; the death of a worker ends the run, too."""
    end = time.monotonic() + rng.uniform(0.3, longest)
    while time.monotonic() < end and run.poll() is None:
        time.sleep(0.02)
    if run.poll() is None:
        victims = pipeline.processes()
        victim = rng.choice(victims) if victims else run.pid
        try:
            os.kill(victim, signal.SIGKILL)
            outcome.kills["parent" if victim == run.pid else "worker"] += 1
        except ProcessLookupError:
            pass
    run.wait(timeout=600)


def _expect_nothing_runs(pipeline: Pipeline, outcome: Outcome) -> None:
    end = time.monotonic() + 5
    while pipeline.processes() and time.monotonic() < end:
        time.sleep(0.02)
    left = pipeline.processes()
    if left:
        outcome.wrong.append(f"processes outlived their run: {left}")


def _compare(untouched: Pipeline, tortured: Pipeline, outcome: Outcome) -> None:
    expected, found = untouched.digests(), tortured.digests()
    outcome.files = len(expected)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            kind = "missing" if name not in found else "extra" if name not in expected else "other"
            outcome.wrong.append(f"{kind}: {name}")
    outcome.wrong += [f"litter: {name}" for name in tortured.litter()]
    outcome.compared += 1
    outcome.views_again += sum(count - 1 for count in tortured.answered().values())
    # Of the two views that two workers are on, a kill may hit both.
    if outcome.views_again > 2 * sum(outcome.kills.values()):
        outcome.wrong.append(f"{outcome.views_again} views were answered again")


def main() -> int:
    """Run the benchmark with the options given; return 1 when a check failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="torture_")) / "runs"
    outcome = torture(folder, options.kills, options.seed)
    told = ", ".join(f"{count} of a {kind}" for kind, count in sorted(outcome.kills.items()))
    kills, again = sum(outcome.kills.values()), outcome.views_again
    print(f"{kills} kills ({told}), {outcome.runs} runs, {outcome.seconds:.0f} s")
    print(f"{outcome.compared} finished outputs compared, {outcome.files} files each")
    print(f"{outcome.views} views an output, {again} in all answered again after a kill")
    print("\n".join(outcome.wrong) or "all as in an untouched run")
    return int(bool(outcome.wrong))


if __name__ == "__main__":
    raise SystemExit(main())

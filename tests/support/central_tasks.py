"""Tasks for ``test_central``, which record every run."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import time
from pathlib import Path

import luigi

from data.errors import ConfigError
from pipeline.tasks.base import ReadableTask


class Noted(ReadableTask):
    """A task that writes ``<name>.done``; each run adds its worker's id to ``<name>.runs``."""

    folder = luigi.Parameter()
    name = luigi.Parameter()

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(Path(self.folder) / f"{self.name}.done"))

    def note(self) -> None:
        worker = os.getppid() if multiprocessing.parent_process() else os.getpid()
        with open(Path(self.folder) / f"{self.name}.runs", "a") as runs:
            runs.write(f"{worker}\n")

    def finish(self) -> None:
        Path(self.output().path).write_text("done")


class InOneNativeCall(Noted):
    """A task in one long native call, during which no other thread of the process runs."""

    seconds = luigi.IntParameter()

    def run(self) -> None:
        self.note()
        ctypes.PyDLL(None).sleep(self.seconds)
        self.finish()


class Mistaken(Noted):
    """A task that fails with a user error until the cause is removed."""

    def run(self) -> None:
        self.note()
        if not (Path(self.folder) / "mended").exists():
            raise ConfigError("the mistake of a user")
        self.finish()


class NeedsMistaken(Noted):
    """A task that depends on a failing task."""

    def requires(self) -> luigi.Task:
        return Mistaken(folder=self.folder, name="mistaken")

    def run(self) -> None:
        self.note()
        self.finish()


class Link(Noted):
    """A link of a chain of tasks, each of which takes a second."""

    number = luigi.IntParameter()
    name = luigi.Parameter(default="")

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(Path(self.folder) / f"link{self.number}.done"))

    def requires(self) -> list[luigi.Task]:
        return [Link(folder=self.folder, number=self.number - 1)] if self.number else []

    def run(self) -> None:
        with open(Path(self.folder) / "links", "a") as runs:
            runs.write(f"{self.number}\n")
        time.sleep(1)
        self.finish()

"""Tasks of a user who makes mistakes, for ``test_luigi_traps``."""

from __future__ import annotations

import os
import time
from pathlib import Path

import luigi

from pipeline.tasks.steps import PipelineTask


class WritesNothing(luigi.Task):
    """A task that declares an output and never writes it."""

    folder = luigi.Parameter()

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(Path(self.folder) / "never"))

    def run(self) -> None:
        pass


class RaisesInRequires(luigi.Task):
    """A task that fails before it can be scheduled."""

    folder = luigi.Parameter()

    def requires(self) -> luigi.Task:
        raise RuntimeError("no such thing")


class MissingInput(luigi.ExternalTask):
    """External data that is missing."""

    folder = luigi.Parameter()

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(Path(self.folder) / "missing"))


class NeedsMissingInput(luigi.Task):
    """A task whose input never exists."""

    folder = luigi.Parameter()

    def requires(self) -> luigi.Task:
        return MissingInput(folder=self.folder)


class Sleeper(PipelineTask):
    """A task that would outlive its run: it writes its process id, then sleeps."""

    folder = luigi.Parameter()
    number = luigi.IntParameter()

    def complete(self) -> bool:
        return False

    def run(self) -> None:
        super().run()
        (Path(self.folder) / f"pid{self.number}").write_text(str(os.getpid()))
        time.sleep(120)


class TwoSleepers(luigi.WrapperTask):
    """Two sleepers at once."""

    folder = luigi.Parameter()

    def requires(self) -> list[luigi.Task]:
        return [Sleeper(folder=self.folder, number=number) for number in range(2)]

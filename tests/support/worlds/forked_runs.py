"""Runs of ``benchmarks.torture`` and ``benchmarks.two_hosts``, forked by ``tests.support.warm``.

A run that is forked is killed at its work, not in the seconds of its imports.
"""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.torture import Pipeline
from benchmarks.two_hosts import SharedRun
from tests.support.cli import ONE_PROCESS
from tests.support.warm import Forked, forker


def run_untouched(folder: Path) -> None:
    """Run the pipeline to its end in ``folder``, in one process with one thread."""
    pipeline = Pipeline(folder)
    env = {**os.environ, **pipeline.environment(), **ONE_PROCESS}
    done = forker().run(pipeline.command(), folder, env)
    assert done.returncode == 0, done.stdout


class ForkedPipeline(Pipeline):
    """Runs in one folder that are forked."""

    def start(self) -> Forked:
        """Fork one RunAll; its output goes to a log."""
        with open(self.folder / "log", "ab") as log:
            env = {**os.environ, **self.environment()}
            return forker().start(self.command(), self.folder, env, log.fileno())


class ForkedSharedRun(SharedRun):
    """Workers of two hosts that are forked; luigid is a process of its own."""

    def start_worker(self, host: str, workers: int = 1) -> Forked:
        """Fork a RunAll, which enters the host's namespaces."""
        pipeline = self.pipeline
        with open(pipeline.folder / f"{host}.log", "ab") as log:
            run = forker().start(
                self.worker_command(workers),
                pipeline.folder,
                {**os.environ, **pipeline.environment()},
                log.fileno(),
                host=(self.network.name(host), host),
            )
        self.started.append(run)
        return run

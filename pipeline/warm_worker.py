"""Luigi's worker, with what a task's stage imports imported before the task is forked.

Luigi runs each task in a process of its own. Without this every one of them imports torch,
transformers or Open3D anew, seconds for a task that may work for one. It also stops when it is
told to, by Ctrl-C or SIGTERM, with a line instead of tracebacks.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import luigi
from luigi import worker

from pipeline import process

_LOG = logging.getLogger("luigi-interface.worker")
INTERRUPTED = 130
"""Exit code of a run that was told to stop, as shells have it."""


class WarmWorker(worker.Worker):
    """A worker whose tasks find in memory what their stage imports.

    The first task of a stage waits for the imports, as it would in its own process; later ones
    start at once. A run that has nothing to do imports nothing.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._warm: set[tuple[str, str, str]] = set()

    def _create_task_process(self, task: luigi.Task) -> Any:
        settings = (getattr(task, "config", ""), getattr(task, "overrides", ""))
        kind = (task.task_family, *settings)
        preload = getattr(task, "preload", None)
        if preload is not None and kind not in self._warm:
            self._warm.add(kind)
            process.prepare_imports(self.worker_processes)
            preload()
        return super()._create_task_process(task)

    def run(self) -> bool:
        """Run all tasks; SystemExit with ``INTERRUPTED`` when told to stop.

        Tasks that are being worked on are killed, which costs what a kill costs at any other
        moment: a teacher's view, a student's epoch, or one artifact.
        """
        try:
            with _stopped_by(signal.SIGTERM):
                return bool(super().run())
        except KeyboardInterrupt:
            for running in self._running_tasks.values():
                if hasattr(running, "kill"):
                    running.kill()
            _LOG.warning("Stopped. What is finished stays: the same command goes on from here.")
            raise SystemExit(INTERRUPTED) from None


@contextmanager
def _stopped_by(number: signal.Signals) -> Iterator[None]:
    """Have a signal do what Ctrl-C does, where this is the main thread, which alone may say so."""

    def stop(*_: Any) -> NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, stop)
    try:
        yield
    finally:
        signal.signal(number, before)

"""Luigi's worker, with what a task's stage imports imported before the task is forked.

Luigi runs each task in a process of its own. Without this every one of them imports torch,
transformers or Open3D anew, seconds for a task that may work for one. It also shows how far the
run is, tells at the end what it did, and stops when it is told to, by Ctrl-C or SIGTERM, with a
line instead of tracebacks.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import luigi
from luigi import worker

from pipeline import process, progress
from pipeline.run_display import RunDisplay
from pipeline.run_summary import summary
from pipeline.tally import Tally

_LOG = logging.getLogger("luigi-interface.worker")
INTERRUPTED = 130
"""Exit code of a run that was told to stop, as shells have it."""
_PATIENCE = 2.0
"""Seconds after which a run that was told to stop ends, whatever it is doing."""


_Kind = tuple[str, str, str]


def _kind(task: luigi.Task) -> _Kind:
    """What tasks have alike that import the same."""
    return task.task_family, getattr(task, "config", ""), getattr(task, "overrides", "")


class WarmWorker(worker.Worker):
    """A worker whose tasks find in memory what their stage imports.

    It imports for stages to come while tasks run, and for what they do not leave time for when
    a stage's first task begins. A run that has nothing to do imports nothing.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._warm: set[_Kind] = set()
        self._cold: dict[_Kind, luigi.Task] = {}
        self._told_to_stop = threading.Event()
        self._tally = Tally(self.worker_processes)
        self._display = RunDisplay(self._tally)

    def add(self, task: luigi.Task, *args: Any, **kwargs: Any) -> bool:
        """Schedule a task that was asked for, and all it needs.

        Raises UserError before any work for what one of them would fail for.
        """
        if task not in self._tally.roots:
            self._tally.roots.append(task)
        is_added = bool(super().add(task, *args, **kwargs))
        # Tasks that are done already need nothing; those of one kind need the same.
        for cold in self._cold.values():
            check_ready = getattr(cold, "check_ready", None)
            if check_ready is not None:
                check_ready()
        return is_added

    def _add_task(self, *args: Any, **kwargs: Any) -> None:
        super()._add_task(*args, **kwargs)
        task = self._scheduled_tasks.get(kwargs["task_id"])
        if task is not None:
            work = self._tally.note(task, kwargs["status"], kwargs.get("expl") or "")
            if work is not None and work.fate == "pending" and _kind(task) not in self._warm:
                self._cold[_kind(task)] = task
            if work is not None and work.fate in ("done", "failed"):
                self._display.finished(work)

    def _create_task_process(self, task: luigi.Task) -> Any:
        self._import_for(task)
        made = super()._create_task_process(task)
        work = self._tally.start(task)
        # A task that runs in this very process shows its progress itself.
        progress.tell(work.slot if work is not None and made.use_multiprocessing else None)
        return made

    def _import_for(self, task: luigi.Task) -> None:
        kind = _kind(task)
        self._cold.pop(kind, None)
        preload = getattr(task, "preload", None)
        if preload is not None and kind not in self._warm:
            self._warm.add(kind)
            process.prepare_imports(self.worker_processes)
            preload()

    def _handle_next_task(self) -> None:
        if self._told_to_stop.is_set():  # When an exception was swallowed.
            raise KeyboardInterrupt
        # Other hosts may have done the rest before this one comes to it.
        if self._running_tasks and self._cold and not process.is_central():
            # A task is told of before those it needs: the last are the first to run.
            self._import_for(self._cold.popitem()[1])
        super()._handle_next_task()

    def _purge_children(self) -> None:
        super()._purge_children()
        self._display.show()

    def run(self) -> bool:
        """Run all tasks; SystemExit with ``INTERRUPTED`` when told to stop.

        Tasks that are being worked on are killed, which costs what a kill costs at any other
        moment: some views of a teacher, epochs of a student, or one artifact.
        """
        try:
            with _stopped_by_signals(self._told_to_stop):
                self._display.begin()
                succeeded = bool(super().run())
        except BaseException as error:
            # A library that was being imported may have made another exception of the signal's.
            if not (self._told_to_stop.is_set() or isinstance(error, KeyboardInterrupt)):
                raise
            for running in self._running_tasks.values():
                if hasattr(running, "kill"):
                    running.kill()
            raise SystemExit(INTERRUPTED) from None
        finally:
            self._display.end()
        self._settle()
        _LOG.info("%s", summary(self._tally))
        return succeeded

    def _settle(self) -> None:
        """Take in, before the summary, what this worker did not see itself."""


@contextmanager
def _stopped_by_signals(told: threading.Event) -> Iterator[None]:
    """Have Ctrl-C and SIGTERM set ``told`` and raise KeyboardInterrupt, after saying so.

    An exception may come at a moment that swallows it, such as a fork or a library's import, or
    be held up by a task that is waited for. So the process ends after ``_PATIENCE`` whatever
    happens, and with it, killed by the kernel, its tasks. Only a main thread may take signals.
    """

    def stop(*_: Any) -> NoReturn:
        _LOG.warning("Stopped. What is finished stays: the same command goes on from here.")
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        last = threading.Timer(_PATIENCE, os._exit, (INTERRUPTED,))
        last.daemon = True
        last.start()
        told.set()
        raise KeyboardInterrupt

    def swallowed(exception: Any) -> None:
        if exception.exc_type is not KeyboardInterrupt:
            print_swallowed(exception)

    before: dict[signal.Signals, Any] = {}
    print_swallowed, sys.unraisablehook = sys.unraisablehook, swallowed
    if threading.current_thread() is threading.main_thread():
        before = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        sys.unraisablehook = print_swallowed
    for number, handler in before.items():
        signal.signal(number, handler)

"""Luigi's worker as this project runs it.

It sets Luigi's defaults, makes Luigi's log readable, imports libraries before tasks are forked
(``WarmWorker``), stops at Ctrl-C and SIGTERM, and shares a run between hosts (``SharedWorker``).
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import luigi
from luigi import configuration, rpc, worker
from luigi.task_status import DISABLED, DONE, FAILED, RUNNING
from luigi.worker import GetWorkResponse

from data.errors import UserError
from pipeline.process import process, progress, slots
from pipeline.workers.run_progress import RunDisplay, RunProgress, summary
from pipeline.workers.scheduler import RetryingScheduler

DEFAULTS: dict[str, dict[str, str]] = {
    "core": {
        "local_scheduler": "true",
        "no_lock": "true",
        "log_level": "INFO",
        "workers": str(min(4, process.num_cores())),
    },
    "worker": {
        "force_multiprocessing": "true",
        "check_complete_on_run": "true",
    },
    # For the scheduler inside the process; luigid reads configs/luigid.cfg instead. A failed task
    # is not tried again in the same run, because a user's mistake would fail again.
    "scheduler": {"retry_count": "1"},
    "retcode": {
        "unhandled_exception": "40",
        "scheduling_error": "35",
        "task_failed": "30",
        "not_run": "25",
        "missing_data": "20",
        "already_running": "10",
    },
}

CENTRAL_DEFAULTS: dict[str, dict[str, str]] = {
    # Workers stay to take over the tasks of a lost worker, and ask for work every 1 to 3 s. On
    # one machine keep_alive would make a run with missing data wait for ever.
    "worker": {"keep_alive": "true", "wait_jitter": "2"},
}
"""Further defaults for workers of a central scheduler."""


def set_defaults() -> None:
    """Put the defaults into Luigi's configuration wherever it holds no value yet."""
    config = configuration.get_config()
    if _names_scheduler(config):
        _set_missing({"core": {"local_scheduler": "false"}})
    _set_missing(DEFAULTS)
    # Luigi counts an undeclared resource as one unit.
    _set_missing({"resources": {slots.gpu_resource(): str(len(slots.visible_gpus()))}})
    if not config.getboolean("core", "local_scheduler"):
        _set_missing(CENTRAL_DEFAULTS)


def _set_missing(defaults: dict[str, dict[str, str]]) -> None:
    config = configuration.get_config()
    for section, options in defaults.items():
        for option, value in options.items():
            if not config.has_option(section, option):
                config.set(section, option, value)


def _names_scheduler(config: configuration.LuigiConfigParser) -> bool:
    """Whether the command line or a configuration file names a central scheduler."""
    names = ("scheduler_host", "scheduler_port", "scheduler_url")
    given = {argument.split("=", 1)[0] for argument in sys.argv[1:]}
    if any(f"--{name.replace('_', '-')}" in given for name in names):
        return True
    options = (*names, *(f"default_{name}" for name in names))
    return any(config.has_option("core", option) for option in options)


class ReadableLog(logging.Filter):
    """Filter that keeps warnings and errors of Luigi's log.

    A UserError becomes one message without a traceback, once. Messages below WARNING are dropped,
    Luigi's summary with them: ``pipeline.workers.run_progress`` writes a fuller one.
    """

    def __init__(self) -> None:
        super().__init__()
        self._reported: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite ``record`` in place; False drops it."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, UserError):
            if error is self._reported:
                return False
            self._reported = error
            task = str(record.args[-1]) if isinstance(record.args, tuple) and record.args else ""
            record.msg, record.args = f"{task}\n  {error}".strip(), ()
            record.exc_info = record.exc_text = None
        if record.levelno > logging.INFO:
            # RetryingScheduler logs once that luigid is away; Luigi would log it every second.
            return record.getMessage() != "Failed pinging scheduler"
        return False


def install() -> None:
    """Set the defaults, the worker class and the log filter; ``import pipeline`` calls it."""
    set_defaults()
    setattr(worker, "Worker", SharedWorker)  # noqa: B010  (mypy sees a change of type)
    setattr(rpc, "RemoteScheduler", RetryingScheduler)  # noqa: B010
    logger = logging.getLogger("luigi-interface")
    if not any(isinstance(item, ReadableLog) for item in logger.filters):
        logger.addFilter(ReadableLog())


_LOG = logging.getLogger("luigi-interface.worker")
INTERRUPTED = 130
"""Exit code of a run stopped by a signal, the shells' code for Ctrl-C."""
_STOP_SECONDS = 2.0
"""Seconds after a stop signal at which the process ends, even inside a library."""


_Kind = tuple[str, str, str]


def _kind(task: luigi.Task) -> _Kind:
    """Key of tasks that import the same modules: class, config and overrides."""
    return task.task_family, getattr(task, "config", ""), getattr(task, "overrides", "")


class WarmWorker(worker.Worker):
    """A worker that imports what a step needs before it forks the step's tasks.

    It imports for later steps while tasks run, and for the rest when a step's first task begins.
    A run without tasks to run imports nothing.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._warm: set[_Kind] = set()
        self._cold: dict[_Kind, luigi.Task] = {}
        self._stop_requested = threading.Event()
        self._run_progress = RunProgress(self.worker_processes)
        self._display = RunDisplay(self._run_progress)

    def add(self, task: luigi.Task, *args: Any, **kwargs: Any) -> bool:
        """Schedule a task of the command line and the tasks it requires.

        Raises UserError, before any task runs, for what would make one of them fail.
        """
        if task not in self._run_progress.roots:
            self._run_progress.roots.append(task)
        is_added = bool(super().add(task, *args, **kwargs))
        # Finished tasks need no check; one check serves all tasks of a kind.
        for cold in self._cold.values():
            check_ready = getattr(cold, "check_ready", None)
            if check_ready is not None:
                check_ready()
        return is_added

    def _add_task(self, *args: Any, **kwargs: Any) -> None:
        super()._add_task(*args, **kwargs)
        task = self._scheduled_tasks.get(kwargs["task_id"])
        if task is not None:
            work = self._run_progress.record(task, kwargs["status"], kwargs.get("expl") or "")
            if work is not None and work.status == "pending" and _kind(task) not in self._warm:
                self._cold[_kind(task)] = task
            if work is not None and work.status in ("done", "failed"):
                self._display.finished(work)

    def _create_task_process(self, task: luigi.Task) -> Any:
        self._import_for(task)
        made = super()._create_task_process(task)
        work = self._run_progress.start(task)
        # A task that runs inside this process shows its progress itself.
        progress.report_to(work.slot if work is not None and made.use_multiprocessing else None)
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
        if self._stop_requested.is_set():  # The handler's exception was swallowed.
            raise KeyboardInterrupt
        # With a central scheduler other hosts may finish the rest first.
        if self._running_tasks and self._cold and not process.is_central():
            # Luigi adds a task before those it requires, so the last added run first.
            self._import_for(self._cold.popitem()[1])
        super()._handle_next_task()

    def _purge_children(self) -> None:
        super()._purge_children()
        self._display.show()

    def run(self) -> bool:
        """Run all tasks; SystemExit with ``INTERRUPTED`` after a stop signal.

        Running tasks are killed. A teacher keeps its finished views and a training its last
        checkpoint; any other unfinished artifact is made anew.
        """
        try:
            with _stopped_by_signals(self._stop_requested):
                self._display.begin()
                succeeded = bool(super().run())
        except BaseException as error:
            # A library may have turned the handler's KeyboardInterrupt into another exception.
            if not (self._stop_requested.is_set() or isinstance(error, KeyboardInterrupt)):
                raise
            for running in self._running_tasks.values():
                if hasattr(running, "kill"):
                    running.kill()
            raise SystemExit(INTERRUPTED) from None
        finally:
            self._display.end()
        self._settle()
        _LOG.info("%s", summary(self._run_progress))
        return succeeded

    def _settle(self) -> None:
        """Add to the counts what happened outside this worker, before the summary."""


@contextmanager
def _stopped_by_signals(stop_requested: threading.Event) -> Iterator[None]:
    """Make Ctrl-C and SIGTERM set ``stop_requested`` and raise KeyboardInterrupt in the body.

    A fork or a library's import may swallow the exception, and a running call may delay it. So
    the process ends after ``_STOP_SECONDS`` in any case; its tasks die by their parent-death
    signal. Only the main thread may set signal handlers; other threads change nothing.
    """

    def stop(*_: Any) -> NoReturn:
        _LOG.warning("Stopped. Finished artifacts are kept; the same command continues from here.")
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        timer = threading.Timer(_STOP_SECONDS, os._exit, (INTERRUPTED,))
        timer.daemon = True
        timer.start()
        stop_requested.set()
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


class SharedWorker(WarmWorker):
    """A worker that may share a run with workers of other hosts."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._failed: set[str] = set()
        self._central = self._scheduler if isinstance(self._scheduler, RetryingScheduler) else None

    def _add_task(self, *args: Any, **kwargs: Any) -> None:
        """Tell the scheduler a task's status; report a failure as one that nobody tries again.

        luigid counts failed tasks and tasks of lost workers alike. It would retry a user's mistake
        ``retry_count`` times, and then refuse it for ``disable_persist`` seconds, even when it was
        corrected. The worker's own DISABLED holds until a command asks for the task.
        """
        task_id = kwargs["task_id"]
        task = self._scheduled_tasks.get(task_id)
        has_failed = self._central is not None and kwargs["status"] == FAILED
        if has_failed and task is not None and task.complete():
            # This worker seemed lost, and another host has finished its task.
            kwargs["status"], has_failed = DONE, False
        super()._add_task(*args, **kwargs)
        if has_failed:
            self._failed.add(task_id)
            self._disable(task_id, kwargs.get("expl"))
        else:
            self._failed.discard(task_id)

    def _disable(self, task_id: str, reason: str | None) -> None:
        self._scheduler.add_task(
            worker=self._id, task_id=task_id, status=DISABLED, runnable=False, expl=reason
        )

    def _get_work(self) -> GetWorkResponse:
        work: GetWorkResponse = super()._get_work()
        central = self._central
        if central is None or not (central.was_away() or self._seems_forgotten(work)):
            return work
        self._announce_again()
        if work.task_id is None:
            work = super()._get_work()
        return work

    def _seems_forgotten(self, work: GetWorkResponse) -> bool:
        """Whether luigid has no task left for this worker, though its goal is not reached."""
        is_idle = work.task_id is None and not work.n_pending_tasks and not work.running_tasks
        if not is_idle or self._running_tasks or self._first_task not in self._scheduled_tasks:
            return False
        goal = self._scheduled_tasks[self._first_task]
        return not (goal.complete() or self._failed or self._failed_elsewhere())

    def _announce_again(self) -> None:
        """Tell the scheduler again this worker's goal, its running tasks and its failed tasks."""
        self._scheduler.add_worker(self._id, self._worker_info)
        failed = set(self._failed)
        for task_id in self._running_tasks:
            # First, so that no other host starts it; a finished task stays finished.
            if not self._scheduled_tasks[task_id].complete():
                self._scheduler.add_task(worker=self._id, task_id=task_id, status=RUNNING)
        self.add(self._scheduled_tasks[self._first_task])
        for task_id in failed:
            self._failed.add(task_id)
            self._disable(task_id, None)

    def _keep_alive(self, get_work_response: GetWorkResponse) -> bool:
        """Stay while another host runs the last task, to take it over should that host be lost."""
        is_awaited = bool(self._central and self._config.keep_alive)
        is_awaited = is_awaited and bool(get_work_response.running_tasks)
        return is_awaited or bool(super()._keep_alive(get_work_response))

    def _settle(self) -> None:
        if self._central is not None:
            self._count_what_others_did()

    def _count_what_others_did(self) -> None:
        """Count tasks finished by other workers as done in the summary and the exit code.

        Luigi's summary would list such tasks as being run by another worker.
        """
        done = {task.task_id for task, status, _ in self._add_task_history if status == DONE}
        unfinished = [
            task for task_id, task in self._scheduled_tasks.items() if task_id not in done
        ]
        done_elsewhere = [task for task in unfinished if task.complete()]
        self._add_task_history += [(task, DONE, False) for task in done_elsewhere]
        done |= {task.task_id for task in done_elsewhere}
        for answer in self._get_work_response_history:
            running = answer["running_tasks"]
            answer["running_tasks"] = [
                task_info for task_info in running if task_info["task_id"] not in done
            ]
        for task in done_elsewhere:
            self._run_progress.record(task, DONE)
        if done_elsewhere:
            _LOG.info("%d tasks were done by other workers.", len(done_elsewhere))
        for task_id, reason in self._failed_elsewhere().items():
            _LOG.error("%s failed in another worker:\n  %s", task_id, reason)
            self._add_task_history.append((self._scheduled_tasks[task_id], FAILED, False))
            self._run_progress.record(self._scheduled_tasks[task_id], FAILED, reason)

    def _failed_elsewhere(self) -> dict[str, str]:
        """Errors of tasks that failed in other workers, by task id."""
        disabled = self._scheduler.task_list(status=DISABLED, upstream_status="", limit=False)
        failed = [
            task_id
            for task_id in disabled
            if task_id in self._scheduled_tasks and task_id not in self._failed
        ]
        return {
            task_id: _error_text(self._scheduler.fetch_error(task_id)["error"])
            for task_id in failed
        }


def _error_text(error: str | None) -> str:
    """A user's error message in full; the last line of a traceback."""
    try:
        text = str(json.loads(error or '""'))
    except ValueError:
        text = str(error)
    lines = text.strip().splitlines() or ["the worker gave no reason"]
    return lines[-1] if "Traceback (most recent call last):" in lines else "\n  ".join(lines)

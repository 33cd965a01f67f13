"""Luigi's worker and defaults: warm task processes, safe defaults, several hosts."""

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
from pipeline.process import gpus, process, progress
from pipeline.workers.run_display import RunDisplay, Tally, summary
from pipeline.workers.scheduler import PatientScheduler

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
    # Of the scheduler inside the process; luigid reads configs/luigid.cfg instead. A
    # failed task is not tried again in the same run: a user's mistake would only be told twice.
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
    # Workers wait for tasks that a lost worker held, and ask every 1 to 3 s whether there is one.
    # On one machine keep_alive would make a run with missing data wait for ever.
    "worker": {"keep_alive": "true", "wait_jitter": "2"},
}
"""Of workers of a central scheduler, in addition."""


def set_defaults() -> None:
    """Put the defaults into Luigi's configuration wherever it holds no value yet."""
    config = configuration.get_config()
    if _names_scheduler(config):
        _set_missing({"core": {"local_scheduler": "false"}})
    _set_missing(DEFAULTS)
    # Luigi takes a resource that nobody declared for one of which there is one.
    _set_missing({"resources": {gpus.resource_name(): str(len(gpus.visible()))}})
    if not config.getboolean("core", "local_scheduler"):
        _set_missing(CENTRAL_DEFAULTS)


def _set_missing(defaults: dict[str, dict[str, str]]) -> None:
    config = configuration.get_config()
    for section, options in defaults.items():
        for option, value in options.items():
            if not config.has_option(section, option):
                config.set(section, option, value)


def _names_scheduler(config: configuration.LuigiConfigParser) -> bool:
    """Whether the command line or a configuration file says where a scheduler is."""
    names = ("scheduler_host", "scheduler_port", "scheduler_url")
    given = {argument.split("=", 1)[0] for argument in sys.argv[1:]}
    if any(f"--{name.replace('_', '-')}" in given for name in names):
        return True
    options = (*names, *(f"default_{name}" for name in names))
    return any(config.has_option("core", option) for option in options)


class ReadableLog(logging.Filter):
    """Keeps what a person wants to know of Luigi's log.

    Errors that are the user's to mend become one message without a traceback; chatter goes, and
    with it Luigi's summary: ``pipeline.run_display`` and ``pipeline.run_summary`` tell more.
    """

    def __init__(self) -> None:
        super().__init__()
        self._told: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite ``record`` in place; False drops it."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, UserError):
            if error is self._told:
                return False
            self._told = error
            task = str(record.args[-1]) if isinstance(record.args, tuple) and record.args else ""
            record.msg, record.args = f"{task}\n  {error}".strip(), ()
            record.exc_info = record.exc_text = None
        if record.levelno > logging.INFO:
            # The patient scheduler says once that it is away, this would every second.
            return record.getMessage() != "Failed pinging scheduler"
        return False


def install() -> None:
    """Set the defaults, the worker and the log filter; called when ``pipeline`` is imported."""
    set_defaults()
    setattr(worker, "Worker", SharedWorker)  # noqa: B010  (mypy takes it for a change of type)
    setattr(rpc, "RemoteScheduler", PatientScheduler)  # noqa: B010
    logger = logging.getLogger("luigi-interface")
    if not any(isinstance(item, ReadableLog) for item in logger.filters):
        logger.addFilter(ReadableLog())


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


class SharedWorker(WarmWorker):
    """A worker that may be one of several."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._failed: set[str] = set()
        self._central = self._scheduler if isinstance(self._scheduler, PatientScheduler) else None

    def _add_task(self, *args: Any, **kwargs: Any) -> None:
        """Tell the scheduler a task's state; a failure is told as one that nobody tries again.

        luigid counts a task that failed and one whose worker was lost alike, and would try a
        user's mistake ``retry_count`` times, then refuse it for ``disable_persist`` seconds even
        when it was mended. A worker's own DISABLED holds until a command asks for the task.
        """
        task_id = kwargs["task_id"]
        task = self._scheduled_tasks.get(task_id)
        has_failed = self._central is not None and kwargs["status"] == FAILED
        if has_failed and task is not None and task.complete():
            # Another host was given it when this one seemed dead, and was faster.
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
        """Whether the scheduler knows of nothing to wait for, though the goal is not reached."""
        is_idle = work.task_id is None and not work.n_pending_tasks and not work.running_tasks
        if not is_idle or self._running_tasks or self._first_task not in self._scheduled_tasks:
            return False
        goal = self._scheduled_tasks[self._first_task]
        return not (goal.complete() or self._failed or self._failed_elsewhere())

    def _announce_again(self) -> None:
        """Have the scheduler know again what this worker wants, does, and saw failing."""
        self._scheduler.add_worker(self._id, self._worker_info)
        failed = set(self._failed)
        for task_id in self._running_tasks:
            # First, lest another host be given it; one that another finished stays finished.
            if not self._scheduled_tasks[task_id].complete():
                self._scheduler.add_task(worker=self._id, task_id=task_id, status=RUNNING)
        self.add(self._scheduled_tasks[self._first_task])
        for task_id in failed:
            self._failed.add(task_id)
            self._disable(task_id, None)

    def _keep_alive(self, get_work_response: GetWorkResponse) -> bool:
        """Stay also while another host is at the last task: it may be lost with it."""
        is_awaited = bool(self._central and self._config.keep_alive)
        is_awaited = is_awaited and bool(get_work_response.running_tasks)
        return is_awaited or bool(super()._keep_alive(get_work_response))

    def _settle(self) -> None:
        if self._central is not None:
            self._count_what_others_did()

    def _count_what_others_did(self) -> None:
        """Have summary and exit code tell of the work, whoever did it.

        Luigi says of tasks that other workers did that they "were being run by another worker".
        """
        done = {task.task_id for task, status, _ in self._add_task_history if status == DONE}
        left = [task for task_id, task in self._scheduled_tasks.items() if task_id not in done]
        others = [task for task in left if task.complete()]
        self._add_task_history += [(task, DONE, False) for task in others]
        done |= {task.task_id for task in others}
        for answer in self._get_work_response_history:
            running = answer["running_tasks"]
            answer["running_tasks"] = [one for one in running if one["task_id"] not in done]
        for task in others:
            self._tally.note(task, DONE)
        if others:
            _LOG.info("%d tasks were done by other workers.", len(others))
        for task_id, reason in self._failed_elsewhere().items():
            _LOG.error("%s failed in another worker:\n  %s", task_id, reason)
            self._add_task_history.append((self._scheduled_tasks[task_id], FAILED, False))
            self._tally.note(self._scheduled_tasks[task_id], FAILED, reason)

    def _failed_elsewhere(self) -> dict[str, str]:
        """Why tasks that this worker waited for failed in others, by task."""
        listed = self._scheduler.task_list(status=DISABLED, upstream_status="", limit=False)
        known = [one for one in listed if one in self._scheduled_tasks and one not in self._failed]
        return {one: _last_words(self._scheduler.fetch_error(one)["error"]) for one in known}


def _last_words(told: str | None) -> str:
    """A user's mistake as it was told; of a traceback the last line."""
    try:
        text = str(json.loads(told or '""'))
    except ValueError:
        text = str(told)
    lines = text.strip().splitlines() or ["no reason was given"]
    return lines[-1] if "Traceback (most recent call last):" in lines else "\n  ".join(lines)

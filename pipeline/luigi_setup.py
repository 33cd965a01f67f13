"""Luigi's defaults made safe, and its log made readable.

Luigi's own defaults wait for a scheduler daemon, exit 0 when tasks fail and print tracebacks
for a user's typing mistake. Defaults are set only where neither a ``luigi.cfg`` nor the
command line says otherwise. A command that names a scheduler uses it.
"""

from __future__ import annotations

import logging
import sys

from luigi import configuration, rpc, worker

from data.errors import UserError
from pipeline import gpus, process
from pipeline.patient_scheduler import PatientScheduler
from pipeline.shared_worker import SharedWorker

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

"""Luigi's defaults made safe, and its log made readable.

Luigi's own defaults wait for a scheduler daemon, exit 0 when tasks fail and print tracebacks
for a user's typing mistake. Defaults are set only where neither a ``luigi.cfg`` nor the
command line says otherwise.
"""

from __future__ import annotations

import logging

from luigi import configuration, worker

from data.errors import UserError
from pipeline import gpus, process
from pipeline.warm_worker import WarmWorker

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


def set_defaults() -> None:
    """Put the defaults into Luigi's configuration wherever it holds no value yet."""
    config = configuration.get_config()
    for section, options in DEFAULTS.items():
        for option, value in options.items():
            if not config.has_option(section, option):
                config.set(section, option, value)
    # Luigi takes a resource that nobody declared for one of which there is one.
    if not config.has_option("resources", gpus.resource_name()):
        config.set("resources", gpus.resource_name(), str(len(gpus.visible())))
    if not config.getboolean("core", "local_scheduler"):
        # Workers of a central scheduler wait for tasks that a lost worker held. On one machine
        # the same option would make a run with missing data wait for ever.
        if not config.has_option("worker", "keep_alive"):
            config.set("worker", "keep_alive", "true")


class ReadableLog(logging.Filter):
    """Keeps what a person wants to know of Luigi's log.

    Errors that are the user's to mend become one message without a traceback; chatter goes, and
    with it Luigi's summary: ``pipeline.run_display`` and ``pipeline.run_summary`` tell more.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite ``record`` in place; False drops it."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, UserError):
            task = str(record.args[-1]) if isinstance(record.args, tuple) and record.args else ""
            record.msg, record.args = f"{task}\n  {error}".strip(), ()
            record.exc_info = record.exc_text = None
        return record.levelno > logging.INFO


def install() -> None:
    """Set the defaults, the worker and the log filter; called when ``pipeline`` is imported."""
    set_defaults()
    setattr(worker, "Worker", WarmWorker)  # noqa: B010  (mypy takes it for a change of type)
    logger = logging.getLogger("luigi-interface")
    if not any(isinstance(item, ReadableLog) for item in logger.filters):
        logger.addFilter(ReadableLog())

"""luigid as a worker sees it: asked patiently, and missed with one line instead of tracebacks.

Luigi's own client waits 30 s after a request that failed and prints a traceback for each; while
it does, no sign of life goes out, so a network that is away for a second may cost a worker its
tasks. Here a ping is tried once, as the next follows in a second, and all else every 2 s for five
minutes (``core.rpc_retry_wait``, and ``core.rpc_retry_attempts`` times as long): a scheduler that
is started anew is waited for. One that never answered is given up within seconds.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from urllib.parse import urlparse

import tenacity
from luigi import configuration, rpc

from data.errors import UserError

_LOG = logging.getLogger("luigi-interface.scheduler")
_PING = "/api/ping"
_WAIT, _ATTEMPTS = 2, 150
"""Seconds between two tries of a request, and how many such waits it takes until it is given up.

Not set as Luigi's defaults are: its own ``core`` warns of them as unknown.
"""
_FIRST_PATIENCE = 5.0
"""Seconds in which a scheduler must answer at first; one started in the same moment does."""
_PING_TIMEOUT = 5.0
"""Seconds for one ping: while it waits no task can be started, see luigi's ``fork_lock``."""
_SILENCE = 10.0
"""Seconds between two answers, at a ping a second, after which this process itself stood still."""


class SchedulerAwayError(UserError):
    """No luigid answers where one was named."""


class PatientScheduler(rpc.RemoteScheduler):
    """The client of a central scheduler; all threads of a worker use one.

    Requests raise ``SchedulerAwayError`` when their patience is at its end.
    """

    def __init__(self, url: str = "http://localhost:8082/", connect_timeout: float | None = None):
        super().__init__(url, connect_timeout)
        config = configuration.get_config()
        self._rpc_retry_wait = config.getint("core", "rpc_retry_wait", _WAIT)
        self._rpc_retry_attempts = config.getint("core", "rpc_retry_attempts", _ATTEMPTS)
        self._patience = float(self._rpc_retry_attempts * self._rpc_retry_wait)
        parts = urlparse(self._url)
        self._told_url = parts._replace(netloc=parts.netloc.split("@")[-1]).geturl()
        self._lock = threading.Lock()
        self._last_answer: float | None = None
        self._is_away = False
        self._was_away = False

    def was_away(self) -> bool:
        """Whether requests failed, or none were made for long, since this was asked last.

        The scheduler may have been started anew or have taken this worker for dead; either way
        it no longer knows what this worker waits for.
        """
        with self._lock:
            was_away, self._was_away = self._was_away, False
        return was_away

    def _fetch(self, url_suffix: str, body: dict[str, str]) -> str:
        is_ping = url_suffix == _PING
        is_first = self._last_answer is None
        patience = _FIRST_PATIENCE if is_first else self._patience
        timeout = min(_PING_TIMEOUT, self._connect_timeout) if is_ping else self._connect_timeout
        attempts = tenacity.Retrying(
            wait=tenacity.wait_fixed(
                min(self._rpc_retry_wait, _WAIT) if is_first else self._rpc_retry_wait
            ),
            stop=tenacity.stop_after_attempt(1) if is_ping else tenacity.stop_after_delay(patience),
            retry=tenacity.retry_if_exception_type(self._fetcher.raises),
            after=self._note_failure,
            reraise=True,
        )
        try:
            answer: str = attempts(
                self._fetcher.fetch, rpc._urljoin(self._url, url_suffix), body, timeout
            )
        except self._fetcher.raises as error:
            raise SchedulerAwayError(self._told(error, patience)) from error
        self._check_luigid(answer)
        self._note_answer()
        return answer

    def _told(self, error: BaseException, patience: float) -> str:
        if self._last_answer is None:
            return (
                f"no scheduler answers at {self._told_url} ({_short(error)}). Start one with "
                "LUIGI_CONFIG_PATH=configs/luigid.cfg luigid, correct --scheduler-host and "
                "--scheduler-port, or leave them out to run on this machine alone"
            )
        return (
            f"the scheduler at {self._told_url} has not answered for {patience:.0f} s "
            f"({_short(error)}). What is finished stays: start luigid, then the same command, "
            "which goes on from here"
        )

    def _check_luigid(self, answer: str) -> None:
        try:
            is_luigid = "response" in json.loads(answer)
        except (ValueError, TypeError):
            is_luigid = False
        if not is_luigid:
            raise SchedulerAwayError(
                f"{self._told_url}: expected luigid, found something else that answers "
                f"{answer[:60]!r}. Correct --scheduler-host and --scheduler-port"
            )

    def _note_failure(self, attempt: tenacity.RetryCallState) -> None:
        error = attempt.outcome.exception() if attempt.outcome else None
        with self._lock:
            is_news = self._last_answer is not None and not self._is_away
            self._is_away = True
        if is_news:
            _LOG.warning(
                "The scheduler at %s does not answer (%s). Tasks go on; it is waited for.",
                self._told_url,
                _short(error),
            )

    def _note_answer(self) -> None:
        # Not the monotonic clock, which a machine that sleeps does not count.
        now = time.time()
        with self._lock:
            is_back = self._is_away and self._last_answer is not None
            silent = self._last_answer is not None and now - self._last_answer > _SILENCE
            self._was_away |= is_back or silent
            self._is_away, self._last_answer = False, now
        if is_back:
            _LOG.info("The scheduler at %s answers again.", self._told_url)


def _short(error: BaseException | None) -> str:
    """The innermost reason of a request's failure, such as "Connection refused"."""
    while error is not None:
        reason = getattr(error, "reason", None)
        inner = reason if isinstance(reason, BaseException) else None
        inner = inner or error.__cause__ or error.__context__
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        if inner is None or inner is error:
            break
        error = inner
    return str(error) or type(error).__name__

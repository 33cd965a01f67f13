"""Client of a central scheduler (luigid) that retries requests and logs one line while it is away.

Luigi's own client waits 30 s after a failed request and logs a traceback for each. It sends no
ping in that time, so a short network failure can cost a worker its tasks. This client tries a
ping once, because the next follows within a second, and any other request every 2 s for five
minutes (``core.rpc_retry_wait``, and ``core.rpc_retry_attempts`` times as long), so luigid may
be restarted. A scheduler that never answered is given up within seconds.
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
"""Seconds between two tries of a request, and number of such waits until it is given up.

They are no defaults in Luigi's configuration, because Luigi's ``core`` warns of them as unknown.
"""
_FIRST_TIMEOUT = 5.0
"""Seconds for the first answer; enough for a luigid started at the same time."""
_PING_TIMEOUT = 5.0
"""Seconds for one ping; no task can be started during it (Luigi's ``fork_lock``)."""
_SILENCE = 10.0
"""Seconds between two answers, at a ping a second, that mean this process was suspended."""


class SchedulerAwayError(UserError):
    """No luigid answers at the address given."""


class RetryingScheduler(rpc.RemoteScheduler):
    """Client of a central scheduler, shared by all threads of a worker.

    Requests raise ``SchedulerAwayError`` when their time is over.
    """

    def __init__(self, url: str = "http://localhost:8082/", connect_timeout: float | None = None):
        super().__init__(url, connect_timeout)
        config = configuration.get_config()
        self._rpc_retry_wait = config.getint("core", "rpc_retry_wait", _WAIT)
        self._rpc_retry_attempts = config.getint("core", "rpc_retry_attempts", _ATTEMPTS)
        self._timeout = float(self._rpc_retry_attempts * self._rpc_retry_wait)
        parts = urlparse(self._url)
        self._shown_url = parts._replace(netloc=parts.netloc.split("@")[-1]).geturl()
        self._lock = threading.Lock()
        self._last_answer: float | None = None
        self._last_answer_at = 0.0  # By the monotonic clock.
        self._is_away = False
        self._was_away = False

    def was_away(self) -> bool:
        """Whether requests failed, or none were made for long, since the last call of this method.

        luigid may have been restarted or have dropped this worker, so it may no longer know the
        worker's tasks.
        """
        with self._lock:
            was_away, self._was_away = self._was_away, False
        return was_away

    def _fetch(self, url_suffix: str, body: dict[str, str]) -> str:
        is_ping = url_suffix == _PING
        is_first = self._last_answer is None
        timeout_s = _FIRST_TIMEOUT if is_first else self._timeout
        timeout = min(_PING_TIMEOUT, self._connect_timeout) if is_ping else self._connect_timeout
        attempts = tenacity.Retrying(
            wait=tenacity.wait_fixed(
                min(self._rpc_retry_wait, _WAIT) if is_first else self._rpc_retry_wait
            ),
            stop=(
                tenacity.stop_after_attempt(1) if is_ping else tenacity.stop_after_delay(timeout_s)
            ),
            retry=tenacity.retry_if_exception_type(self._fetcher.raises),
            reraise=True,
        )
        try:
            answer: str = attempts(
                self._fetch_once, rpc._urljoin(self._url, url_suffix), body, timeout
            )
        except self._fetcher.raises as error:
            raise SchedulerAwayError(self._away_message(error, timeout_s)) from error
        self._check_luigid(answer)
        self._note_answer()
        return answer

    def _away_message(self, error: BaseException, timeout_s: float) -> str:
        if self._last_answer is None:
            return (
                f"no scheduler answers at {self._shown_url} ({_short(error)}). Start one with "
                "LUIGI_CONFIG_PATH=configs/luigid.cfg luigid, correct --scheduler-host and "
                "--scheduler-port, or leave them out to run on this machine alone"
            )
        return (
            f"the scheduler at {self._shown_url} has not answered for {timeout_s:.0f} s "
            f"({_short(error)}). Finished artifacts are kept: start luigid, then the same command, "
            "which continues from here"
        )

    def _check_luigid(self, answer: str) -> None:
        try:
            is_luigid = "response" in json.loads(answer)
        except (ValueError, TypeError):
            is_luigid = False
        if not is_luigid:
            raise SchedulerAwayError(
                f"{self._shown_url}: expected luigid, found something else that answers "
                f"{answer[:60]!r}. Correct --scheduler-host and --scheduler-port"
            )

    def _fetch_once(self, url: str, body: dict[str, str], timeout: float) -> str:
        begun = time.monotonic()
        try:
            return str(self._fetcher.fetch(url, body, timeout))
        except self._fetcher.raises as error:
            self._note_failure(error, begun)
            raise

    def _note_failure(self, error: BaseException, begun: float) -> None:
        """Tell a failure, unless the scheduler has answered since the request began."""
        with self._lock:
            is_news = self._last_answer is not None and begun >= self._last_answer_at
            is_first_failure = is_news and not self._is_away
            self._is_away |= is_news
        if is_first_failure:
            _LOG.warning(
                "The scheduler at %s does not answer (%s). Tasks go on; requests are retried.",
                self._shown_url,
                _short(error),
            )

    def _note_answer(self) -> None:
        # Wall time: the monotonic clock stops while the machine sleeps.
        now = time.time()
        with self._lock:
            is_back = self._is_away and self._last_answer is not None
            silent = self._last_answer is not None and now - self._last_answer > _SILENCE
            self._was_away |= is_back or silent
            self._is_away, self._last_answer = False, now
            self._last_answer_at = time.monotonic()
        if is_back:
            _LOG.info("The scheduler at %s answers again.", self._shown_url)


def _short(error: BaseException | None) -> str:
    """Innermost reason of a failed request, such as "Connection refused"."""
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

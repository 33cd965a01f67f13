"""A real luigid under configs/luigid.cfg on a free port, which tests query, kill and restart."""

from __future__ import annotations

import configparser
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.cli import LUIGI, REPOSITORY, command, environment
from tests.support.warm import Forked, forker

LIMIT = 200.0
"""Seconds: a guard against hanging."""


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll until ``condition`` holds; fail the test when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)


@dataclass(frozen=True)
class Worker:
    """A worker of a daemon, and the file of its output and errors."""

    run: Forked
    log: Path

    def ended(self, code: int = 0) -> str:
        """Return what it printed until it ended, with ``code`` and no traceback."""
        ended = self.run.wait(timeout=LIMIT)
        printed = self.log.read_text()
        assert ended == code, printed
        assert "Traceback" not in printed, printed
        return printed


class Luigid:
    """The daemon, its log, and workers that use it."""

    def __init__(self, folder: Path, **scheduler: str) -> None:
        """Prepare a daemon for ``folder``; ``scheduler`` are options other than the config's."""
        self.folder = folder
        self.config = configparser.ConfigParser()
        self.config.read(REPOSITORY / "configs/luigid.cfg")
        self.config["scheduler"].update(scheduler)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._daemon: subprocess.Popen[bytes] | None = None
        self._workers: list[Worker] = []

    def start(self) -> None:
        """Start the daemon with the state saved at its last stop, and wait until it answers."""
        path = self.folder / "luigid.cfg"
        with open(path, "w") as file:
            self.config.write(file)
        env = environment(self.folder / "output", LUIGI_CONFIG_PATH=str(path))
        line = [str(LUIGI.with_name("luigid")), "--address", "127.0.0.1", "--port", str(self.port)]
        line += ["--state-path", str(self.folder / "state")]
        with open(self.folder / "luigid.log", "ab") as log:
            self._daemon = subprocess.Popen(line, cwd=self.folder, env=env, stdout=log, stderr=log)
        wait_for(self._listens, 60, "luigid")

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        """Kill the daemon, which loses its state."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()

    @property
    def log(self) -> str:
        """Return the daemon's output."""
        return (self.folder / "luigid.log").read_text()

    def worker(self, *arguments: str, module: str = "pipeline") -> Worker:
        """Fork a luigi command that uses the daemon."""
        line = command(*arguments, "--scheduler-url", self.url, module=module)
        env = environment(self.folder / "output", PYTHONPATH=str(REPOSITORY))
        log = self.folder / f"worker-{len(self._workers)}.log"
        with open(log, "wb") as printed:
            worker = Worker(forker().start(line, self.folder, env, printed.fileno()), log)
        self._workers.append(worker)
        return worker

    def stop(self) -> None:
        """Kill the daemon and all workers."""
        self.kill()
        for worker in self._workers:
            worker.run.kill()
            worker.run.wait()


@contextmanager
def luigid(folder: Path, **scheduler: str) -> Iterator[Luigid]:
    """Yield a running daemon; it and its workers are killed at the end."""
    daemon = Luigid(folder, **scheduler)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.stop()

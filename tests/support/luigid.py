"""A real luigid under configs/luigid.cfg on a free port, to ask, to kill and to start again."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.cli import LUIGI, REPOSITORY, command, environment


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll until ``condition`` holds; fail the test when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)


class Luigid:
    """The daemon, its log, and workers that ask it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._daemon: subprocess.Popen[bytes] | None = None
        self._workers: list[subprocess.Popen[str]] = []

    def start(self) -> None:
        """Start it, knowing what it dumped when it was last stopped, and wait until it answers."""
        config = str(REPOSITORY / "configs/luigid.cfg")
        env = environment(self.folder / "output", LUIGI_CONFIG_PATH=config)
        line = [str(LUIGI.with_name("luigid")), "--address", "127.0.0.1", "--port", str(self.port)]
        line += ["--state-path", str(self.folder / "state")]
        with open(self.folder / "luigid.log", "ab") as log:
            self._daemon = subprocess.Popen(line, cwd=self.folder, env=env, stdout=log, stderr=log)
        wait_for(self._listens, 60, "luigid")

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        """Kill it; what it knew is lost."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()

    @property
    def log(self) -> str:
        """What it printed."""
        return (self.folder / "luigid.log").read_text()

    def worker(self, *arguments: str, module: str = "pipeline") -> subprocess.Popen[str]:
        """A luigi command that asks it; output and errors come as one text in ``stdout``."""
        worker = subprocess.Popen(
            command(*arguments, "--scheduler-url", self.url, module=module),
            cwd=self.folder,
            env=environment(self.folder / "output", PYTHONPATH=str(REPOSITORY)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._workers.append(worker)
        return worker

    def stop(self) -> None:
        """Kill it and all workers."""
        self.kill()
        for worker in self._workers:
            worker.kill()
            worker.wait()


@contextmanager
def luigid(folder: Path) -> Iterator[Luigid]:
    """A started one; gone at the end, and its workers with it."""
    daemon = Luigid(folder)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.stop()

"""A process that has imported the packages of a run, and forks a run for each request.

A run imports torch, Open3D and compiled loops, which takes most of its time on very small rooms. A
run imports them in one process and forks its tasks from it; this process is forked one step
earlier. Command line, working folder, environment and exit code are those of a separate process.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import multiprocessing
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, NoReturn

REPOSITORY = Path(__file__).resolve().parents[2]
LIMIT = 480.0
"""Seconds that a run may take: a guard against hanging."""


class Forker:
    """The forking process, as its client sees it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="forker-")
        env = {k: v for k, v in os.environ.items() if not k.startswith(("LUIGI", "MLLM3D"))}
        path = os.pathsep.join(filter(None, [str(REPOSITORY), env.get("PYTHONPATH", "")]))
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-m", "tests.support.warm", str(theirs.fileno())],
                cwd=self._folder.name,
                env={**env, "HOME": self._folder.name, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._answers = self._socket.makefile("r", encoding="utf-8")

    def run(
        self, line: Sequence[str], folder: Path, env: Mapping[str, str], limit: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``line`` (see ``_begin``) in ``folder`` to its end; ``stdout`` holds all its output.

        Files that the run writes may have at most ``limit`` bytes.
        """
        reader, writer = os.pipe()
        with os.fdopen(reader, "rb") as printed:
            socket.send_fds(self._socket, [b"."], [writer])
            os.close(writer)
            asked = {"line": [*line], "folder": str(folder), "env": {**env}, "limit": limit}
            self._socket.sendall(json.dumps(asked).encode() + b"\n")
            pid = int(self._answers.readline())
            guard = threading.Timer(LIMIT, os.kill, (pid, signal.SIGKILL))
            guard.start()
            try:
                text = printed.read().decode()
                code = int(self._answers.readline())
            finally:
                guard.cancel()
        return subprocess.CompletedProcess(list(line), code, text)

    def end(self) -> None:
        """End the process."""
        self._answers.close()
        self._socket.close()
        self._process.wait()
        self._folder.cleanup()


@cache
def forker() -> Forker:
    """Return this process's forker, which is started when it is first needed."""
    made = Forker()
    atexit.register(made.end)
    return made


def forkserver() -> BaseContext:
    """Return a start method like "spawn" without repeated imports: a process with imports forks."""
    multiprocessing.set_forkserver_preload(["stages.student.train_student", "stages.nano.train"])
    return multiprocessing.get_context("forkserver")


def _import_all() -> None:
    """Import what stages import, as ``pipeline.workers.worker`` does before it forks tasks."""
    from luigi.task import flatten

    import pipeline
    from pipeline.process import process

    process.prepare_imports(min(4, process.num_cores()))
    importlib.import_module("pipeline.__main__")
    tasks = [pipeline.RunAll(scene_set="demo", overrides="teacher.name=lisa_nano")]
    seen = set()
    while tasks:
        task = tasks.pop()
        kind = task.task_family, task.unit() is None
        if kind not in seen:
            seen.add(kind)
            task.preload()
            tasks.extend(flatten(task.requires()))


def _begin(
    line: list[str], folder: str, env: dict[str, str], limit: int | None, own_path: list[str]
) -> NoReturn:
    """Run the command in this process: ``luigi ARGUMENTS``, or ``python -m pipeline ARGUMENTS``."""
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    first = folder if line[0] == "python" else str(Path(sys.executable).parent)
    given = [one for one in env.get("PYTHONPATH", "").split(os.pathsep) if one]
    sys.path[:] = [first, *given, *own_path]
    # Processes that the run spawns import its main module again.
    own: Any = sys.modules["__main__"]
    own.__spec__, own.__file__ = None, str(Path(sys.executable).with_name("luigi"))
    random.seed()
    fsspec: Any = sys.modules.get("fsspec.config")
    if fsspec is not None:  # It has read the environment of another.
        fsspec.set_conf_env(fsspec.conf)
    if line[0] == "python":
        from pipeline.__main__ import main

        sys.argv = ["pipeline", *line[3:]]
        sys.exit(main(line[3:]))
    from luigi.cmdline import luigi_run

    sys.argv = list(line)
    sys.exit(luigi_run(line[1:]))


def _serve(asking: socket.socket) -> None:
    """Fork one command at a time; return when the client closes."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    own_path = [one for one in sys.path[1:] if one not in paths]
    _import_all()
    gc.collect()
    gc.freeze()
    while True:
        begun, files, _, _ = socket.recv_fds(asking, 1, 1)
        if not begun:
            return
        asked = bytearray()
        while not asked.endswith(b"\n"):
            asked += asking.recv(1 << 16)
        pid = os.fork()
        if pid == 0:
            asking.close()
            os.dup2(files[0], 1)
            os.dup2(files[0], 2)
            os.close(files[0])
            _begin(**json.loads(asked), own_path=own_path)
        os.close(files[0])
        asking.sendall(f"{pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        asking.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))

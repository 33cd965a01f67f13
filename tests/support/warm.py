"""A process that has imported the packages of a run, and forks a run for each request.

A run imports torch, Open3D and compiled loops, which takes most of its time on very small rooms. A
run imports them in one process and forks its tasks from it; this process is forked one step
earlier. Command line, working folder, environment and exit code are those of a separate process,
and so are signals: a forked run is killed, or told to stop, like any other. Its environment in
``/proc`` is the forking process's.

All processes that test share one such process, which the first of them starts.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import multiprocessing
import os
import platform
import random
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import weakref
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, NoReturn

REPOSITORY = Path(__file__).resolve().parents[2]
LIMIT = 480.0
"""Seconds that a run may take: a guard against hanging."""
_ADDRESS = "TESTS_FORKER"
"""Variable with the address of the process that processes started by this one share."""
_NEW_NETWORK, _NEW_HOST_NAME = 0x40000000, 0x04000000


class Forked:
    """A run: the part of ``subprocess.Popen`` that tests use."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("r", encoding="utf-8")
        self.pid = int(self._lines.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, minus the signal's number if it was killed; None while it runs."""
        return self._ended_within(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; ``subprocess.TimeoutExpired`` after ``timeout`` seconds."""
        code = self._ended_within(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("a forked run", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def _ended_within(self, seconds: float | None) -> int | None:
        """Return the exit code, or None if the run goes on after ``seconds``; None waits on."""
        if self.returncode is None and select.select([self._connection], [], [], seconds)[0]:
            self.returncode = int(self._lines.readline())
            self._lines.close()
            self._connection.close()
        return self.returncode


class Forker:
    """The forking process, as its clients see it."""

    def __init__(self, address: str | None = None) -> None:
        """Use the process at ``address``, or start one, which ends with this process."""
        self._process: subprocess.Popen[bytes] | None = None
        if address is None:
            self._folder = tempfile.TemporaryDirectory(prefix="forker-")
            address = f"{self._folder.name}/socket"
            self._begin(address)
        self.address = address

    def _begin(self, address: str) -> None:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("LUIGI", "MLLM3D"))}
        home = self._folder.name
        path = os.pathsep.join(filter(None, [str(REPOSITORY), env.get("PYTHONPATH", "")]))
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(address)
            listening.listen(64)
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-m", "tests.support.warm", str(listening.fileno())],
                cwd=home,
                env={**env, "HOME": home, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=[listening.fileno()],
            )

    def start(
        self,
        line: Sequence[str],
        folder: Path,
        env: Mapping[str, str],
        output: int,
        limit: int | None = None,
        host: tuple[str, str] | None = None,
    ) -> Forked:
        """Start ``line`` (see ``_begin``) in ``folder``; ``output`` is a file descriptor.

        Files that the run writes may have at most ``limit`` bytes. ``host`` names the network
        namespace that the run enters, and the host name that it sees.
        """
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.address)
        socket.send_fds(connection, [b"."], [output])
        asked = {"line": [*line], "folder": str(folder), "env": {**env}}
        rest = {"limit": limit, "host": host}
        connection.sendall(json.dumps({**asked, **rest}).encode() + b"\n")
        return Forked(connection)

    def run(
        self, line: Sequence[str], folder: Path, env: Mapping[str, str], limit: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``line`` to its end, as ``start`` does; ``stdout`` holds all its output."""
        reader, writer = os.pipe()
        with os.fdopen(reader, "rb") as printed:
            try:
                run = self.start(line, folder, env, writer, limit)
            finally:
                os.close(writer)
            guard = threading.Timer(LIMIT, run.kill)
            guard.start()
            try:
                text = printed.read().decode()
                code = run.wait()
            finally:
                guard.cancel()
        return subprocess.CompletedProcess(list(line), code, text)

    def end(self) -> None:
        """End the process, if this one started it."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()
            self._folder.cleanup()


def share_forker() -> Forker:
    """Start a forker, which all processes started from now on use; the caller ends it."""
    made = Forker()
    os.environ[_ADDRESS] = made.address
    return made


@cache
def forker() -> Forker:
    """Return the forker that is shared with this process; else start one of its own."""
    made = Forker(os.environ.get(_ADDRESS))
    atexit.register(made.end)
    return made


def forkserver() -> ForkServerContext:
    """Return a start method like "spawn" without repeated imports: a process with imports forks."""
    multiprocessing.set_forkserver_preload(["stages.student.train_student", "stages.nano.train"])
    return multiprocessing.get_context("forkserver")


def _import_all() -> None:
    """Import what stages import, as ``pipeline.workers.worker`` does before it forks tasks."""
    from luigi.task import flatten

    import pipeline
    from pipeline.process import process

    process.prepare_imports(min(4, process.num_cores()))
    for name in ("pipeline.__main__", "s3fs", "aiobotocore.session"):
        importlib.import_module(name)
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
    line: list[str],
    folder: str,
    env: dict[str, str],
    limit: int | None,
    host: tuple[str, str] | None,
    own_path: list[str],
) -> NoReturn:
    """Run the command in this process: ``luigi ARGUMENTS``, or ``python -m pipeline ARGUMENTS``."""
    if host is not None:
        _enter(*host)
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
    _read_environment_again(env)
    sys.argv = ["pipeline", *line[3:]] if line[0] == "python" else list(line)
    _read_luigi_config()
    _exit(_code_of(line))


def _code_of(line: list[str]) -> int:
    """Run a command line and return its exit code."""
    from luigi.cmdline import luigi_run

    from pipeline.__main__ import main

    try:
        code = main(line[3:]) if line[0] == "python" else luigi_run(line[1:])
    except SystemExit as ended:
        code = ended.code
    except BaseException:  # As Python itself does.
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    return code if isinstance(code, int) else int(code is not None)


def _exit(code: int) -> NoReturn:
    """End this process as Python does, without freeing the packages, which takes 0.7 s."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _read_environment_again(env: dict[str, str]) -> None:
    """Tell packages that have read another environment what they would find in this one."""
    fsspec: Any = sys.modules.get("fsspec.config")
    if fsspec is not None:
        fsspec.set_conf_env(fsspec.conf)
    hub: Any = sys.modules.get("huggingface_hub.constants")
    if hub is not None:
        hub.HF_HUB_OFFLINE = env.get("HF_HUB_OFFLINE") == "1"
        hub.HF_HUB_CACHE = env.get("HF_HUB_CACHE", hub.HF_HUB_CACHE)


def _read_luigi_config() -> None:
    """Read what a new process reads at import: ``luigi.cfg``, and the scheduler in ``sys.argv``."""
    from luigi.configuration import LuigiConfigParser

    from pipeline.workers.worker import set_defaults

    parser: Any = LuigiConfigParser
    parser._instance = None
    if "LUIGI_CONFIG_PATH" in os.environ:
        parser.add_config_path(os.environ["LUIGI_CONFIG_PATH"])
    set_defaults()


def _enter(namespace: str, host_name: str) -> None:
    """Move this process to a network namespace, with a host name of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/var/run/netns/{namespace}") as file:
        if libc.setns(file.fileno(), _NEW_NETWORK) or libc.unshare(_NEW_HOST_NAME):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    socket.sethostname(host_name)
    platform.uname.__globals__["_uname_cache"] = None


def _serve(listening: socket.socket) -> None:
    """Fork a command for each connection; return when the starting process closes stdin."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    own_path = [one for one in sys.path[1:] if one not in paths]
    gc.disable()
    _import_all()
    _skip_finalizers_at_exit()
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()
    signal.signal(signal.SIGCHLD, _reap)
    while True:
        if sys.stdin in select.select([listening, sys.stdin], [], [])[0]:
            return
        connection, _ = listening.accept()
        _, files, _, _ = socket.recv_fds(connection, 1, 1)
        asked = bytearray()
        while not asked.endswith(b"\n"):
            asked += connection.recv(1 << 16)
        if os.fork() == 0:
            listening.close()
            _watch(connection, files[0], json.loads(asked), own_path)
        os.close(files[0])
        connection.close()


def _skip_finalizers_at_exit() -> None:
    """Let forked processes end without the finalizers that packages have registered so far.

    torch registers one for each library of operators. Python lists finalizers in private only.
    """
    registry: Any = weakref.finalize._registry  # type: ignore[attr-defined]
    for entry in registry.values():
        entry.atexit = False


def _reap(*_: object) -> None:
    """Take the exit codes of ended processes, which nobody else waits for."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _watch(
    connection: socket.socket, output: int, asked: dict[str, Any], own_path: list[str]
) -> NoReturn:
    """Fork the command, tell its process id and then its exit code, and end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        connection.close()
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        os.close(nothing)
        os.close(output)
        _begin(**asked, own_path=own_path)
    os.close(output)
    try:
        connection.sendall(f"{pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    finally:  # Also where the client has gone.
        os._exit(0)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))

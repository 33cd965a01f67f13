"""Two hosts on one machine, a scheduler between them, and one shared folder.

Each host is a network namespace with its own address, linked to the scheduler's namespace; its
processes see their own host name. Making namespaces needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN)
and ``ip`` of iproute2. The machine's own network is not changed.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from benchmarks.torture import Pipeline, Process, link_of, living

HOSTS = ("one", "two")
REPOSITORY = Path(__file__).resolve().parent.parent
LUIGID_CFG = REPOSITORY / "configs" / "luigid.cfg"
_HEAD = "10.231.0.1"
_PORT = 8082
_PAUSE = 1.0
"""Seconds that the teacher waits at each view: long enough to be killed in the middle."""


class NoNamespacesError(Exception):
    """This machine or user may not make network namespaces; the message gives the reason."""


class Network:
    """A namespace ``head`` for luigid, and a namespace for each host, linked to it.

    Names are random, so that several networks may exist at once.
    """

    def __init__(self) -> None:
        self._made: list[str] = []
        self._links: dict[str, str] = {}
        self._prefix = f"two-hosts-{secrets.token_hex(4)}"

    def name(self, host: str) -> str:
        """The namespace of ``host``."""
        return f"{self._prefix}-{host}"

    def make(self) -> None:
        """Make all namespaces; NoNamespacesError with the reason where that is not possible."""
        if shutil.which("ip") is None or shutil.which("unshare") is None:
            raise NoNamespacesError("needs ip (iproute2) and unshare (util-linux)")
        for host in ("head", *HOSTS):
            _ip("netns", "add", self.name(host))
            self._made.append(host)
            self._links[host] = f"net:[{Path('/run/netns', self.name(host)).stat().st_ino}]"
            _ip("-n", self.name(host), "link", "set", "lo", "up")
        _ip("-n", self.name("head"), "address", "add", f"{_HEAD}/32", "dev", "lo")
        for number, host in enumerate(HOSTS, 1):
            near, far = self.name(host), self.name("head")
            link = ("link", "add", "up0", "netns", near, "type", "veth")
            _ip(*link, "peer", "name", host, "netns", far)
            _ip("-n", far, "address", "add", f"10.231.{number}.1/30", "dev", host)
            _ip("-n", far, "link", "set", host, "up")
            _ip("-n", near, "address", "add", f"10.231.{number}.2/30", "dev", "up0")
            self.connect(host)

    def connect(self, host: str) -> None:
        """Put a host's interface up."""
        _ip("-n", self.name(host), "link", "set", "up0", "up")
        gateway = f"10.231.{HOSTS.index(host) + 1}.1"
        _ip("-n", self.name(host), "route", "replace", "default", "via", gateway)

    def disconnect(self, host: str) -> None:
        """Put a host's interface down."""
        _ip("-n", self.name(host), "link", "set", "up0", "down")

    def inside(self, host: str, line: list[str]) -> list[str]:
        """``line`` as a command that runs on ``host``."""
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', host, *line]
        return ["ip", "netns", "exec", self.name(host), *named]

    def processes(self, host: str) -> list[int]:
        """Return every living process of ``host``, whether its namespace has a name or not."""
        return [pid for pid in living() if link_of(pid, "ns/net") == self._links[host]]

    def remove(self) -> None:
        """Remove all namespaces."""
        while self._made:
            subprocess.run(["ip", "netns", "del", self.name(self._made.pop())], check=False)


class SharedRun:
    """A luigid and the hosts' RunAll, all on the output folder of one ``Pipeline``."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network, self.pipeline = network, Pipeline(folder, pause=_PAUSE)
        self.started: list[Process] = []

    @property
    def output(self) -> Path:
        """The shared folder."""
        return self.pipeline.output

    def log(self, host: str) -> str:
        """Return the output of a host's processes."""
        path = self.pipeline.folder / f"{host}.log"
        return path.read_text() if path.exists() else ""

    def start_luigid(self, **scheduler: str) -> subprocess.Popen[bytes]:
        """Start luigid on ``head``, under configs/luigid.cfg with ``scheduler`` options changed."""
        folder = self.pipeline.folder
        text = LUIGID_CFG.read_text() + f"state_path={folder / 'state'}\n"
        for name, value in scheduler.items():
            kept = [line for line in text.splitlines() if not line.startswith(f"{name}=")]
            text = "\n".join([*kept, f"{name}={value}", ""])
        (folder / "luigid.cfg").write_text(text)
        line = [str(Path(sys.executable).parent / "luigid"), "--port", str(_PORT)]
        return self._start("head", line, LUIGI_CONFIG_PATH=str(folder / "luigid.cfg"))

    def worker_command(self, workers: int) -> list[str]:
        """The command line of RunAll under luigid."""
        return self.pipeline.command(
            "--scheduler-host", _HEAD, "--scheduler-port", str(_PORT), "--workers", str(workers)
        )

    def start_worker(self, host: str, workers: int = 1) -> Process:
        """Start RunAll on ``host``."""
        return self._start(host, self.worker_command(workers), **self.pipeline.environment())

    def _start(self, host: str, line: list[str], **extra: str) -> subprocess.Popen[bytes]:
        with open(self.pipeline.folder / f"{host}.log", "ab") as log:
            process = subprocess.Popen(
                self.network.inside(host, line),
                cwd=self.pipeline.folder,
                env={**os.environ, **extra},
                stdout=log,
                stderr=log,
            )
        self.started.append(process)
        return process

    def processes(self, host: str) -> list[int]:
        """Return every living process of ``host``."""
        return self.network.processes(host)

    def kill(self, host: str) -> None:
        """Send SIGKILL to all processes of ``host`` at once, like a power cut."""
        for pid in self.processes(host):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def working(self) -> dict[Path, str]:
        """Return folders that are being written, locked, with the host named in the lock."""
        found = {}
        for path in self.output.rglob(".holder.json"):
            try:
                host = json.loads(path.read_text())["host"]
            except (OSError, ValueError):
                continue
            if _is_locked(path.parent):
                found[path.parent] = host
        return found

    def locked(self) -> list[Path]:
        """Return the artifacts whose lock is held."""
        locks = self.output.rglob(".*.lock")
        return [path for path in locks if _is_locked(path.with_name(path.name[1:-5]))]

    def stop(self) -> None:
        """Kill all processes that still run."""
        for host in ("head", *HOSTS):
            self.kill(host)
        for process in self.started:
            process.wait(timeout=30)


@contextmanager
def two_hosts() -> Iterator[Network]:
    """Yield a network, which is removed at the end; NoNamespacesError where none can be made."""
    network = Network()
    try:
        network.make()
        yield network
    finally:
        network.remove()


@contextmanager
def shared_run(
    network: Network, folder: Path, kind: type[SharedRun] = SharedRun
) -> Iterator[SharedRun]:
    """Yield a run on the network's hosts, whose processes are killed at the end."""
    run = kind(network, folder)
    try:
        yield run
    finally:
        run.stop()


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """Return the seconds until ``condition`` was true; TimeoutError after the limit."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > seconds:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.05)
    return time.monotonic() - start


def made(output: Path) -> Mapping[str, Mapping[str, object]]:
    """Return every artifact's ``metadata.json`` by its folder below ``output``."""
    paths = output.rglob("metadata.json")
    return {str(p.parent.relative_to(output)): json.loads(p.read_text()) for p in paths}


def _is_locked(folder: Path) -> bool:
    try:
        with FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0):
            return False
    except Timeout:
        return True


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        told = f"ip {' '.join(arguments)}: {done.stderr.strip()}"
        raise NoNamespacesError(f"network namespaces cannot be made here ({told})")

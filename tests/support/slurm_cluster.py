"""A Slurm cluster on this machine for one test module, with its own daemons, ports and folders.

Debian's ``slurmctld``, ``slurmd`` and ``munged`` are run by root. Only a temporary folder is used,
so a Slurm that runs already is not touched, and none is needed.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

DAEMONS = ("munged", "slurmctld", "slurmd")
_SYSTEM_PATH = os.pathsep.join(["/usr/sbin", "/sbin", "/usr/bin", "/bin"])
_CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=1
ReturnToService=2
KillWait=5
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=rooms Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until ``condition`` is true; an assertion with ``what`` fails after the limit."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.1)


def why_not() -> str:
    """Return what a cluster lacks on this machine; empty where it can be started."""
    missing = [name for name in (*DAEMONS, "sbatch") if not shutil.which(name, path=_SYSTEM_PATH)]
    if missing:
        return f"not installed: {', '.join(missing)} (apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "only root can start slurmd"


@contextmanager
def cluster() -> Iterator[Path]:
    """Yield the path of ``slurm.conf`` of running daemons, which are stopped at the end."""
    # Munge refuses sockets in folders that others cannot enter, such as pytest's.
    folder = Path(tempfile.mkdtemp(prefix="slurm_", dir="/tmp"))
    folder.chmod(0o755)
    config = folder / "slurm.conf"
    ctld_port, slurmd_port = _free_ports()
    settings = {
        "folder": folder,
        "host": platform.node().split(".")[0],
        "cpus": os.cpu_count(),
        "ctld_port": ctld_port,
        "slurmd_port": slurmd_port,
    }
    config.write_text(_CONFIG.format(**settings))
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(os.urandom(128))
    lines = [
        ["munged", "--foreground", f"--key-file={key}", *_munge_files(folder)],
        ["slurmctld", "-D", "-f", str(config)],
        ["slurmd", "-D", "-f", str(config)],
    ]
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        for line in lines:
            stack.enter_context(_daemon(line, folder))
            if line[0] == "munged":
                wait_for((folder / "munge.socket").exists, 20, "munged")
        wait_for(lambda: _is_idle(config), 60, f"slurmd; see {folder}")
        stack.callback(_end_jobs, config)
        yield config


def _munge_files(folder: Path) -> list[str]:
    names = {"socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log"}
    return [f"--{name}={folder / file}" for name, file in {**names, "seed-file": "seed"}.items()]


@contextmanager
def _daemon(line: list[str], folder: Path) -> Iterator[None]:
    with open(folder / f"{line[0]}.printed", "wb") as printed:
        env = {**os.environ, "PATH": _SYSTEM_PATH}
        process = subprocess.Popen(line, stdout=printed, stderr=printed, env=env)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_ports() -> list[int]:
    """Return two free ports."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _ask(config: Path, *line: str) -> str:
    env = {**os.environ, "SLURM_CONF": str(config)}
    return subprocess.run(line, env=env, capture_output=True, text=True, check=False).stdout


def _is_idle(config: Path) -> bool:
    return _ask(config, "sinfo", "--noheader", "--format=%T").split() == ["idle"]


def _end_jobs(config: Path) -> None:
    """End jobs that a failed test left running."""
    for job in _ask(config, "squeue", "--noheader", "--format=%A").split():
        _ask(config, "scancel", job)
    wait_for(lambda: not _ask(config, "squeue", "--noheader"), 60, "the end of all jobs")


@pytest.fixture(scope="module")
def slurm_config() -> Iterator[Path]:
    """Return a running cluster's ``slurm.conf``; the test is skipped where none can be started."""
    reason = why_not()
    if reason:
        pytest.skip(f"a Slurm of one's own: {reason}")
    with cluster() as config:
        yield config

"""Launch a function in N local distributed processes and propagate their errors.

Lightning Fabric runs the function in this process for N = 1, else in N processes that each hold
the whole network (torch's DistributedDataParallel). torch spawns these processes, because a fork
of a process with threads or CUDA may hang. When one process fails or is killed, the others are
killed within a second; the kernel kills all of them when their parent dies. ``repeatable`` makes
torch's arithmetic deterministic.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision, Precision
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import distributed
from torch.multiprocessing.spawn import (
    ProcessContext,
    ProcessExitedException,
    ProcessRaisedException,
    start_processes,
)

from data.errors import ConfigError, UserError
from data.parallel import THREAD_VARIABLES, set_parent_death_signal
from data.types import Progress, silent


@contextmanager
def repeatable() -> Iterator[None]:
    """Use deterministic algorithms and one torch thread inside the block; restore settings after.

    torch rounds sums differently with more threads, so results would depend on the machine. The
    sparse convolutions, which take most of the time, use several threads with bit-identical
    results (``models.sparse.cpu``).
    """
    options: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill, threads = options.fill_uninitialized_memory, torch.get_num_threads()
    torch.use_deterministic_algorithms(True, warn_only=True)
    options.fill_uninitialized_memory = False  # This debugging aid takes time.
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        options.fill_uninitialized_memory = fill
        torch.set_num_threads(threads)


Work = Callable[..., None]
"""A function ``work(fabric, progress, *arguments)``; for several processes all must pickle."""

_HOST = "127.0.0.1"
_POLL_SECONDS = 0.1


def check_device(device: str, processes: int) -> None:
    """Check that the device exists and that there is one GPU per process.

    Raises:
        UserError: CUDA without a CUDA device.
        ConfigError: fewer GPUs than processes.
    """
    if torch.device(device).type != "cuda":
        return
    if not torch.cuda.is_available():
        raise UserError(
            f"--device {device}: torch finds no CUDA device. Use --device cpu, or a machine with "
            "a GPU and a driver."
        )
    num_gpus = torch.cuda.device_count()
    if processes > num_gpus:
        raise ConfigError(
            f"--train-processes: expected at most {num_gpus}, the number of GPUs here, found "
            f"{processes}. Ask for {num_gpus}, or for --device cpu."
        )


def run(
    work: Work, arguments: Sequence[Any], device: str, processes: int, progress: Progress
) -> None:
    """Run ``work`` in this process if ``processes`` is 1, else in that many spawned processes.

    Args:
        work: called with a Fabric, a progress callback and ``arguments``.
        arguments: further arguments of ``work``; each spawned process gets a copy.
        device: "cpu", "cuda" or, for one process, "cuda:i"; several processes use the first GPUs.
        processes: number of processes, at least 1.
        progress: called in this process with the progress of the first process.

    Raises:
        UserError: a process raised it, or a process was killed.
        ProcessRaisedException: a process raised another exception; it holds the traceback.
    """
    if processes == 1:
        work(_fabric(device, 1), progress, *arguments)
        return
    context = multiprocessing.get_context("spawn")
    # The parent hosts the store, so that the free port it got from the system stays taken.
    store = _store(0, is_master=True, wait_for_workers=False)
    pipes = [context.Pipe(duplex=False) for _ in range(processes)]
    receivers, senders = [receiver for receiver, _ in pipes], [sender for _, sender in pipes]
    worker_arguments = (processes, device, store.port, senders, work, tuple(arguments))
    start: Any = start_processes
    _quieten()
    with _shared_threads(processes):
        workers = start(_work, worker_arguments, processes, join=False, start_method="spawn")
    try:
        _wait(workers, receivers, progress)
    finally:
        for process in workers.processes:
            process.kill()
            process.join()
        for end in (*receivers, *senders):
            end.close()


def _wait(workers: ProcessContext, receivers: Sequence[Connection], progress: Progress) -> None:
    try:
        finished = False
        while not finished:
            finished = workers.join(timeout=_POLL_SECONDS)
            while receivers[0].poll():
                message = receivers[0].recv()
                if isinstance(message, UserError):
                    raise message
                progress(*message)
    except (ProcessRaisedException, ProcessExitedException) as error:
        raise _cause(workers, receivers, error) from error


def _cause(workers: ProcessContext, receivers: Sequence[Connection], error: Exception) -> Exception:
    """Find the first cause among the errors of all processes.

    Most errors only report that another process is gone, so a UserError comes first, then a
    signal.
    """
    messages = [message for receiver in receivers for message in _messages(receiver)]
    user_errors = [message for message in messages if isinstance(message, UserError)]
    if user_errors:
        return user_errors[0]
    # torch ends the remaining processes by SIGTERM.
    signals = [-process.exitcode for process in workers.processes if (process.exitcode or 0) < 0]
    killed = [number for number in signals if number != signal.SIGTERM]
    if not killed and isinstance(error, ProcessExitedException) and error.exit_code < 0:
        killed = [-error.exit_code]
    if killed:
        name = signal.Signals(killed[0]).name
        return UserError(
            f"One of the {len(workers.processes)} training processes was ended from outside "
            f"({name}); the system may have run out of memory. Run the same command again to "
            "resume from the last checkpoint; fewer --train-processes need less memory."
        )
    return error


def _messages(receiver: Connection) -> Iterator[Any]:
    try:
        while receiver.poll():
            yield receiver.recv()
    except (EOFError, OSError):
        return


def _work(
    rank: int,
    processes: int,
    device: str,
    port: int,
    senders: Sequence[Connection],
    work: Work,
    arguments: tuple[Any, ...],
) -> None:
    """Run ``work`` in a spawned process; a UserError is sent to the parent."""
    set_parent_death_signal()
    _quieten()
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    on_gpu = torch.device(device).type == "cuda"
    if sys.platform == "linux":  # All processes are local, whatever the host name resolves to.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = _store(port, is_master=False)
    backend = "nccl" if on_gpu else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=processes)
    sender = senders[rank]

    def show(done: int, total: int) -> None:
        sender.send((done, total))

    try:
        work(_fabric(device, processes), silent if rank else show, *arguments)
    except UserError as error:
        sender.send(error)
        raise
    distributed.destroy_process_group()


def _fabric(device: str, processes: int) -> Fabric:
    """Make the Fabric of this process, with mixed float16 precision on CUDA.

    Environments are set explicitly, because Fabric would otherwise take over a surrounding cluster
    job.
    """
    torch_device = torch.device(device)
    on_gpu = torch_device.type == "cuda"
    plugins: list[Any] = [MixedPrecision("16-mixed", "cuda") if on_gpu else Precision()]
    if processes == 1:
        plugins.append(LightningEnvironment())
        devices: Any = [torch_device.index or 0] if on_gpu else 1
        return Fabric(accelerator=torch_device.type, devices=devices, plugins=plugins)
    plugins.append(TorchElasticEnvironment())
    ddp = DDPStrategy()
    return Fabric(accelerator=torch_device.type, devices=processes, strategy=ddp, plugins=plugins)


def _store(port: int, **how: Any) -> Any:
    """Open the store at a local port where processes exchange their addresses."""
    return distributed.TCPStore(_HOST, port, **how)  # type: ignore[attr-defined]


@contextmanager
def _shared_threads(processes: int) -> Iterator[None]:
    """Divide this process's threads among processes started inside the block."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    cores = str(os.cpu_count() or 1)
    for name, value in before.items():
        whole = value or cores
        if whole.isdigit():
            os.environ[name] = str(max(1, int(whole) // processes))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _quieten() -> None:
    """Silence messages of libraries about processes."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    logging.getLogger(start_processes.__module__).setLevel(logging.ERROR)

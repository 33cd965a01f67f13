"""Run a function in several local processes as one training, with repeatable arithmetic.

Lightning Fabric runs the same code in one process, in place, and in many, each of which holds
the whole network (torch's DistributedDataParallel). Those are spawned by torch, for a process
forked from one with threads or CUDA may hang. They live and die together: when one fails or is
killed the others are ended within a second, and all are ended by the kernel when their parent is.
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
from data.parallel import THREAD_VARIABLES, die_with_parent
from data.types import Progress, silent


@contextmanager
def repeatable() -> Iterator[None]:
    """Deterministic algorithms and one thread meanwhile; the settings found come back after.

    One thread of torch's: sums split among more come out different, so that bits would depend on
    the machine. The sparse convolutions, which take most of the time, use threads of their own,
    which change no bit (``models.sparse.cpu``).
    """
    options: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill, threads = options.fill_uninitialized_memory, torch.get_num_threads()
    torch.use_deterministic_algorithms(True, warn_only=True)
    options.fill_uninitialized_memory = False  # A debugging aid that costs time.
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        options.fill_uninitialized_memory = fill
        torch.set_num_threads(threads)


Work = Callable[..., None]
"""``work(fabric, progress, *arguments)``; where it is spawned, all of it must pickle."""

_HOST = "127.0.0.1"
_POLL_SECONDS = 0.1


def check_device(device: str, processes: int) -> None:
    """Refuse a device that is not there, or not as often as there are processes.

    Raises:
        UserError: CUDA without a CUDA device.
        ConfigError: fewer GPUs than processes.
    """
    if torch.device(device).type != "cuda":
        return
    if not torch.cuda.is_available():
        raise UserError(f"Device {device!r} was asked for, but torch finds no CUDA device.")
    found = torch.cuda.device_count()
    if processes > found:
        raise ConfigError(
            f"--train-processes: expected at most {found}, the number of GPUs here, one a "
            f"process, found {processes}. Ask for {found}, or for --device cpu."
        )


def run(
    work: Work, arguments: Sequence[Any], device: str, processes: int, progress: Progress
) -> None:
    """Do ``work`` in this process where ``processes`` is 1, else in as many others.

    Args:
        work: gets a Fabric, a progress callback, and ``arguments``.
        arguments: of ``work``; each other process gets a copy.
        device: "cpu", "cuda" or, for one process, "cuda:i"; several take the first GPUs.
        processes: how many, at least 1.
        progress: called in this process, with what the first of them tells.

    Raises:
        UserError: as one of them raised it; or one of them was killed.
        ProcessRaisedException: anything else that one of them raised, with its traceback.
    """
    if processes == 1:
        work(_fabric(device, 1), progress, *arguments)
        return
    context = multiprocessing.get_context("spawn")
    # Here, where it gets a free port from the system and keeps it, not in one of them.
    store = _store(0, is_master=True, wait_for_workers=False)
    pipes = [context.Pipe(duplex=False) for _ in range(processes)]
    receivers, senders = [one for one, _ in pipes], [one for _, one in pipes]
    given = (processes, device, store.port, senders, work, tuple(arguments))
    start: Any = start_processes
    _quieten()
    with _shared_threads(processes):
        ranks = start(_rank, given, processes, join=False, start_method="spawn")
    try:
        _wait(ranks, receivers, progress)
    finally:
        for process in ranks.processes:
            process.kill()
            process.join()
        for end in (*receivers, *senders):
            end.close()


def _wait(ranks: ProcessContext, receivers: Sequence[Connection], progress: Progress) -> None:
    try:
        finished = False
        while not finished:
            finished = ranks.join(timeout=_POLL_SECONDS)
            while receivers[0].poll():
                told = receivers[0].recv()
                if isinstance(told, UserError):
                    raise told
                progress(*told)
    except (ProcessRaisedException, ProcessExitedException) as error:
        raise _cause(ranks, receivers, error) from error


def _cause(ranks: ProcessContext, receivers: Sequence[Connection], error: Exception) -> Exception:
    """Why processes ended: of many errors, most tell only that another process is gone."""
    told = [message for receiver in receivers for message in _messages(receiver)]
    mistakes = [message for message in told if isinstance(message, UserError)]
    if mistakes:
        return mistakes[0]
    # SIGTERM ended those that were still there.
    signals = [-process.exitcode for process in ranks.processes if (process.exitcode or 0) < 0]
    killed = [number for number in signals if number != signal.SIGTERM]
    if not killed and isinstance(error, ProcessExitedException) and error.exit_code < 0:
        killed = [-error.exit_code]
    if killed:
        name = signal.Signals(killed[0]).name
        return UserError(
            f"One of the {len(ranks.processes)} training processes was ended from outside "
            f"({name}), as a system does that runs out of memory. Run the same again: it goes on "
            "from the last checkpoint; fewer --train-processes need less memory."
        )
    return error


def _messages(receiver: Connection) -> Iterator[Any]:
    try:
        while receiver.poll():
            yield receiver.recv()
    except (EOFError, OSError):
        return


def _rank(
    rank: int,
    processes: int,
    device: str,
    port: int,
    senders: Sequence[Connection],
    work: Work,
    arguments: tuple[Any, ...],
) -> None:
    """One of the processes; its own mistakes it tells to the parent."""
    die_with_parent()
    _quieten()
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    on_gpu = torch.device(device).type == "cuda"
    if sys.platform == "linux":  # All are on this machine, whatever its name resolves to.
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
    """Fabric for this process, float16 where it helps on CUDA.

    Environments are named, lest Fabric takes a cluster's job that it finds itself in for its own.
    """
    place = torch.device(device)
    on_gpu = place.type == "cuda"
    plugins: list[Any] = [MixedPrecision("16-mixed", "cuda") if on_gpu else Precision()]
    if processes == 1:
        plugins.append(LightningEnvironment())
        devices: Any = [place.index or 0] if on_gpu else 1
        return Fabric(accelerator=place.type, devices=devices, plugins=plugins)
    plugins.append(TorchElasticEnvironment())
    ddp = DDPStrategy()
    return Fabric(accelerator=place.type, devices=processes, strategy=ddp, plugins=plugins)


def _store(port: int, **how: Any) -> Any:
    """Where processes find each other's addresses: kept, or asked, at a port of this machine."""
    return distributed.TCPStore(_HOST, port, **how)  # type: ignore[attr-defined]


@contextmanager
def _shared_threads(processes: int) -> Iterator[None]:
    """Give processes started meanwhile their share of this one's threads."""
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
    """Keep libraries' chatter about processes out of the log."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    logging.getLogger(start_processes.__module__).setLevel(logging.ERROR)

"""One run by two hosts and a luigid, where one host dies or loses its network."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.recovery import kill_and_recover, wait_for_teacher
from benchmarks.torture import Pipeline
from benchmarks.two_hosts import (
    HOSTS,
    Network,
    NoNamespacesError,
    SharedRun,
    made,
    shared_run,
    two_hosts,
    wait_until,
)
from data.artifacts.store import sha256_of
from tests.support.worlds.forked_runs import ForkedSharedRun

LIMIT = 180.0
"""Seconds, three times what a recovery may take: a guard against hanging, no measurement."""


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Two linked hosts, gone at the end."""
    try:
        with two_hosts() as linked:
            yield linked
    except NoNamespacesError as error:
        pytest.skip(str(error))


@pytest.fixture
def run(network: Network, tmp_path: Path) -> Iterator[SharedRun]:
    """A shared folder; all processes are killed at the end."""
    with shared_run(network, tmp_path / "shared", ForkedSharedRun) as shared:
        yield shared
    assert not any(shared.processes(host) for host in ("head", *HOSTS))


def tasks_done(run: SharedRun) -> Counter[str]:
    """How often each task ended well, by its log, which both hosts write."""
    logs = sorted(run.output.rglob("logs/*/*.log"))
    ends = {f"{log.parent.name}/{log.name}": log.read_text().count(" done after ") for log in logs}
    return Counter(ends)


def check_outcome(run: SharedRun, untouched: Pipeline) -> None:
    """The shared output is that of one machine, whole, with nothing half-written or locked."""
    assert set(made(run.output)) == set(made(untouched.output)) and len(made(run.output)) > 20
    assert run.pipeline.digests() == untouched.digests() and len(untouched.digests()) > 200
    for folder, content in made(run.output).items():
        files = content["files"]
        assert isinstance(files, dict) and files
        for name, listed in files.items():
            assert sha256_of(run.output / folder / name) == listed["sha256"], f"{folder}/{name}"
    assert not run.pipeline.litter() and not run.locked() and not run.working()
    assert not any(run.processes(host) for host in HOSTS)


def finishes(run: SharedRun, check: Callable[[], bool], what: str) -> None:
    """Wait, and show what the hosts said where it was in vain."""
    try:
        wait_until(check, LIMIT, what)
    except TimeoutError as error:
        pytest.fail("\n".join([str(error), *(run.log(host)[-2000:] for host in HOSTS)]))


def test_one_of_two_hosts_is_killed_and_the_other_finishes(
    run: SharedRun, untouched: Pipeline
) -> None:
    run.start_luigid(worker_disconnect_delay="10")
    recovery = kill_and_recover(run)
    printed = run.log(recovery.left)
    assert recovery.code == 0, printed
    assert recovery.taken_up < LIMIT
    check_outcome(run, untouched)
    assert "Traceback" not in printed and "Traceback" not in run.log(recovery.lost)
    # Both took part, and each says who made what; the lost task's is the survivor's.
    makers = Counter(content["host"] for content in made(run.output).values())
    assert set(makers) == set(HOSTS)
    lost = [folder for folder in made(run.output) if folder.startswith(recovery.task)]
    assert [made(run.output)[folder]["host"] for folder in lost] == [recovery.left]
    assert len(tasks_done(run)) > 20 and set(tasks_done(run).values()) == {1}
    # Of the lost task, the view it was at, no more, was asked of the teacher again.
    again = Counter(run.pipeline.answered())
    assert len(again) == 12 and sum(again.values()) <= 12 + 1


def test_a_host_that_loses_its_network_and_returns_does_no_harm(
    run: SharedRun, untouched: Pipeline
) -> None:
    luigid = run.start_luigid(worker_disconnect_delay="4")
    workers = {host: run.start_worker(host) for host in HOSTS}
    lost, _ = wait_for_teacher(run)
    run.network.disconnect(lost)
    try:
        # Its tasks are given away although it lives: so long is the scheduler's patience.
        finishes(run, lambda: "marked as running by disconnected" in run.log("head"), "the loss")
        # A request that was under way may still be answered if the network returns in time.
        finishes(run, lambda: "does not answer" in run.log(lost), "the loss to be told")
    finally:
        run.network.connect(lost)
    codes = {host: worker.wait(timeout=LIMIT) for host, worker in workers.items()}
    printed = "".join(map(run.log, HOSTS))
    assert set(codes.values()) == {0}, printed
    assert luigid.poll() is None
    check_outcome(run, untouched)
    assert "Traceback" not in printed
    assert run.log(lost).count("does not answer") == 1
    assert run.log(lost).count("answers again") == 1
    # Nothing was made twice: whoever was given a task that is worked on waits for its lock.
    assert set(run.pipeline.answered().values()) == {1}


def namespaces() -> set[str]:
    """All of the machine's, by name."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in listed.stdout.splitlines()}


def test_nothing_stays_of_hosts_and_processes_when_something_goes_wrong(
    network: Network, tmp_path: Path
) -> None:
    before = namespaces()
    with pytest.raises(RuntimeError, match="on purpose"):
        with two_hosts() as other, shared_run(other, tmp_path / "run") as run:
            luigid = run.start_luigid()
            names = {other.name(host) for host in ("head", *HOSTS)}
            assert names <= namespaces() and not names & before
            wait_until(lambda: "starting up" in run.log("head"), LIMIT, "luigid")
            raise RuntimeError("on purpose")
    assert luigid.poll() is not None and not run.processes("head")
    assert not names & namespaces()

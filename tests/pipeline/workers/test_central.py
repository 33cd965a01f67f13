"""Workers of a central scheduler that is away, comes back, or takes them for dead."""

from __future__ import annotations

import http.server
import multiprocessing
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from luigi import configuration

from data.errors import UserError
from pipeline.plan import load_plan
from pipeline.process import slots
from pipeline.workers.scheduler import RetryingScheduler
from tests.support.cli import REPOSITORY, luigi
from tests.support.luigid import LIMIT, Luigid, luigid, wait_for

TASKS = "tests.support.central_tasks"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Luigid]:
    """A running luigid in the test's folder."""
    with luigid(tmp_path) as started:
        yield started


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_where_no_scheduler_is_one_message_says_so(tmp_path: Path) -> None:
    away = Luigid(tmp_path)
    printed = away.worker("GenerateRooms", "--scene-set", "demo").ended(code=40)
    assert printed.count("ERROR") == 1 and printed.count(away.url) == 1
    assert "no scheduler answers" in printed and "refused" in printed and "luigid.cfg" in printed
    assert not (tmp_path / "output").exists()


def test_something_else_that_answers_is_named(tmp_path: Path) -> None:
    class Greeter(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # noqa: N802
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello")

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Greeter) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        other = Luigid(tmp_path)
        other.url = f"http://127.0.0.1:{server.server_port}"
        printed = other.worker("GenerateRooms", "--scene-set", "demo").ended(code=40)
        server.shutdown()
    assert printed.count("ERROR") == 1 and "<html>hello" in printed


def test_a_worker_in_a_long_native_call_is_not_taken_for_dead(tmp_path: Path) -> None:
    patience = 8
    line = ["InOneNativeCall", "--folder", str(tmp_path), "--name", "call"]
    line += ["--seconds", str(patience + 6)]
    with luigid(tmp_path, worker_disconnect_delay=str(patience)) as daemon:
        workers = [daemon.worker(*line, module=TASKS) for _ in range(2)]
        for worker in workers:
            worker.ended()
        assert len(lines(tmp_path / "call.runs")) == 1
        assert "disconnected worker" not in daemon.log


def test_a_users_mistake_is_told_once_a_run_and_can_be_mended_at_once(
    daemon: Luigid, tmp_path: Path
) -> None:
    line = ("NeedsMistaken", "--folder", str(tmp_path), "--name", "after")
    workers = [daemon.worker(*line, module=TASKS) for _ in range(2)]
    printed = [worker.ended(code=30).partition("\nfailed:\n") for worker in workers]
    assert all(summary.count("the mistake of a user") == 1 for _, _, summary in printed)
    # Each command may ask for it once; luigid tries nothing again by itself. The second may ask
    # between the first's failure and its end: the first then runs it again and fails again.
    runs = [int(worker) for worker in lines(tmp_path / "mistaken.runs")]
    assert 1 <= len(runs) <= 2
    told = sorted(errors.count("the mistake of a user") for errors, _, _ in printed)
    assert told == ([1, 1] if len(set(runs)) == len(runs) else [1, 2])
    (tmp_path / "mended").touch()
    daemon.worker(*line, module=TASKS).ended()
    assert (tmp_path / "after.done").exists() and len(lines(tmp_path / "after.runs")) == 1


def test_a_scheduler_that_is_killed_and_started_anew_is_waited_for(
    daemon: Luigid, tmp_path: Path
) -> None:
    line = ("Link", "--folder", str(tmp_path), "--number", "5")
    workers = [daemon.worker(*line, module=TASKS) for _ in range(2)]
    wait_for(lambda: len(lines(tmp_path / "links")) == 2, LIMIT, "the second task")
    daemon.kill()
    time.sleep(4)
    assert not (tmp_path / "state").exists()
    daemon.start()
    printed = [worker.ended() for worker in workers]
    assert all(text.count("does not answer") == 1 for text in printed)
    assert all(text.count("answers again") == 1 for text in printed)
    # The chain is gone through once; the one at work when luigid was lost may be asked for again.
    assert sorted(set(lines(tmp_path / "links"))) == list("012345")
    assert len(lines(tmp_path / "links")) <= 7


def test_a_scheduler_that_stays_away_ends_the_run_with_one_message(
    daemon: Luigid, tmp_path: Path
) -> None:
    (tmp_path / "luigi.cfg").write_text("[core]\nrpc_retry_attempts=3\nrpc_retry_wait=1\n")
    line = ("Link", "--folder", str(tmp_path), "--number", "5")
    worker = daemon.worker(*line, module=TASKS)
    wait_for(lambda: bool(lines(tmp_path / "links")), LIMIT, "a task")
    daemon.kill()
    printed = worker.ended(code=40)
    assert printed.count("has not answered for 3 s") == 1 and printed.count("ERROR") == 1


def test_a_command_that_names_a_scheduler_uses_it(tmp_path: Path) -> None:
    run = luigi(tmp_path, "RunAll", "--scheduler-host", "localhost", "--local-scheduler", "--help")
    assert run.returncode == 0
    code = (
        "import sys; sys.argv += {!r}; import pipeline, luigi;"
        "c = luigi.configuration.get_config();"
        "print(c.getboolean('core', 'local_scheduler'), c.has_option('worker', 'keep_alive'))"
    )
    for arguments, expected in (
        ([], "True False"),
        (["--scheduler-host", "head"], "False True"),
        (["--scheduler-url=http://head:8082"], "False True"),
        (["--scheduler"], "True False"),
    ):
        line = [sys.executable, "-c", code.format(arguments)]
        env = {"PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.stdout.strip() == expected, done.stderr
    (tmp_path / "luigi.cfg").write_text("[core]\nscheduler_host=head\n")
    done = subprocess.run(
        [sys.executable, "-c", code.format([])],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "False True", done.stderr


class Line:
    """A fetcher that answers as told: True for luigid's answer, False for a refused connection."""

    raises = OSError

    def __init__(self) -> None:
        self.works, self.tries = True, 0

    def fetch(self, *_: Any) -> str:
        self.tries += 1
        if not self.works:
            raise ConnectionRefusedError(111, "Connection refused")
        return '{"response": {"rpc_messages": []}}'


def test_a_ping_is_tried_once_and_what_was_away_is_told_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scheduler, line = RetryingScheduler("http://head:8082"), Line()
    monkeypatch.setattr(scheduler, "_fetcher", line)
    ping = getattr(scheduler, "ping")  # noqa: B009  (Luigi makes it when it is imported)
    ping(worker="w")
    assert line.tries == 1 and not scheduler.was_away()
    line.works = False
    with pytest.raises(UserError, match="Connection refused"):
        ping(worker="w")
    assert line.tries == 2 and not scheduler.was_away()
    line.works = True
    ping(worker="w")
    assert scheduler.was_away() and not scheduler.was_away()
    # A machine that slept: no request failed, but luigid has not heard of it for long.
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 60)
    ping(worker="w")
    assert scheduler.was_away()


def _is_small() -> bool:
    return load_plan("demo", "", "teacher.name=lisa").experiment.teacher.is_small


def _hold(folder: str, seconds: float) -> None:
    with slots.teacher_slot(_is_small()):
        with open(Path(folder) / "held", "a") as file:
            file.write("in\n")
            file.flush()
            time.sleep(seconds)
            file.write("out\n")


@pytest.mark.parametrize(("allowed", "expected"), [(1, "in out in out"), (2, "in in out out")])
def test_big_teachers_share_a_machine_as_its_own_config_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: int, expected: str
) -> None:
    monkeypatch.setattr("pipeline.process.process.is_central", lambda: True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    config = configuration.get_config()
    name = slots._teacher_name()
    monkeypatch.setattr(config, "getintdict", lambda _: {name: allowed} if allowed > 1 else {})
    assert slots.teacher_resources(_is_small()) == {}
    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=_hold, args=(str(tmp_path), 2.0)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(LIMIT)
    assert " ".join(lines(tmp_path / "held")) == expected

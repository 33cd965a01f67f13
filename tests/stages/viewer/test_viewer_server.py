"""The viewer's server: who it listens to, and what it never does."""

from __future__ import annotations

import ast
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

pytest.importorskip("viser")

import viser  # noqa: E402
import viser.theme  # noqa: E402
from websockets.datastructures import Headers  # noqa: E402
from websockets.exceptions import InvalidStatus  # noqa: E402
from websockets.sync.client import connect  # noqa: E402
from websockets.typing import Origin, Subprotocol  # noqa: E402

from data.errors import UserError  # noqa: E402
from stages.viewer.server import refusal  # noqa: E402
from stages.viewer.server import HOST, open_server  # noqa: E402
from tests.support.cli import REPOSITORY  # noqa: E402


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    opened = open_server("title")
    yield opened
    opened.stop()


def _listening() -> dict[int, set[str]]:
    """IPv4 addresses that listen on this machine, as the kernel tells them, by port."""
    found: dict[int, set[str]] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path(table).read_text().splitlines()[1:]:
                local, state = line.split()[1], line.split()[3]
                if state == "0A":
                    address, port = local.split(":")
                    found.setdefault(int(port, 16), set()).add(address)
    return found


def test_it_binds_to_this_machine_alone(server: Any) -> None:
    assert server.get_host() == HOST == "127.0.0.1"
    assert _listening()[server.get_port()] == {"0100007F"}, "127.0.0.1 and nothing else"


def _socket(server: Any, origin: str | None, host: str = "") -> Any:
    port = server.get_port()
    return connect(
        f"ws://{host or HOST}:{port}",
        sock=socket.create_connection((HOST, port)),
        origin=None if origin is None else Origin(origin.format(port=port)),
        subprotocols=[Subprotocol(f"viser-v{viser.__version__}")],
    )


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_the_page_itself_may_connect(server: Any, name: str) -> None:
    with _socket(server, f"http://{name}:{{port}}", name) as connected:
        assert len(connected.recv(timeout=20)) > 16


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://evil.example", ""),
        ("http://evil.example:{port}", ""),
        ("https://127.0.0.1:{port}", ""),
        ("http://127.0.0.1:1", ""),
        ("http://127.0.0.1", ""),
        ("http://localhost:{port}", ""),
        ("http://127.0.0.1:{port}.evil.example", ""),
        ("null", ""),
        (None, ""),
        ("http://evil.example:{port}", "evil.example"),
    ],
)
def test_a_foreign_origin_is_refused(server: Any, origin: str | None, host: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        _socket(server, origin, host)
    assert refused.value.response.status_code == 403


def test_other_names_of_this_machine_get_no_page(server: Any) -> None:
    address = f"http://{HOST}:{server.get_port()}/"
    with urlopen(address, timeout=20) as page:
        assert page.status == 200 and "frame-ancestors 'none'" in page.headers.get(
            "Content-Security-Policy"
        )
    with pytest.raises(HTTPError, match="403"):
        urlopen(Request(address, headers={"Host": "evil.example"}), timeout=20)


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ([("Host", "127.0.0.1:8080")], ""),
        ([("Host", "localhost:9"), ("Origin", "http://localhost:9")], ""),
        ([], "answers to"),
        ([("Host", "127.0.0.1.evil.example:80")], "answers to"),
        ([("Host", "127.0.0.1:80"), ("Host", "evil.example:80")], "answers to"),
        ([("Host", "localhost:9"), ("Upgrade", "WebSocket")], "without Origin"),
        (
            [("Host", "localhost:9"), ("Origin", "http://localhost:9"), ("Origin", "http://e")],
            "another origin",
        ),
    ],
)
def test_requests_by_their_headers(headers: list[tuple[str, str]], told: str) -> None:
    reason = refusal(Headers(headers))
    assert told in reason and bool(reason) == bool(told)


def test_nothing_is_shared(server: Any) -> None:
    assert server.request_share_url() is None
    themes = [
        message
        for message in server._websock_server._broadcast_buffer.message_from_id.values()
        if type(message).__name__ == "ThemeConfigurationMessage"
    ]
    assert themes and not themes[-1].show_share_button and not themes[-1].show_logo


def test_a_port_that_is_taken_is_told_and_the_usual_one_gives_way(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="--port: .* cannot be used"):
        open_server("title", server.get_port())
    monkeypatch.setattr("stages.viewer.server.DEFAULT_PORT", server.get_port())
    other = open_server("title")
    try:
        assert other.get_port() not in (0, server.get_port())
    finally:
        other.stop()


def test_a_viser_whose_requests_cannot_be_checked_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @contextlib.contextmanager
    def unseen() -> Iterator[list[str]]:
        yield []

    monkeypatch.setattr("stages.viewer.server._checking_requests", unseen)
    with pytest.raises(UserError, match="cannot be checked"):
        open_server("title")


def test_no_element_that_runs_what_stands_in_it_is_used() -> None:
    files = list((REPOSITORY / "stages" / "viewer").glob("*.py"))
    names = {
        node.attr
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute)
    }
    assert "add_text" in names and len(files) > 5
    raw = {"add_markdown", "add_html", "add_plotly", "add_uplot", "add_3d_gui_container"}
    assert not raw & names

"""A viser server that only this machine's own page can talk to.

Viser listens on all addresses unless told otherwise, takes a websocket from any site that the
user's browser has open, and can publish itself through a tunnel of its makers'. Here it binds to
127.0.0.1, every request is checked before viser sees it, and no tunnel can be asked for.

The check: the Host must be this machine by name or loopback address, which keeps out names of
others that are made to point here (DNS rebinding); an Origin, which browsers send with every
websocket, must be the page's own.
"""

from __future__ import annotations

import contextlib
import io
import socket
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import viser
import websockets.asyncio.server
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from data.errors import UserError

HOST = "127.0.0.1"
DEFAULT_PORT = 8080
_NAMES = (HOST, "localhost")
_POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; "
    "connect-src 'self' data: blob: ws://127.0.0.1:* ws://localhost:*; "
    "frame-ancestors 'none'; form-action 'none'; base-uri 'none'"
)
Handler = Callable[[Any, Request], Response | None]


class LocalServer(viser.ViserServer):  # type: ignore[misc]
    """A viser server without its makers' tunnel, whatever a page asks for."""

    def request_share_url(self, verbose: bool = True) -> None:
        """Share nothing."""

    def stop(self) -> None:
        """Stop listening, without viser's remark about it."""
        with contextlib.redirect_stdout(io.StringIO()):
            super().stop()


def open_server(title: str, port: int | None = None) -> LocalServer:
    """A server on 127.0.0.1, on ``port`` or else on 8080 or, where that is taken, a free one.

    Raises UserError for a port that is taken or not to be had, and for a viser that is unknown.
    """
    chosen = _free(DEFAULT_PORT) or _free(0) if port is None else _free(port)
    if not chosen:
        raise UserError(
            f"--port: {port} cannot be had on {HOST}: another program has it, or it needs more "
            "rights. Give another one from 1024 to 65535, or none"
        )
    # Viser prints its address in a box of its own; the command prints it with what to do there.
    with _checking_requests() as hosts, contextlib.redirect_stdout(io.StringIO()):
        server = LocalServer(host=HOST, port=chosen, label=title, verbose=False)
    if hosts != [HOST] or server.get_host() != HOST:
        server.stop()
        raise UserError(
            f"viser {viser.__version__} starts its server in a way that is not known here, so its "
            "requests cannot be checked: pip install viser==1.1.1"
        )
    server.gui.configure_theme(
        dark_mode=True, show_logo=False, show_share_button=False, control_width="large"
    )
    return server


def _free(port: int) -> int:
    """``port``, or a free one for 0, if it can be bound; else 0. Viser would try the next ones."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError):
            return 0
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _checking_requests() -> Iterator[list[str]]:
    """Servers that start meanwhile check each request first; gives the hosts they bind to.

    Viser has no hook for it: it hands its own ``process_request`` to ``websockets``.
    """
    module: Any = websockets.asyncio.server
    original, hosts = module.serve, list[str]()

    def serve(
        handler: Any, host: str, port: int, *, process_request: Handler, **options: Any
    ) -> Any:
        hosts.append(host)
        return original(handler, host, port, process_request=checked(process_request), **options)

    module.serve = serve
    try:
        yield hosts
    finally:
        module.serve = original


def checked(answer: Handler) -> Handler:
    """``answer`` for requests of this machine's own page; the others are refused."""

    def process(connection: Any, request: Request) -> Response | None:
        reason = refusal(request.headers)
        if reason:
            body = f"refused: {reason}\n".encode()
            told = Headers({"Content-Type": "text/plain", "Content-Length": str(len(body))})
            return Response(HTTPStatus.FORBIDDEN, "Forbidden", told, body)
        response = answer(connection, request)
        if response is not None:
            response.headers["Content-Security-Policy"] = _POLICY
            response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    return process


def refusal(headers: Headers) -> str:
    """Why a request is refused; "" where it comes from the page itself, or opens it."""
    hosts, origins = headers.get_all("Host"), headers.get_all("Origin")
    if len(hosts) != 1 or hosts[0].rpartition(":")[0] not in _NAMES:
        return "this server answers to 127.0.0.1 and localhost alone"
    if not origins and headers.get_all("Upgrade"):
        return "a websocket without Origin"
    if any(origin != f"http://{hosts[0]}" for origin in origins):
        return "a page of another origin"
    return ""

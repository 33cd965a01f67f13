"""A viser server that only its own page on this machine can use.

By default viser listens on all addresses, accepts websockets from any site in the user's browser,
and can publish itself through a tunnel of its makers. This server binds to 127.0.0.1, checks every
request before viser handles it, and refuses the tunnel.

The check: the Host must name this machine or its loopback address, which prevents DNS rebinding;
an Origin, which browsers send with every websocket, must be the page's own.
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
    """A viser server that never opens the tunnel of viser's makers."""

    def request_share_url(self, verbose: bool = True) -> None:
        """Do nothing: the page is not shared."""

    def stop(self) -> None:
        """Stop listening, without viser's message."""
        with contextlib.redirect_stdout(io.StringIO()):
            super().stop()


def open_server(title: str, port: int | None = None) -> LocalServer:
    """Start a server on 127.0.0.1, on ``port``, else on 8080 or, where it is taken, a free port.

    Raises UserError for a port that cannot be bound and for a viser version whose requests cannot
    be checked.
    """
    chosen = _free(DEFAULT_PORT) or _free(0) if port is None else _free(port)
    if not chosen:
        raise UserError(
            f"--port: {port} cannot be used on {HOST}: another program uses it, or it needs more "
            "rights. Give another port from 1024 to 65535, or none"
        )
    # Viser prints its address in a box of its own; the command prints it with what to do there.
    with _checking_requests() as hosts, contextlib.redirect_stdout(io.StringIO()):
        server = LocalServer(host=HOST, port=chosen, label=title, verbose=False)
    if hosts != [HOST] or server.get_host() != HOST:
        server.stop()
        raise UserError(
            f"viser {viser.__version__} starts its server in an unknown way, so its "
            "requests cannot be checked: pip install viser==1.1.1"
        )
    server.gui.configure_theme(
        dark_mode=True, show_logo=False, show_share_button=False, control_width="large"
    )
    return server


def _free(port: int) -> int:
    """Return ``port``, or a free port for 0, if it can be bound; else 0. Viser would try others."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError):
            return 0
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _checking_requests() -> Iterator[list[str]]:
    """Check each request of the servers started in the block; yields the hosts they bind to.

    Viser has no hook for this: it passes its own ``process_request`` to ``websockets``.
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
    """Wrap ``answer`` such that only requests of this machine's own page reach it."""

    def process(connection: Any, request: Request) -> Response | None:
        reason = refusal(request.headers)
        if reason:
            body = f"refused: {reason}\n".encode()
            headers = Headers({"Content-Type": "text/plain", "Content-Length": str(len(body))})
            return Response(HTTPStatus.FORBIDDEN, "Forbidden", headers, body)
        response = answer(connection, request)
        if response is not None:
            response.headers["Content-Security-Policy"] = _POLICY
            response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    return process


def refusal(headers: Headers) -> str:
    """Return the reason to refuse a request; "" for a request of the page itself."""
    hosts, origins = headers.get_all("Host"), headers.get_all("Origin")
    if len(hosts) != 1 or hosts[0].rpartition(":")[0] not in _NAMES:
        return "this server answers to 127.0.0.1 and localhost alone"
    if not origins and headers.get_all("Upgrade"):
        return "a websocket without Origin"
    if any(origin != f"http://{hosts[0]}" for origin in origins):
        return "a page of another origin"
    return ""

"""``python -m pipeline view``: a run in 3D in the browser, which takes new queries."""

from __future__ import annotations

import importlib.util
import signal
import threading
import webbrowser
from argparse import ArgumentParser, ArgumentTypeError, Namespace

from data.errors import UserError
from pipeline.command import Command

_PORTS = range(1, 65536)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) not in _PORTS:
        raise ArgumentTypeError(f"expected a port from 1 to 65535, found {text!r}")
    return int(text)


def _add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--scene-set", required=True, help="a file in configs/scene_sets, or the path of one")
    add("--config", default="", help="a file in configs/experiments, or the path of one")
    add("--overrides", default="", help="key=value,key=value, as they were run")
    add("--port", type=_port, help="on 127.0.0.1; default: 8080, or a free one where it is taken")
    add("--no-browser", action="store_true", help="only print the address")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto")


def _view(options: Namespace) -> None:
    """Serve until Ctrl-C; UserError where nothing of the set was run or viser is missing."""
    if importlib.util.find_spec("viser") is None:
        raise UserError("the viewer needs viser: pip install -e .[view]")
    from pipeline.plan import load_plan
    from pipeline.process import limit_threads, num_cores
    from pipeline.viewed_run import viewed_run

    plan = load_plan(options.scene_set, options.config, options.overrides)
    run = viewed_run(plan, options.device)
    limit_threads(num_cores())

    from stages.viewer.page import Page
    from stages.viewer.server import HOST, open_server

    for ending in (signal.SIGINT, signal.SIGTERM):  # A shell's background jobs ignore the first.
        signal.signal(ending, signal.default_int_handler)
    server = open_server(run.title, options.port)
    try:
        page = Page(server, run)
        address = f"http://{HOST}:{server.get_port()}"
        print(f"{run.title}: {address} (Ctrl-C ends it)", flush=True)
        page.start()
        if not options.no_browser:
            webbrowser.open(address)
        threading.Event().wait()
    except KeyboardInterrupt:
        page.close()
        print("\nended")
    finally:
        server.stop()


VIEW = Command("see a run in 3D in the browser and ask it", _add_arguments, _view)

"""A local S3 server behind a proxy that fails, drops and delays requests on demand."""

from __future__ import annotations

import http.client
import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "caches"
CACHE = f"s3://{BUCKET}/runs"
_HOP = {"connection", "expect", "transfer-encoding", "content-length", "date", "server"}


@dataclass
class Fault:
    """The fate of the next ``times`` requests of a method whose path matches a pattern.

    After ``seconds`` the proxy answers with ``status``, or closes the connection for "drop"; with
    neither the request reaches the store.
    """

    method: str
    pattern: str
    status: int | str | None = None
    times: int = 10**9
    seconds: float = 0.0

    def takes(self, method: str, path: str) -> bool:
        """Tell whether a request matches, and count it."""
        if method != self.method or not self.times or not re.search(self.pattern, path):
            return False
        self.times -= 1
        return True


@dataclass
class FaultyStore:
    """The store: ``requests`` received in order, and ``faults`` still to apply."""

    address: str
    client: Any
    requests: list[tuple[str, str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        """Variables for AWS's tools: this store, invented credentials, no home folder."""
        return {
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def paths(self, method: str, pattern: str = "") -> list[str]:
        """Return the paths of the requests of a method that match a pattern, in order."""
        return [path for one, path in self.requests if one == method and re.search(pattern, path)]

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Return all objects of the bucket below a prefix, without the proxy."""
        return {name: self.get(name) for name in self.names(prefix)}

    def names(self, prefix: str = "") -> list[str]:
        """Return the names of all objects of the bucket below a prefix, without the proxy."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [one["Key"] for page in pages for one in page.get("Contents", [])]

    def get(self, name: str) -> bytes:
        """Read one object without the proxy."""
        return bytes(self.client.get_object(Bucket=BUCKET, Key=name)["Body"].read())

    def put(self, name: str, content: bytes) -> None:
        """Put an object as another host would."""
        self.client.put_object(Bucket=BUCKET, Key=name, Body=content)

    def delete(self, name: str) -> None:
        """Delete an object as another host would."""
        self.client.delete_object(Bucket=BUCKET, Key=name)

    def clear(self) -> None:
        """Remove objects, recorded requests and faults."""
        self.faults.clear()
        names = [{"Key": name} for name in self.names()]
        if names:
            self.client.delete_objects(Bucket=BUCKET, Delete={"Objects": names})
        self.requests.clear()


@contextmanager
def faulty_store() -> Iterator[FaultyStore]:
    """A running store with an empty bucket ``BUCKET``."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="nobody",
        aws_secret_access_key="nothing",
    )
    client.create_bucket(Bucket=BUCKET)
    store = FaultyStore("", client)
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), _handler(store, host, port))
    proxy.daemon_threads = True
    store.address = f"http://127.0.0.1:{proxy.server_address[1]}"
    threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield store
    finally:
        proxy.shutdown()
        proxy.server_close()
        server.stop()


def _handler(store: FaultyStore, host: str, port: int) -> type[BaseHTTPRequestHandler]:
    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            store.requests.append((self.command, self.path))
            fault = next((f for f in store.faults if f.takes(self.command, self.path)), None)
            if fault is not None:
                time.sleep(fault.seconds)
                if fault.status == "drop":
                    self.close_connection = True
                    self.connection.close()
                    return
                if isinstance(fault.status, int):
                    text = b"<Error><Code>InternalError</Code><Message>made up</Message></Error>"
                    self._answer(fault.status, [], text)
                    return
            upstream = http.client.HTTPConnection(host, port)
            kept = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
            upstream.request(self.command, self.path, body, kept)
            found = upstream.getresponse()
            self._answer(found.status, found.getheaders(), found.read())
            upstream.close()

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response(status)
            length = dict(headers).get("Content-Length") if self.command == "HEAD" else None
            for name, value in headers:
                if name.lower() not in _HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", length or str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _forward

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:  # The client gave up waiting, or the connection was dropped.
                return

        def log_message(self, *_: Any) -> None:
            return

    return Proxy

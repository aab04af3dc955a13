"""A proxy on loopback that notes what is asked of a server, and spoils answers as it is told."""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from tests.servers import QuietHandler, served

BREAKS = ("503", "500", "reset", "truncate")


class Request(NamedTuple):
    """A request, and what became of it.

    Attributes:
        method: GET, PUT, ...
        path: without the query, unquoted.
        range: (start, stop) in bytes of the range asked for; None for the whole.
        sent: bytes of the answer's body that were sent.
        how: the status, or how the answer was spoilt.
    """

    method: str
    path: str
    range: tuple[int, int] | None
    sent: int
    how: str


class Proxy:
    """Settings and notes of a proxy; the settings hold from the next request on.

    Attributes:
        url: where it listens.
        upstream: the server's host and port.
        requests: all so far, in the order of their answers; noted before they are sent.
        spoil: given (method, path), how to spoil the answer: one of BREAKS, or None.
        latency: seconds before each answer, by the request's number.
        down: whether it breaks every connection.
    """

    def __init__(self, upstream: str) -> None:
        self.url = ""
        self.upstream = upstream
        self.requests: list[Request] = []
        self.spoil: Callable[[str, str], str | None] = lambda method, path: None
        self.latency: Callable[[int], float] = lambda number: 0
        self.down = False

    def gets(self, suffix: str = "") -> list[Request]:
        """The requests for objects whose keys end so."""
        return [request for request in self.requests if request.method == "GET" and request.path.endswith(suffix)]


@contextmanager
def proxied(url: str) -> Iterator[Proxy]:
    """A proxy in a thread of this process, before the server at ``url``."""
    proxy = Proxy(urlsplit(url).netloc)

    class Handler(QuietHandler):
        def handle_all(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            time.sleep(proxy.latency(len(proxy.requests)))
            how = "reset" if proxy.down else proxy.spoil(self.command, self.key)
            if how == "reset":
                self.reset()
            elif how in ("500", "503"):
                self.note(0, how)
                self.answer(int(how), b"<Error><Code>InternalError</Code></Error>")
            else:
                self.forward(data, how)

        @property
        def key(self) -> str:
            return unquote(urlsplit(self.path).path)

        def note(self, sent: int, how: str) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            bounds = (int(asked[1]), int(asked[2]) + 1) if asked else None
            proxy.requests.append(Request(self.command, self.key, bounds, sent, how))

        def forward(self, data: bytes, how: str | None) -> None:
            connection = HTTPConnection(proxy.upstream, timeout=60)
            try:
                connection.request(self.command, self.path, data, dict(self.headers))
                answer = connection.getresponse()
                body = answer.read()
            except OSError:
                self.reset()
                return
            finally:
                connection.close()
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(body))
            if how == "truncate" and body:
                body = body[: len(body) // 2]
                self.close_connection = True
            else:
                how = str(answer.status)
            self.note(len(body), how)  # before the client can know of it
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            if length is not None:
                self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(body)

        def reset(self) -> None:
            self.note(0, "reset")
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_all  # noqa: N815

    with served(Handler) as proxy.url:
        yield proxy

"""A tiny HTTP server that answers as it is told: what clients make of errors, silence and nonsense."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DROP = "drop"
"""Close the connection without an answer."""


@dataclass
class Scripted:
    """Answers by path, each list from its first on, the last one for ever: (status, JSON), DROP, or seconds to wait."""

    replies: dict[str, list[Any]]
    url: str = ""
    asked: list[str] = field(default_factory=list)

    def next(self, path: str) -> Any:
        self.asked.append(path)
        left = self.replies.get(path, [(404, {"error": "no such route"})])
        return left.pop(0) if len(left) > 1 else left[0]


@contextmanager
def scripted(**replies: list[Any]) -> Iterator[Scripted]:
    """A running server; `replies` by path, with "__" for "/": scripted(version=[...], v1__models=[...])."""
    script = Scripted({f"/{name.replace('__', '/')}": given for name, given in replies.items()})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            reply = script.next(self.path.partition("?")[0])
            if isinstance(reply, float):
                time.sleep(reply)
                reply = DROP
            if reply == DROP:
                self.close_connection = True
                return
            status, body = reply
            sent = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

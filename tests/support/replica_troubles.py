"""A replica that misbehaves by the path that is called; standard library only.

`echo` answers with the body, `fail` with 500 and a message, and `slow` not before its caller has
gone.
"""

from __future__ import annotations

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_MESSAGE = "the weights of layer 7 are all zero"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(200, b"{}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            json.loads(body)
        except ValueError:
            self._answer(400, json.dumps({"detail": "the body is not JSON"}).encode())
            return
        if self.path == "/fail":
            self._answer(500, json.dumps({"detail": _MESSAGE}).encode())
        elif self.path == "/slow":
            # Ends when the router closes the connection.
            self.rfile.read(1)
            self.close_connection = True
        else:
            self._answer(200, body)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()

"""The replica of the test image: serves HTTP, tells what it may do, or misbehaves on purpose.

Standard library only, run in the image as `python3 /opt/replica.py WHAT`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    status = 200

    def do_GET(self) -> None:
        if self.path == "/ready":
            self._answer(self.status, {"ready": self.status == 200})
        elif self.path == "/facts":
            self._answer(200, facts())
        elif self.path == "/network":
            self._answer(200, network())
        else:
            self._answer(404, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self._answer(200, {"echo": json.loads(body)})

    def log_message(self, *_: object) -> None:
        print(f"request: {self.path}", flush=True)

    def _answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def facts() -> dict[str, object]:
    """What the container lets this process do."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "uid": os.getuid(),
        "gid": os.getgid(),
        "groups": os.getgroups(),
        "capabilities": status["CapEff"].strip(),
        "bounding": status["CapBnd"].strip(),
        "no_new_privileges": status["NoNewPrivs"].strip(),
        "env": dict(os.environ),
        "writable": [p for p in WRITE_TARGETS if try_write(p)],
        "routes": [line.split()[:2] for line in Path("/proc/net/route").read_text().splitlines()],
        "mounts": [line.split()[:4] for line in Path("/proc/mounts").read_text().splitlines()],
        "files": {p: read_tree(p) for p in ("/data", "/scratch") if Path(p).is_dir()},
    }


WRITE_TARGETS = (
    "/", "/etc", "/usr", "/opt", "/root", "/var", "/home", "/dev", "/sys", "/proc/sys/kernel",
    "/tmp", "/var/tmp", "/run", "/dev/shm", "/data", "/scratch",
)  # fmt: skip


def try_write(folder: str) -> bool:
    """Whether a file can be made in a folder."""
    try:
        path = Path(folder, "podbay-was-here")
        path.write_text("x")
        path.unlink()
    except OSError:
        return False
    return True


def read_tree(folder: str) -> dict[str, str]:
    """The files below a folder, with their beginnings."""
    return {
        str(path.relative_to(folder)): path.read_text(errors="replace")[:100]
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def try_connect(host: str, port: int) -> str:
    """What comes of a TCP connection."""
    try:
        with socket.create_connection((host, port), timeout=2):
            return "connected"
    except OSError as error:
        return f"{type(error).__name__}: {error}"


def try_resolve(name: str) -> str:
    """What comes of a look-up."""
    try:
        return f"resolved: {socket.gethostbyname(name)}"
    except OSError as error:
        return f"{type(error).__name__}: {error}"


def target() -> tuple[str, int]:
    """The address outside that a test listens on."""
    host, _, port = os.environ.get("TEST_OUTSIDE", "192.0.2.77:9").rpartition(":")
    return host, int(port)


def network() -> dict[str, object]:
    """What comes of reaching out."""
    begun = time.monotonic()
    name = try_resolve("outside.invalid")
    return {
        "name": name,
        "nameSeconds": time.monotonic() - begun,
        "outside": try_connect(*target()),
        "metadata": try_connect("169.254.169.254", 80),
    }


def serve(status: int = 200) -> None:
    """Serve until asked to end."""
    Handler.status = status
    port = int(os.environ["PORT"])
    server = ThreadingHTTPServer(("0.0.0.0", port), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"serving on {port}", flush=True)
    server.serve_forever()
    print("stopping", flush=True)


def hog() -> None:
    """Take memory until there is none."""
    held = []
    while True:
        held.append(b"x" * (8 << 20))
        time.sleep(0.001)


def bomb() -> None:
    """Fork for ever, in every child too."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.01)


def flood() -> None:
    """Write to the log as fast as it takes it."""
    line = b"y" * 1000 + b"\n"
    number = 0
    while True:
        os.write(1, b"%d " % number + line)
        number += 1


def fill() -> None:
    """Write everywhere until nothing takes any more, then go on serving."""
    for folder in WRITE_TARGETS:
        for number in range(1 << 20):
            with contextlib.suppress(OSError):
                with Path(folder, f"fill{number}").open("wb") as file:
                    while True:
                        file.write(b"z" * (1 << 20))
                continue
            break
        try:
            written = sum(p.stat().st_size for p in Path(folder).glob("fill*"))
            print(f"wrote {written} to {folder}", flush=True)
        except OSError:
            continue
    serve()


def ignore_term() -> None:
    """Serve, and do not end when asked."""
    print("ignoring", flush=True)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(0.05)


def main() -> None:
    """Do what the first argument says."""
    what = sys.argv[1] if len(sys.argv) > 1 else "serve"
    if what == "broken":
        importlib.import_module("no_such_module_here")
    if what == "sick":
        serve(500)
    if what == "deaf":
        time.sleep(1000)
    {
        "serve": serve,
        "hog": hog,
        "bomb": bomb,
        "flood": flood,
        "fill": fill,
        "ignore-term": ignore_term,
    }[what]()


if __name__ == "__main__":
    main()

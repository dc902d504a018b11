"""A small Hugging Face Hub, and a small Git server with large files, on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

__all__ = ["GitServer", "HubServer", "make_repository"]

_LARGE = 100_000


class _Server:
    """An HTTP server in a thread."""

    def __init__(self) -> None:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 # the base class's
                pass

            def do_GET(self) -> None:
                owner.answer(self)

            do_HEAD = do_GET  # noqa: N815 # http.server's
            do_POST = do_GET  # noqa: N815 # the same

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, request: Any) -> None:
        raise NotImplementedError


def _send(request: Any, status: int, body: bytes = b"", **headers: str) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)


@dataclass
class HubServer(_Server):
    """A hub with repositories.

    Attributes:
        files: The files of the one commit of each repository.
        broken: A status that all requests get instead; 0 for none.
        gated: The token that repositories need; empty for none.
        spoiled: Paths of files whose bytes are wrong.
        gate: Files are sent only while it is set.
    """

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    broken: int = 0
    gated: str = ""
    spoiled: set[str] = field(default_factory=set)
    gate: threading.Event = field(default_factory=threading.Event)
    commit: str = "c" * 40

    def __post_init__(self) -> None:
        super().__init__()
        self.gate.set()
        self.asked: list[str] = []
        self.sent = 0

    def answer(self, request: Any) -> None:
        path = unquote(urlsplit(request.path).path)
        self.asked.append(f"{request.command} {path}")
        if self.broken:
            _send(request, self.broken, b"broken")
            return
        if self.gated and request.headers.get("Authorization") != f"Bearer {self.gated}":
            _send(request, 403, b"{}", X_Error_Code="GatedRepo", X_Error_Message="gated")
            return
        repo = next((r for r in self.files if f"/{r}/" in f"{path}/"), None)
        if repo is None:
            _send(request, 404, b"{}", X_Error_Code="RepoNotFound")
            return
        head, _, rest = path.partition(f"/{repo}")
        if head == "/api/models":
            self._api(request, repo, rest)
        else:
            self._resolve(request, repo, rest)

    def _api(self, request: Any, repo: str, rest: str) -> None:
        _, kind, revision, *_more = [*rest.split("/", 2), "", ""]
        if kind and revision not in ("main", self.commit):
            _send(request, 404, b"{}", X_Error_Code="RevisionNotFound")
            return
        body: Any = {"id": repo, "sha": self.commit, "siblings": []}
        if kind == "tree":
            body = [_entry(path, data) for path, data in self.files[repo].items()]
        _send(request, 200, json.dumps(body).encode(), Content_Type="application/json")

    def _resolve(self, request: Any, repo: str, rest: str) -> None:
        path = rest.partition(f"/resolve/{self.commit}/")[2]
        data = self.files[repo].get(path)
        if data is None:
            _send(request, 404, b"{}", X_Error_Code="EntryNotFound")
            return
        entry = _entry(path, data)
        etag = entry.get("lfs", {}).get("oid") or entry["oid"]
        if path in self.spoiled:
            data = bytes(len(data))
        start, _, _ = request.headers.get("Range", "bytes=0-").partition("=")[2].partition("-")
        if request.command == "GET":
            self.gate.wait(60)
            self.sent += len(data) - int(start)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.commit, "Accept-Ranges": "bytes"}
        if "Range" in request.headers:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            _send(request, 206, data[int(start) :], **headers)
        else:
            _send(request, 200, data, **headers)


def _entry(path: str, data: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(f"blob {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": oid}
    if len(data) >= _LARGE:
        digest = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 134}
    return entry


def make_repository(folder: Path, files: Mapping[str, bytes]) -> str:
    """Make a repository whose `*.bin` are large files; return its commit."""
    folder.mkdir(parents=True)
    environment = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@example.com",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@example.com",
    }

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, env=environment, check=True, capture_output=True
        )
        return done.stdout.decode()

    git("init", "-q", "-b", "main", ".")
    git("lfs", "install", "--local")
    git("lfs", "track", "*.bin")
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    (folder / "link").symlink_to("/etc/hostname")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    git("config", "uploadpack.allowReachableSHA1InWant", "true")
    git("config", "http.receivepack", "false")
    return git("rev-parse", "HEAD").strip()


class GitServer(_Server):
    """Serves the repositories below a folder by git's own program, and their large files.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root
        self.without: set[str] = set()
        """Large files that it has lost."""

    def answer(self, request: Any) -> None:
        url = urlsplit(request.path)
        size = int(request.headers.get("Content-Length") or 0)
        body = request.rfile.read(size)
        name, _, rest = url.path.removeprefix("/").partition(".git")
        repository = self._root / name
        if request.headers.get("Transfer-Encoding") == "chunked":
            body = _chunked(request.rfile)
        if rest.startswith("/info/lfs/objects/batch"):
            self._batch(request, name, json.loads(body))
        elif rest.startswith("/lfs/"):
            oid = rest.rpartition("/")[2]
            _send(request, 200, self._large(repository, oid).read_bytes())
        elif not repository.is_dir():
            _send(request, 404, b"Repository not found")
        else:
            self._backend(request, url, name, rest, body)

    def _large(self, repository: Path, oid: str) -> Path:
        return repository / ".git/lfs/objects" / oid[:2] / oid[2:4] / oid

    def _batch(self, request: Any, name: str, asked: Any) -> None:
        objects = []
        for each in asked["objects"]:
            if each["oid"] in self.without:
                error = {"code": 404, "message": "Object does not exist"}
                objects.append({**each, "error": error})
                continue
            href = f"{self.address}/{name}.git/lfs/{each['oid']}"
            objects.append({**each, "actions": {"download": {"href": href}}})
        answer = json.dumps({"transfer": "basic", "objects": objects}).encode()
        _send(request, 200, answer, Content_Type="application/vnd.git-lfs+json")

    def _backend(self, request: Any, url: Any, name: str, rest: str, body: bytes) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self._root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "PATH_INFO": f"/{name}/.git{rest}",
            "QUERY_STRING": url.query,
            "REQUEST_METHOD": request.command,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
            "HTTP_GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
            "REMOTE_ADDR": "127.0.0.1",
        }
        done = subprocess.run(
            ["git", "http-backend"], input=body, env=environment, capture_output=True, check=False
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers, status = {}, 200
        for line in head.decode().splitlines():
            key, _, value = line.partition(": ")
            if key == "Status":
                status = int(value.split()[0])
            else:
                headers[key] = value
        _send(request, status, content, **headers)


def _chunked(file: Any) -> bytes:
    body = b""
    while size := int(file.readline(), 16):
        body += file.read(size)
        file.readline()
    file.readline()
    return body

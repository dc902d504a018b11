"""One HTTP request and its answer, over the ASGI interface."""

import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from podbay_kit.replica_server.answers import JSON, encode_json

__all__ = ["Exchange", "RefusedError"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class RefusedError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: The HTTP status.
        detail: What happened, for whoever sent the request.
        reason: A reason of the project's catalogue, or None.
        headers: Further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        reason: str | None = None,
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.reason = reason
        self.headers = tuple(headers)


class Exchange:
    """One request and its answer.

    Attributes:
        started: Whether the answer's status was sent: from then on no other can be.
        method: The HTTP method.
        path: The decoded path.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self.started = False
        self.method: str = scope["method"]
        self.path: str = scope["path"]

    def headers(self, name: bytes) -> list[bytes]:
        """Give the values of the header `name` (lower case)."""
        return [value for key, value in self._scope["headers"] if key == name]

    async def read_json(self, limit: int) -> object:
        """Read the whole body as JSON.

        Args:
            limit: The most bytes that are taken.

        Raises:
            RefusedError: If the body is larger, or not JSON.
            ConnectionResetError: If the client left before it had sent everything.
        """
        body = await self._read(limit)
        try:
            return json.loads(body)
        except json.JSONDecodeError as error:
            problem = f"{error.msg} at line {error.lineno}, column {error.colno}"
        except UnicodeDecodeError as error:
            problem = f"not {error.encoding.upper()} at byte {error.start}"
        except RecursionError:
            problem = "nested too deeply"
        raise RefusedError(
            400, f"the request's body is not JSON: {problem}", reason="MALFORMED_JSON"
        )

    async def _read(self, limit: int) -> bytes:
        length = self.headers(b"content-length")
        if length and int(length[0]) > 2 * limit:
            raise _too_large(limit)
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size <= limit:
                chunks.append(chunk)
            else:
                # A client that still writes does not see an answer, so as much again is read and
                # dropped, but not without end.
                chunks.clear()
                if size > 2 * limit:
                    raise _too_large(limit)
            if not message.get("more_body", False):
                break
        if size > limit:
            raise _too_large(limit)
        return b"".join(chunks)

    async def disconnected(self) -> None:
        """Wait until the client has left, or has its whole answer."""
        while (await self._receive())["type"] != "http.disconnect":
            continue

    async def start(
        self, status: int, media_type: str, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """Send the status and the headers."""
        self.started = True
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(b"content-type", media_type.encode("ascii")), *headers],
            }
        )

    async def write(self, chunk: bytes, *, last: bool = False) -> None:
        """Send a part of the body; waits while the client reads too slowly."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": not last})

    async def answer(
        self,
        status: int,
        media_type: str,
        body: bytes,
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        """Send a whole answer."""
        length = (b"content-length", str(len(body)).encode("ascii"))
        await self.start(status, media_type, (length, *headers))
        await self.write(body, last=True)

    async def refuse(self, error: RefusedError) -> None:
        """Send an error: `{"detail": ..., "reason": ...}`, without `reason` if it has none."""
        document = {"detail": error.detail}
        if error.reason is not None:
            document["reason"] = error.reason
        await self.answer(error.status, JSON, encode_json(document), error.headers)


def _too_large(limit: int) -> RefusedError:
    return RefusedError(
        413,
        f"the request's body is larger than {limit} bytes, the most this replica takes",
        reason="BODY_TOO_LARGE",
        headers=[(b"connection", b"close")],
    )

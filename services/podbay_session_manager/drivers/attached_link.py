"""The connection to one process that hosts mocks: what it last told, and orders to it."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from podbay_kit.mock_host import HostRecord
from podbay_session_manager.drivers.contract import DriverUnreachableError
from podbay_session_manager.drivers.ports import HOST

__all__ = ["HostLink"]

_ANSWER_SECONDS: Final = 10.0
# A host with thousands of replicas tells all of them in one line.
_LINE_BYTES: Final = 16 << 20


class HostLink:
    """Follows one host. Make it with `connect`.

    Attributes:
        record: The host.
        keys: The keys of the classes that it offers.
        replicas: What it hosts, by the replicas' ids, as it last told.
        open: Whether the connection stands; once it is lost, another must be made.
    """

    def __init__(
        self,
        record: HostRecord,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_change: Callable[[], None],
    ) -> None:
        self.record = record
        self.keys: frozenset[str] = frozenset()
        self.replicas: Mapping[str, Mapping[str, Any]] = {}
        self.open = True
        self._reader = reader
        self._writer = writer
        self._on_change = on_change
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._following: asyncio.Task[None] | None = None

    @classmethod
    async def connect(
        cls, record: HostRecord, on_change: Callable[[], None], patience: float
    ) -> HostLink:
        """Connect, and return when the host has told what it has.

        Args:
            record: The host.
            on_change: Called when it tells something new, and when it is gone.
            patience: Seconds to wait at most.

        Raises:
            DriverUnreachableError: It does not answer.
        """
        writer = None
        try:
            async with asyncio.timeout(patience):
                reader, writer = await asyncio.open_connection(HOST, record.port, limit=_LINE_BYTES)
                writer.write(record.secret.encode() + b"\n")
                link = cls(record, reader, writer, on_change)
                link._took(await reader.readline())
        except (OSError, TimeoutError, ValueError) as error:
            if writer is not None:
                writer.close()
            raise DriverUnreachableError(
                f"process {record.pid}, which hosts mocks, runs and does not answer"
            ) from error
        link._following = asyncio.create_task(link._follow(), name=f"follow-host-{record.pid}")
        return link

    async def order(self, order: str, replica_id: str, **arguments: Any) -> str:
        """Give an order, and return what hindered it; empty where it was done.

        Raises:
            DriverUnreachableError: Nobody knows whether it was done.
        """
        number = next(self._numbers)
        answer: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        line = {"number": number, "order": order, "replica": replica_id, **arguments}
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                self._writer.write(json.dumps(line).encode() + b"\n")
                await self._writer.drain()
                return str((await answer).get("error", ""))
        except (OSError, TimeoutError) as error:
            raise DriverUnreachableError(
                f"process {self.record.pid}, which hosts mocks, did not answer"
            ) from error
        finally:
            self._answers.pop(number, None)

    async def close(self) -> None:
        """Close the connection; the host goes on."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])

    async def _follow(self) -> None:
        try:
            while line := await self._reader.readline():
                self._took(line)
        except (OSError, ValueError):
            pass  # as at its end
        finally:
            self.open = False
            self._writer.close()
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(ConnectionResetError())
            self._on_change()

    def _took(self, line: bytes) -> None:
        told = json.loads(line)
        number = told.get("answer")
        if number is None:
            self.keys = frozenset(told["keys"])
            self.replicas = {each["replica"]: each for each in told["replicas"]}
            self._on_change()
        elif (answer := self._answers.get(number)) is not None and not answer.done():
            answer.set_result(told)

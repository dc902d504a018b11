"""The audit log of a service: what is written of a call, when, and for how long it is kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Final

import grpc

from podbay.v1 import audit_pb2, errors_pb2
from podbay_kit.access import current_access
from podbay_kit.audit import AuditEntry, AuditRecord, peer_address, set_entry
from podbay_kit.audit_messages import query_of, record_message
from podbay_kit.audit_refusals import RefusalMeter
from podbay_kit.audit_store import AuditStore, Retention
from podbay_kit.clock import Clock
from podbay_kit.errors import ServiceError, invalid
from podbay_kit.resource_pages import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE
from podbay_kit.storage import Connection, Database

__all__ = ["AuditLog"]

_LOG = logging.getLogger(__name__)

_SUM_SECONDS: Final = 60.0
_PURGE_SECONDS: Final = 3600.0
_REFUSED: Final = frozenset(
    {grpc.StatusCode.UNAUTHENTICATED.value[0], grpc.StatusCode.PERMISSION_DENIED.value[0]}
)
# Nothing was begun, and nothing can be written.
_UNTOLD: Final = frozenset(
    {errors_pb2.ERROR_REASON_SERVICE_STOPPING, errors_pb2.ERROR_REASON_NOT_LEADER}
)


class AuditLog:
    """Writes down who did what, and answers questions about it.

    - A call that changes something has its entry in the transaction of the change, or, where it
      changes nothing in the store, before its answer leaves.
    - A call of such a method that fails, and any call that is refused for who calls, has one
      before its answer leaves; where they come too fast, they are counted and summed up.

    Args:
        database: Where the log is kept.
        store: Writes and reads it.
        changing: The methods that change something, as "CreateModel".
        clock: Where the time comes from.
        keep: How long entries are kept.
        meter: Which refusals get an entry of their own.
        writable: Says whether this process may write now, as one that stands by may not; what is
            refused meanwhile is counted until it may. Always unless given.
    """

    def __init__(
        self,
        database: Database,
        store: AuditStore,
        changing: Collection[str],
        clock: Clock,
        *,
        keep: Retention | None = None,
        meter: RefusalMeter | None = None,
        writable: Callable[[], bool] = lambda: True,
    ) -> None:
        self.store: Final = store
        self._database = database
        self._changing = frozenset(changing)
        self._clock = clock
        self._keep = keep or Retention()
        self._meter = meter or RefusalMeter()
        self._writable = writable
        self._purged_at: float | None = None

    def begin(self, method: str, peer: str) -> AuditEntry:
        """Begin the entry of a call, in its context.

        Args:
            method: The path of its method, as "/podbay.v1.RegistryService/CreateModel".
            peer: What gRPC tells of where it came from.
        """
        name = method.rpartition("/")[2]
        entry = AuditEntry(
            name,
            peer_address(peer),
            changes=name in self._changing,
            write=self.store.append,
            now=self._clock.now,
        )
        set_entry(entry)
        return entry

    async def succeeded(self, entry: AuditEntry) -> None:
        """Take note that a call did what it should, before its answer leaves.

        Raises:
            ServiceError: STORE_UNAVAILABLE; the answer must not leave.
        """
        if entry.changes and not entry.written:
            # A transaction that does nothing: the entry joins it.
            await self._database.write(lambda _: None)
        entry.over = True

    async def failed(self, entry: AuditEntry, error: ServiceError) -> None:
        """Take note that a call failed, before the error leaves."""
        entry.over = True
        code = error.code.value[0]
        refused = entry.refused or code in _REFUSED
        if error.reason in _UNTOLD or not (entry.changes or refused):
            return
        record = entry.record(code=code, reason=error.reason)
        # Of a change whose call failed afterwards there is an entry; this tells the rest.
        if self._writable() and (entry.written or self._meter.admits(self._clock.monotonic())):
            try:
                await self._append(record)
            except ServiceError as away:
                _LOG.warning("a refusal is not in the audit log yet: %s", away)
            else:
                return
        self._meter.count(record)

    async def run(self) -> None:
        """Write sums of refusals, and remove what is kept no longer, for ever."""
        while True:
            await self.maintain()
            await self._clock.sleep(_SUM_SECONDS)

    async def close(self) -> None:
        """Write the sums that were not written yet, where the store can be used."""
        try:
            await self.flush()
        except ServiceError as away:
            _LOG.warning("sums of refusals are lost: %s", away)

    async def maintain(self) -> None:
        """Write sums of refusals; once an hour remove what is kept no longer.

        Raises:
            ServiceError: STORE_UNAVAILABLE.
        """
        await self.flush()
        now = self._clock.monotonic()
        if self._purged_at is None or now - self._purged_at >= _PURGE_SECONDS:
            while await self._database.write(
                lambda conn: self.store.purge(conn, self._keep, self._clock.now())
            ):
                pass
            self._purged_at = now

    async def flush(self) -> None:
        """Write the sums of refusals that were counted; what cannot be written is counted on.

        Raises:
            ServiceError: STORE_UNAVAILABLE.
        """
        records = self._meter.take()
        if not records:
            return

        def write(conn: Connection) -> None:
            for record in records:
                self.store.append(conn, record)

        try:
            await self._database.write(write)
        except ServiceError:
            for record in records:
                self._meter.count(record)
            raise

    async def list_page(
        self, selected: audit_pb2.AuditFilter, size: int, token: str
    ) -> tuple[list[audit_pb2.AuditRecord], str]:
        """Return one page of the entries that the caller may see, the newest first.

        Args:
            selected: Which entries.
            size: How many at most; 0 for the default.
            token: The token of the page; empty for the first.

        Returns:
            The entries, and the token of the next page; empty for the last.

        Raises:
            ServiceError: INVALID_REQUEST or INVALID_PAGE_TOKEN.
        """
        scope = current_access().scope()
        if not 0 <= size <= MAX_PAGE_SIZE:
            raise invalid("pageSize", f"must be 1 to {MAX_PAGE_SIZE}, or 0 for {DEFAULT_PAGE_SIZE}")
        query = query_of(selected)
        found, following = await self._database.read(
            lambda conn: self.store.list_page(
                conn, query, scope, size=size or DEFAULT_PAGE_SIZE, token=token
            )
        )
        return [record_message(record) for record in found], following

    async def _append(self, record: AuditRecord) -> None:
        await self._database.write(lambda conn: self.store.append(conn, record))

"""What is known of a call for the audit log, while the call runs.

`begin` puts an entry into the context of a call; what learns more of it (`podbay_kit.auth.require`,
the resource store) notes that. The first transaction of a call that changes something writes the
entry itself (`podbay_kit.storage` asks it before each commit), so that no change is without its
entry. Who writes the others is `podbay_kit.audit_log.AuditLog`.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import unquote

if TYPE_CHECKING:
    from podbay_kit.errors import ServiceError

__all__ = [
    "AuditEntry",
    "AuditRecord",
    "CallLog",
    "current_entry",
    "note",
    "note_refused",
    "peer_address",
    "set_entry",
    "shown_account",
    "shown_id",
]

_MOST_ID: Final = 128
# No account has a longer name, and no whole token is that short.
_MOST_ACCOUNT: Final = 63
_WITHHELD: Final = "(withheld)"
# As far as a secret is looked for that begins in what is shown. Callers send ids of megabytes.
_MOST_SEARCHED: Final = 4096
# API tokens, session tokens, and what looks like them: people paste the wrong thing. It begins
# with a run of such characters: tried at each of them, the time would grow with the square.
_SECRET: Final = re.compile(r"(?<![A-Za-z0-9_-])[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]{20,}")


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One entry of an audit log, as it is stored; the fields are those of the proto.

    Attributes:
        id: Its id.
        time: When it was written.
        actor_account: The account of the token; "" where none was accepted.
        actor_token: The id of the token, "service", "system", or "".
        peer: Where the call came from.
        method: The method, as "CreateModel".
        resource: The kind in its plural form.
        account: The account that owns the resource.
        resource_id: The id of the resource.
        code: The code of google.rpc.Code.
        reason: Why it failed, as an ErrorReason; 0 where it did not.
        call_id: The same for all entries of a call.
        count: How many calls it stands for.
        first_time: When the first of several came.
        details: What else is to be known.
    """

    id: str
    time: datetime
    actor_account: str = ""
    actor_token: str = ""
    peer: str = ""
    method: str = ""
    resource: str = ""
    account: str = ""
    resource_id: str = ""
    code: int = 0
    reason: int = 0
    call_id: str = ""
    count: int = 1
    first_time: datetime | None = None
    details: Mapping[str, str] = field(default_factory=dict)


class AuditEntry:
    """What is known of one call.

    Args:
        method: Its method, as "CreateModel".
        peer: Where it came from.
        changes: Whether the method changes something when it does what it should.
        write: Writes a record within a transaction, whose connection it is given.
        now: Gives the time.
    """

    def __init__(
        self,
        method: str,
        peer: str,
        *,
        changes: bool,
        write: Callable[[Any, AuditRecord], None],
        now: Callable[[], datetime],
    ) -> None:
        self.method = method
        self.peer = peer
        self.changes = changes
        self.call_id = uuid.uuid4().hex
        self.actor_account = ""
        self.actor_token = ""
        self.resource = ""
        self.account = ""
        self.resource_id = ""
        self.written = False
        """Whether an entry of the call is committed."""
        self.refused = False
        """Whether the caller may not do it, whatever it is told."""
        self.over = False
        """Whether the call has ended: what goes on in its context is not its own work."""
        self._write = write
        self._now = now

    def record(self, *, code: int = 0, reason: int = 0) -> AuditRecord:
        """Return the record of the call as it stands."""
        return AuditRecord(
            id=uuid.uuid4().hex,
            time=self._now(),
            actor_account=self.actor_account,
            actor_token=self.actor_token,
            peer=self.peer,
            method=self.method,
            resource=self.resource,
            account=shown_account(self.account),
            resource_id=shown_id(self.resource_id),
            code=code,
            reason=reason,
            call_id=self.call_id,
        )

    # What `podbay_kit.storage` asks, in the thread of the transaction.

    def before_commit(self, conn: Any) -> None:
        """Write the entry with the change."""
        if self.changes and not self.written and not self.over:
            self._write(conn, self.record())

    def after_commit(self) -> None:
        """Note that the change and its entry are there."""
        self.written = True


class CallLog(Protocol):
    """Takes note of calls; `podbay_kit.audit_log.AuditLog` does."""

    def begin(self, method: str, peer: str) -> AuditEntry:
        """Begin the entry of a call, in its context."""
        ...

    async def succeeded(self, entry: AuditEntry) -> None:
        """Take note that a call did what it should; where that fails, so does the call."""

    async def failed(self, entry: AuditEntry, error: ServiceError) -> None:
        """Take note that a call failed."""


_ENTRY: ContextVar[AuditEntry | None] = ContextVar("podbay_audit_entry", default=None)


def set_entry(entry: AuditEntry) -> None:
    """Put an entry into the context of a call."""
    _ENTRY.set(entry)


def current_entry() -> AuditEntry | None:
    """Return the entry of the call that runs; None outside of a call."""
    return _ENTRY.get()


def note(*, resource: str = "", account: str | None = None, resource_id: str | None = None) -> None:
    """Note what the call that runs is about.

    Args:
        resource: The kind in its plural form. The first one that is noted is what the call is
            about; what is noted of others is left out.
        account: The account that owns the resource.
        resource_id: The id of the resource.
    """
    entry = _ENTRY.get()
    if entry is None or (resource and entry.resource not in ("", resource)):
        return
    entry.resource = resource or entry.resource
    if account and not entry.account:
        entry.account = account
    if resource_id and not entry.resource_id:
        entry.resource_id = resource_id


def note_refused() -> None:
    """Note that the caller of the call that runs may not do it, whatever it is told."""
    entry = _ENTRY.get()
    if entry is not None:
        entry.refused = True


def shown_id(text: str) -> str:
    """Return an id as the log shows it: bounded, and never what looks like a secret."""
    if _SECRET.search(text, 0, _MOST_SEARCHED):
        return _WITHHELD
    return _printable(text[:_MOST_ID])


def shown_account(text: str) -> str:
    """Return what a caller says is an account as the log shows it.

    Names of accounts are shown as they are, also where they have a dot and a long word after it.
    """
    if len(text) <= _MOST_ACCOUNT and not text.startswith("pbt_"):
        return _printable(text)
    return shown_id(text)


def peer_address(peer: str) -> str:
    """Return the address out of what gRPC calls a peer, as "127.0.0.1:4711"."""
    kind, _, address = unquote(peer).partition(":")
    return (address if kind in ("ipv4", "ipv6") else unquote(peer))[:_MOST_ID]


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)

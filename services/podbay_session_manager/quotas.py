"""What accounts use of their quotas, and which sessions have room in them. Pure.

A session counts as a whole from the pass that lets it in until nothing of it runs any more: with
all the replicas that it shall have, whether they run at the moment or not. So a replica that
fails, or moves to another node, never has to fight for its account's quota again. What is used is
summed up out of the records in each pass, and nothing else is kept that could drift.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from podbay_kit.quotas import GPU_PREFIX, Quota
from podbay_session_manager.machine import ReplicaPhase, SessionState
from podbay_session_manager.records import Needs, ReplicaRecord, SessionRecord

__all__ = [
    "Charge",
    "Ledger",
    "Shortage",
    "charge_of",
    "effective_needs",
    "is_let_in",
    "must_choose",
    "shortage_text",
    "usage_of",
]

Charge = Mapping[str, int]
"""How much of each limit, by its name: "sessions", "replicas", "gpus.nvidia.com/gpu-t4"."""

_NO_QUOTA: Final = Quota()


@dataclass(frozen=True, slots=True)
class Shortage:
    """A limit that a session does not fit into now."""

    name: str
    """Which limit."""
    needed: int
    used: int
    kept: int
    """How much is kept for sessions of the account that wait longer."""
    limit: int


def effective_needs(session: SessionRecord) -> Needs:
    """Return what a replica needs, with the one type of GPUs that it keeps to, if it does."""
    if not session.gpu_type:
        return session.needs
    return replace(session.needs, hardware_types=(session.gpu_type,))


def must_choose(session: SessionRecord, quota: Quota) -> bool:
    """Say whether a session must keep to one type of GPUs, for its account to be charged for."""
    types = session.needs.hardware_types
    several = bool(session.needs.gpus) and len(types) > 1 and not session.gpu_type
    return several and any(kind in quota.gpus for kind in types)


def is_let_in(
    session: SessionRecord, replicas: Iterable[ReplicaRecord], quota: Quota = _NO_QUOTA
) -> bool:
    """Say whether a session counts: it was let in, and something of it shall run, or still does.

    Args:
        session: The session.
        replicas: Its replicas.
        quota: The quota of its account. A session that was let in before GPUs were limited, and
            has no replica yet, counts once its type of GPUs is chosen.
    """
    if session.state is SessionState.ACTIVE:
        if not (session.reserved or session.status == "Admitted"):
            return False
        return not must_choose(session, quota) or any(map(_has_place, replicas))
    return session.state is SessionState.ENDING and any(map(_has_place, replicas))


def charge_of(
    session: SessionRecord, replicas: Iterable[ReplicaRecord] = (), gpu_type: str = ""
) -> Charge:
    """Return what a session counts for.

    Args:
        session: The session.
        replicas: Its replicas: those that have GPUs count by the type of these.
        gpu_type: The type that the others count by; unless given that of the session, or of a
            replica that has GPUs.
    """
    charge = {"sessions": 1, "replicas": session.desired}
    needs = session.needs
    if not needs.gpus:
        return charge
    # While one moves to another node there are two at its index, which is charged once.
    placed = {r.index: r.gpu_type for r in replicas if _has_place(r) and r.gpu_type}
    by_type = Counter(placed.values())
    single = needs.hardware_types[0] if len(needs.hardware_types) == 1 else ""
    usual = gpu_type or session.gpu_type or single or next(iter(by_type), "")
    rest = session.desired - len(placed)
    if usual and rest > 0:
        by_type[usual] += rest
    charge.update({GPU_PREFIX + kind: needs.gpus * count for kind, count in by_type.items()})
    return charge


def usage_of(
    account: str,
    sessions: Mapping[str, SessionRecord],
    replicas: Mapping[str, Mapping[str, ReplicaRecord]],
    quota: Quota = _NO_QUOTA,
) -> Charge:
    """Return what an account uses.

    Args:
        account: The account.
        sessions: All sessions that have not ended, by id.
        replicas: Their replicas, by session and id.
        quota: The quota of the account.
    """
    used: Counter[str] = Counter()
    for session in sessions.values():
        of_session = replicas.get(session.id, {}).values()
        if session.account == account and is_let_in(session, of_session, quota):
            used.update(charge_of(session, of_session))
    return used


class Ledger:
    """What accounts use and keep in one pass, as sessions are let in.

    Args:
        quotas: The quotas by account; an account that is not named has no limits.
    """

    def __init__(self, quotas: Mapping[str, Quota]) -> None:
        self._limits = {account: quota.limits for account, quota in quotas.items()}
        self._used: dict[str, Counter[str]] = {}
        self._kept: dict[str, Counter[str]] = {}

    def limited(self, account: str) -> bool:
        """Say whether anything of an account is limited."""
        return bool(self._limits.get(account))

    def take(self, account: str, charge: Charge) -> None:
        """Count what is let in."""
        self._used.setdefault(account, Counter()).update(charge)

    def keep(self, account: str, charge: Charge) -> None:
        """Keep what becomes free for a session that waits, from those that came later.

        Nothing is kept for one that asks for more than the account may have at all: it would keep
        out all others for ever.
        """
        limits = self._limits.get(account, {})
        if all(charge.get(name, 0) <= limit for name, limit in limits.items()):
            self._kept.setdefault(account, Counter()).update(charge)

    def shortages(self, account: str, charge: Charge) -> tuple[Shortage, ...]:
        """Return the limits that have no room for a charge now; none where it fits."""
        used = self._used.get(account, Counter[str]())
        kept = self._kept.get(account, Counter[str]())
        return tuple(
            Shortage(name, needed, used[name], kept[name], limit)
            for name, limit in self._limits.get(account, {}).items()
            if (needed := charge.get(name, 0)) and used[name] + kept[name] + needed > limit
        )


def shortage_text(account: str, shortages: Iterable[Shortage]) -> str:
    """Say for people what a quota lacks: what is needed, what is used, and the limit."""
    found = list(shortages)
    parts = [
        f"{_what(one.name)}: {one.needed} needed, {one.used} of {one.limit} used"
        + (f", {one.kept} kept for sessions that wait longer" if one.kept else "")
        for one in found
    ]
    text = f"The quota of account {account} has no room for the session: {'; '.join(parts)}. "
    if any(one.needed > one.limit for one in found):
        return (
            f"{text}It asks for more than the account may have at all: create one that asks for "
            "less, or have the operator raise the quota (podbay account quota set)."
        )
    return (
        f"{text}It starts when there is room: end other sessions of the account, or have the "
        "operator raise the quota (podbay account quota set)."
    )


def _what(name: str) -> str:
    return f"GPUs {name.removeprefix(GPU_PREFIX)}" if name.startswith(GPU_PREFIX) else name


def _has_place(replica: ReplicaRecord) -> bool:
    return not replica.phase.ended and replica.phase is not ReplicaPhase.PENDING

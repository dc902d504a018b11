"""Which waiting sessions are let in by the quotas of their accounts. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from podbay_kit.quotas import GPU_PREFIX, Quota
from podbay_session_manager.placement import Fleet, gpu_type_of
from podbay_session_manager.quotas import (
    Charge,
    Ledger,
    Shortage,
    charge_of,
    is_let_in,
    must_choose,
)
from podbay_session_manager.records import Needs, ReplicaRecord, SessionRecord

__all__ = ["Gate", "Verdict"]

_NO_QUOTA = Quota()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a session is let in.

    Attributes:
        shortages: What its account's quota lacks; empty where that is not in the way.
        gpu_type: The type of GPUs that it keeps to from now on; "" where that is left open.
        waits: What it needs where it is not let in because no node has room just now: its type
            of GPUs is chosen by where it fits.
    """

    shortages: tuple[Shortage, ...] = ()
    gpu_type: str = ""
    waits: Needs | None = None


_IN = Verdict()


class Gate:
    """Lets sessions in, in the order in which it is asked.

    Args:
        quotas: The quotas by account.
        sessions: All sessions that have not ended, with their replicas.
    """

    def __init__(
        self,
        quotas: Mapping[str, Quota],
        sessions: Iterable[tuple[SessionRecord, Iterable[ReplicaRecord]]],
    ) -> None:
        self._quotas = quotas
        self._ledger = Ledger(quotas)
        self._in: set[str] = set()
        if not quotas:
            return
        for session, replicas in sessions:
            known = list(replicas)
            if self._ledger.limited(session.account) and is_let_in(
                session, known, quotas[session.account]
            ):
                self._in.add(session.id)
                self._ledger.take(session.account, charge_of(session, known))

    def ask(
        self, session: SessionRecord, replicas: Iterable[ReplicaRecord], fleet: Fleet
    ) -> Verdict:
        """Say whether a session is let in, and count it if so.

        Args:
            session: The session.
            replicas: Its replicas.
            fleet: The room on the nodes, by which its type of GPUs is chosen.
        """
        quota = self._quotas.get(session.account, _NO_QUOTA)
        if not quota.limits:
            return _IN
        choosing = must_choose(session, quota)
        if session.id in self._in:
            # One that was let in before GPUs were limited keeps to what it has.
            taken = next((r.gpu_type for r in replicas if r.gpu_type and not r.phase.ended), "")
            return Verdict(gpu_type=taken) if choosing else _IN
        return self._choose(session, fleet) if choosing else self._let_in(session)

    def _let_in(self, session: SessionRecord, gpu_type: str = "") -> Verdict:
        charge = charge_of(session, gpu_type=gpu_type)
        shortages = self._ledger.shortages(session.account, charge)
        if shortages:
            self._ledger.keep(session.account, charge)
            return Verdict(shortages)
        self._in.add(session.id)
        self._ledger.take(session.account, charge)
        return Verdict(gpu_type=gpu_type)

    def _choose(self, session: SessionRecord, fleet: Fleet) -> Verdict:
        """Let a session in with a type of GPUs for which the quota has room and a node, too."""
        account, types = session.account, session.needs.hardware_types
        charges = {kind: charge_of(session, gpu_type=kind) for kind in types}
        lacking = {kind: self._ledger.shortages(account, charges[kind]) for kind in types}
        open_types = tuple(kind for kind in types if not lacking[kind])
        if not open_types:
            self._keep_any(account, charges)
            # Of several types the one that is told comes nearest to having room.
            return Verdict(min(lacking.values(), key=_missing))
        needs = replace(session.needs, hardware_types=open_types)
        placed = fleet.peek(session.driver, session.id, needs)
        if placed is None:
            self._keep_any(account, {kind: charges[kind] for kind in open_types})
            return Verdict(waits=needs)
        return self._let_in(session, gpu_type_of(placed.node, placed.gpus))

    def _keep_any(self, account: str, charges: Mapping[str, Charge]) -> None:
        """Keep room for a session whose type of GPUs is open: in all of them."""
        kept: dict[str, int] = {}
        for kind, charge in charges.items():
            limit = self._quotas[account].gpus.get(kind)
            if limit is None or charge[GPU_PREFIX + kind] <= limit:
                kept.update(charge)
        self._ledger.keep(account, kept)


def _missing(shortages: tuple[Shortage, ...]) -> int:
    return sum(one.used + one.kept + one.needed - one.limit for one in shortages)

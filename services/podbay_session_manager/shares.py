"""Who may use how much of a limit that several routers share. Pure: time is an argument.

A router's processes each tell what they hold of a limit and what they want. What a router is told
to have less of counts as its own until all its processes have said that they keep to it, or have
been silent for longer than what they were given holds. So the sum of what routers may use is never
above a limit, whatever is lost or late.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

__all__ = ["TURN_SECONDS", "ShareBook", "Word", "divide"]

# Clocks of machines differ a little in their speed.
_DRIFT: Final = 1.02
_SLACK_SECONDS: Final = 0.25
TURN_SECONDS: Final = 0.25
"""How long a place is left to one router where there are fewer than routers that want them."""


def divide(limit: int, wants: Mapping[str, int], turn: int) -> dict[str, int]:
    """Divide a limit among routers by what they want.

    Each gets what it wants, and nobody more than an equal part as long as another wants more. Of
    what nobody wants, those that want anything get the rest, as they are the ones to want more. A
    router that wants nothing keeps one place where there are enough, so that its next call need
    not wait.

    Args:
        limit: What there is.
        wants: What each router wants, by its id.
        turn: Counts the turns in which others go first where not each can have one. All limits of
            which a call may need a place are to be divided in the same turn, among the same
            routers.
    """
    if not wants:
        return {}
    names = sorted(wants)
    least = 1 if limit >= 2 * len(names) else 0
    shares = dict.fromkeys(names, least)
    left = limit - least * len(names)
    eager = [name for name in names if wants[name] > 0] or names
    if limit < len(eager):
        # All routers take part in the order, also where they do not want this: so it is the same
        # for each limit, and who is first gets a place of all that one call of it needs.
        eager = [name for name in _order(names, turn) if name in eager]
    # Round by round, so that the smallest wishes are fulfilled first.
    hungry = [name for name in eager if wants[name] > shares[name]]
    while left > 0 and hungry:
        part = max(1, left // len(hungry))
        for name in hungry:
            taken = min(part, wants[name] - shares[name], left)
            shares[name] += taken
            left -= taken
        hungry = [name for name in hungry if wants[name] > shares[name]]
    part, rest = divmod(left, len(eager))
    for index, name in enumerate(eager):
        shares[name] += part + (index < rest)
    return shares


def _order(names: Sequence[str], turn: int) -> list[str]:
    """Return routers in the order of a turn.

    In each of as many turns as there are routers another one is first, in an order that changes
    from one such round to the next: no rhythm of calls keeps one of them from places for long.
    """
    round_, place = divmod(turn, len(names))
    order = sorted(names, key=lambda name: blake2b(f"{round_} {name}".encode()).digest())
    return order[place:] + order[:place]


@dataclass(slots=True)
class _Worker:
    """One process of a router, as it is known."""

    router: str
    heard_at: float
    held: dict[str, int] = field(default_factory=dict)
    """What its router may have running by what it holds, by its last word."""
    sole: bool = False
    """Whether that was all of every limit."""
    usable: dict[str, int] = field(default_factory=dict)
    """What of that its router was given."""
    wanted: dict[str, int] = field(default_factory=dict)
    told: list[tuple[int, bool, Mapping[str, int]]] = field(default_factory=list)
    """What it was told since: the number, whether it is the sole router, and the shares."""
    connected: bool = True


@dataclass(frozen=True, slots=True)
class Word:
    """What a process of a router tells."""

    router: str
    worker: str
    workers: int
    """How many processes the router has."""
    kept: int
    """The number of the last word to it that it has taken."""
    held: Mapping[str, int]
    """What its router may have running by what it holds, by limit."""
    wanted: Mapping[str, int]
    """How many calls it has that run or wait, by limit."""
    sole: bool = False
    """Whether it holds every limit as a whole."""
    usable: Mapping[str, int] = field(default_factory=dict)
    """What its router may begin to use by what it was given, by limit."""


class ShareBook:
    """The shares of all routers.

    Args:
        lease: For how long what a router was given holds without a further word, in seconds.
        now: The time, on the clock of all further calls.
        known: The routers that an earlier session manager gave shares.
        limits: The limits that they may have shares of.
    """

    def __init__(
        self, lease: float, now: float, known: Collection[str] = (), limits: Collection[str] = ()
    ) -> None:
        self.lease = lease
        self._workers: dict[str, _Worker] = {}
        # Until these routers have said what they have, nobody gets more of these limits.
        self._unsure = set(known)
        self._unsure_limits = frozenset(limits)
        self._unsure_until = now + self._holds

    @property
    def routers(self) -> frozenset[str]:
        """The routers that have or may have a share."""
        return frozenset(worker.router for worker in self._workers.values()) | self._unsure

    def knows(self, worker: str) -> bool:
        """Say whether a process has spoken, and has neither left nor been silent for too long."""
        return worker in self._workers

    def hear(self, word: Word, now: float) -> None:
        """Take a process's word, which came at a time."""
        worker = self._workers.get(word.worker)
        if worker is None:
            worker = self._workers[word.worker] = _Worker(word.router, now)
        worker.heard_at = now
        worker.connected = True
        worker.held = dict(word.held)
        worker.usable = dict(word.usable)
        worker.sole = word.sole
        worker.wanted = dict(word.wanted)
        worker.told = [item for item in worker.told if item[0] > word.kept]
        if sum(1 for other in self._of(word.router)) >= word.workers:
            self._unsure.discard(word.router)

    def lose(self, worker: str) -> None:
        """Note that a process's stream has ended; what it has is its own for a while."""
        known = self._workers.get(worker)
        if known is not None:
            known.connected = False
            known.wanted = {}

    def leave(self, worker: str) -> None:
        """Note that a process uses nothing any more."""
        self._workers.pop(worker, None)

    def expire(self, now: float) -> None:
        """Forget what was silent for longer than it may use what it had."""
        for name, worker in list(self._workers.items()):
            if now >= worker.heard_at + self._holds:
                del self._workers[name]
        if now >= self._unsure_until:
            self._unsure.clear()

    def forgive(self, now: float) -> None:
        """Let all have been heard just now: it was the one who listens that slept."""
        for worker in self._workers.values():
            worker.heard_at = now
        if self._unsure:
            self._unsure_until = now + self._holds

    def is_sole(self, router: str) -> bool:
        """Say whether a router has every limit as a whole, as there is no other one."""
        return self.routers <= {router}

    def plan(self, limits: Mapping[str, int], now: float) -> tuple[dict[str, dict[str, int]], bool]:
        """Return the shares that each router that is there shall have from now on.

        Args:
            limits: Each limit.
            now: The time.

        Returns:
            The shares by router and limit; and whether more wish for a limit than there are
            places, so that they take turns and this is to be asked again soon.
        """
        routers = self.routers
        live = sorted({w.router for w in self._workers.values() if w.connected})
        shares: dict[str, dict[str, int]] = {router: {} for router in live}
        turns = False
        for key, limit in limits.items():
            bounds = {router: self.bound(router, key, limit) for router in routers}
            wants = {router: min(limit, self._wanted(router, key)) for router in live}
            turns = turns or 0 < limit < sum(1 for wanted in wants.values() if wanted)
            targets = divide(limit, wants, int(now / TURN_SECONDS))
            unsure = bool(self._unsure) and key in self._unsure_limits
            for router in live:
                # Also what it says it holds: it may have been silent for so long that others have
                # that by now.
                share = max(0, min(targets[router], limit - sum(bounds.values()) + bounds[router]))
                if unsure:
                    # What it was given, and not what it holds: others may have been given that
                    # since, where calls go on that it began before its share ran out.
                    share = min(share, self._given(router, key, limit))
                shares[router][key] = share
                bounds[router] = max(bounds[router], share)
        return shares, turns

    def tell(self, worker: str, number: int, shares: Mapping[str, int], *, sole: bool) -> None:
        """Note what a process is told; it may use that from now on."""
        self._workers[worker].told.append((number, sole, shares))

    def bound(self, router: str, key: str, limit: int) -> int:
        """Return the most of a limit that a router may use; its processes share what it has."""
        return self._most(router, key, limit, lambda worker: worker.held)

    def _given(self, router: str, key: str, limit: int) -> int:
        """Return the most of a limit that a router was given, by its own words and since."""
        return self._most(router, key, limit, lambda worker: worker.usable)

    def _most(
        self, router: str, key: str, limit: int, said: Callable[[_Worker], Mapping[str, int]]
    ) -> int:
        """Return the most of a limit by what a router's processes said and were told since."""
        most = 0
        for worker in self._of(router):
            if worker.sole or any(sole for _, sole, _ in worker.told):
                return limit
            given = [shares.get(key, 0) for _, _, shares in worker.told]
            most = max(most, said(worker).get(key, 0), *given)
        return most

    @property
    def _holds(self) -> float:
        return self.lease * _DRIFT + _SLACK_SECONDS

    def _of(self, router: str) -> Iterable[_Worker]:
        return (worker for worker in self._workers.values() if worker.router == router)

    def _wanted(self, router: str, key: str) -> int:
        return sum(worker.wanted.get(key, 0) for worker in self._of(router))

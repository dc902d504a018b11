"""Who shares a session: the calls of each account, running and waiting, and whose turn it is. Pure.

Where several accounts use a session, a replica that becomes free goes to the account that has the
fewest calls running there. So each gets its share, however many calls the others have queued.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from podbay_kit.limit_keys import account_limit_key

__all__ = ["AccountLoad", "FairLine", "Tenant"]

_T = TypeVar("_T")


class AccountLoad:
    """What one account has at this worker, over all sessions.

    Attributes:
        name: The account.
        running: Its calls that run.
        waiting: Its calls that wait.
        held: The sessions in which its calls wait only because the account has too many running.
        limit: The most of its calls that may run, at all workers together where that is shared;
            None for no limit.
        told_limit: How many may run at all routers together, as its quota says; None for no quota.
        shared: Whether others keep to the limit with this worker, so that only a try can tell
            whether there is room; otherwise the limit is this worker's part.
        allowance: The most that may run here, where workers share the limit.
        leases: What that is made of: how many calls each lease is for.
        yield_until: Until when other workers go first, on the scheduler's clock.
        blocked: Whether there was no room within what is shared when it was looked for last.
        marked: Whether the other workers were told that its calls wait here.
    """

    __slots__ = (
        "__weakref__",
        "allowance",
        "blocked",
        "held",
        "leases",
        "limit",
        "marked",
        "name",
        "running",
        "shared",
        "told_limit",
        "waiting",
        "yield_until",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.running = 0
        self.waiting = 0
        self.held: dict[object, None] = {}
        self.limit: int | None = None
        self.told_limit: int | None = None
        self.shared = False
        self.allowance = 0
        self.leases: dict[int, int] = {}
        self.yield_until = 0.0
        self.blocked = False
        self.marked = False

    @property
    def outstanding(self) -> int:
        """The calls that leases are needed for."""
        return self.running

    @property
    def lease_key(self) -> str:
        """What its leases are known by to all workers."""
        return account_limit_key(self.name)

    @property
    def admits(self) -> bool:
        """Whether its quota lets another call run, as far as this worker can tell."""
        return self.limit is None or (self.running < self.limit and not self.blocked)


class Tenant(Generic[_T]):
    """One account in one session.

    Attributes:
        account: What the account has everywhere.
        running: Its calls that run in this session.
        lane: Its calls that wait there, in their order.
        turn: When it last got a replica out of the queue, counted in turns.
    """

    __slots__ = ("account", "lane", "running", "turn")

    def __init__(self, account: AccountLoad) -> None:
        self.account = account
        self.running = 0
        self.turn = 0
        # A dict would do, but finding its first member is slow after many were taken out.
        self.lane: OrderedDict[_T, None] = OrderedDict()


class FairLine(Generic[_T]):
    """The calls of a session that wait: in order within an account, in turn among accounts.

    Attributes:
        length: How many wait.
    """

    __slots__ = ("_tenants", "_turn", "length")

    def __init__(self) -> None:
        self._tenants: dict[Tenant[_T], None] = {}  # those that wait
        self.length = 0
        self._turn = 0

    def __len__(self) -> int:
        return self.length

    def __bool__(self) -> bool:
        return self.length > 0

    def __iter__(self) -> Iterator[_T]:
        return iter([call for tenant in self._tenants for call in tenant.lane])

    def tenants(self) -> list[Tenant[_T]]:
        """Return the accounts whose calls wait."""
        return list(self._tenants)

    def add(self, call: _T, tenant: Tenant[_T], *, front: bool = False) -> None:
        """Let a call wait: behind those of its account, or before them where it had its turn."""
        tenant.lane[call] = None
        if front:
            tenant.lane.move_to_end(call, last=False)
        self._tenants[tenant] = None
        self.length += 1
        tenant.account.waiting += 1

    def remove(self, call: _T, tenant: Tenant[_T]) -> None:
        """Take a call out, wherever it stands.

        Raises:
            KeyError: It does not wait.
        """
        del tenant.lane[call]
        if not tenant.lane:
            del self._tenants[tenant]
        self.length -= 1
        tenant.account.waiting -= 1

    def first(self, admits: Callable[[Tenant[_T]], bool]) -> tuple[_T, Tenant[_T]] | None:
        """Return the call whose turn is next, and its account's place.

        Args:
            admits: Whether an account may have another call running.

        Returns:
            The call; None where nobody waits, or only accounts that have their most running.
        """
        best: Tenant[_T] | None = None
        for tenant in self._tenants:
            if not admits(tenant):
                continue
            if best is None or (tenant.running, tenant.turn) < (best.running, best.turn):
                best = tenant
        return None if best is None else (next(iter(best.lane)), best)

    def served(self, tenant: Tenant[_T]) -> None:
        """Note that an account had its turn."""
        self._turn += 1
        tenant.turn = self._turn

    def ahead_of(self, tenant: Tenant[_T]) -> int:
        """Tell about how many calls have their turn before a new one of an account."""
        own = len(tenant.lane)
        others = sum(min(len(item.lane), own + 1) for item in self._tenants if item is not tenant)
        return own + others

    def crowded_out_by(self, tenant: Tenant[_T]) -> _T | None:
        """Return the call that gives up its place in a full line to a new one of an account.

        It is the newest call of the account that waits with the most, so that nobody can fill the
        line and shut the others out.

        Returns:
            The call; None where the account waits with as many as any other.
        """
        longest = max(self._tenants, key=lambda item: len(item.lane), default=None)
        if longest is None or longest is tenant or len(longest.lane) <= len(tenant.lane) + 1:
            return None
        return next(reversed(longest.lane))

    def take_all(self) -> list[_T]:
        """Take all calls out."""
        calls = list(self)
        for tenant in self._tenants:
            tenant.account.waiting -= len(tenant.lane)
            tenant.lane.clear()
        self._tenants.clear()
        self.length = 0
        return calls

"""A router's shares of limits that it has together with other routers. Pure: time is an argument.

The session manager gives shares, and what it gave holds for a while. Past that the shares are used
only where no session manager could be reached since: then nobody can have given them away. A
process that merely slept has to ask first.
"""

from __future__ import annotations

from collections.abc import Mapping

from podbay_kit.limit_keys import is_account_limit

__all__ = ["LimitShares"]


class LimitShares:
    """What one process of a router may use of each limit, by what the session manager said.

    Attributes:
        sole: Whether there is no other router: every limit is this one's as a whole.
        kept: The number of the last word that was taken on this stream.
        accounts: Whether limits of accounts are shared, too; a session manager of an earlier
            version leaves them to each router.
    """

    def __init__(self) -> None:
        self.sole = False
        self.kept = 0
        self.accounts = True
        self._shares: dict[str, int] = {}
        self._valid_until = float("-inf")
        self._alone = False
        self._unshared = False

    def take(
        self,
        number: int,
        shares: Mapping[str, int],
        valid_until: float,
        now: float,
        *,
        sole: bool,
        accounts: bool = True,
    ) -> bool:
        """Take a word of the session manager; say whether it changes anything.

        Args:
            number: Its number.
            shares: The shares by limit, where this is not the sole router.
            valid_until: Until when they may be used without a further word.
            now: The time.
            sole: Whether this is the sole router.
            accounts: Whether limits of accounts are shared, too.
        """
        before = (self.sole, self.accounts, self._shares)
        changed = not self.holds(now) or (sole, accounts, shares) != before
        self.kept = number
        self.sole = sole
        self.accounts = accounts
        self._shares = dict(shares)
        self._valid_until = max(self._valid_until, valid_until)
        self._alone = False
        return changed

    def unshared(self) -> None:
        """Note that the session manager gives no shares: limits hold for each router by itself."""
        self.sole = self._unshared = True

    def begin_stream(self, now: float) -> None:
        """Note that a new stream begins: numbers begin anew, and what has run out is not held."""
        self.kept = 0
        if not self.holds(now):
            self.sole = False
            self._shares = {}

    def unreachable(self, asked_at: float) -> bool:
        """Note that no session manager could be reached; say whether that changes anything.

        Args:
            asked_at: When they were asked.
        """
        before = self._alone
        if self._valid_until > float("-inf") and asked_at >= self._valid_until:
            self._alone = True
        return self._alone and not before

    def holds(self, now: float) -> bool:
        """Say whether what was given may be used."""
        return self._unshared or self._alone or now < self._valid_until

    def given(self, now: float) -> Mapping[str, int]:
        """Return the shares that may be used, where this is not the sole router."""
        return {} if self.sole or not self.holds(now) else self._shares

    def usable(self, key: str, limit: int, now: float) -> int:
        """Return how many calls all processes of this router may have running.

        Args:
            key: The limit: a replica, a session, or an account's.
            limit: All of it.
            now: The time.
        """
        if not self.holds(now):
            return 0
        if self.sole or (is_account_limit(key) and not self.accounts):
            return limit
        return min(limit, self._shares.get(key, 0))

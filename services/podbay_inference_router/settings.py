"""What an operator can set, in one place. Pure."""

from dataclasses import dataclass

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """The limits of one router worker.

    Attributes:
        queue_length: The most calls of one session that wait.
        queue_timeout: Seconds a call waits for a replica, where the route does not say; 0 refuses
            at once.
        settle_seconds: Seconds a call waits for a session that the session manager has not told
            of. It covers the moment between the creation of a session and the arrival of its route.
        call_timeout: Seconds a call may take where the caller names no deadline.
        max_body_bytes: The largest request body.
        max_answer_bytes: The largest answer, and the largest piece of a streamed answer.
        max_error_bytes: How much of a refusal's body is read before the connection is given up.
        account_in_flight: The most calls of one account that run at this router, over all sessions;
            0 for no limit.
        account_queue_length: The most calls of one account that wait, over all sessions; 0 for no
            limit of its own.
        account_queue_timeout: Seconds a call waits because its account has too many running; None
            for as long as the queue allows.
        retry_ratio: The share of a session's calls that may be sent a second time.
        failures_in_row: How many failed calls in a row set a replica aside; 0 for never.
        max_connections: The most calls that one replica works on at once, whatever its own limit.
        connect_timeout: Seconds until a connection to a replica is given up.
        idle_seconds: Seconds an unused connection is kept; less than the 5 s of common servers,
            so that a request never races the server's close.
        meters: Whether calls are counted for an operator to look at.
        leases: Whether workers share limits on what runs, call by call; otherwise the limits are
            divided among them.
        workers: How many workers share the port.
        worker_index: Which of them this is, from 0.
    """

    queue_length: int = 1024
    queue_timeout: float = 30.0
    settle_seconds: float = 0.5
    call_timeout: float = 600.0
    max_body_bytes: int = 64 << 20
    max_answer_bytes: int = 64 << 20
    max_error_bytes: int = 64 << 10
    account_in_flight: int = 0
    account_queue_length: int = 0
    account_queue_timeout: float | None = None
    retry_ratio: float = 0.1
    failures_in_row: int = 5
    max_connections: int = 4096
    connect_timeout: float = 2.0
    idle_seconds: float = 3.0
    meters: bool = False
    leases: bool = False
    workers: int = 1
    worker_index: int = 0

    def limits_of(self, max_concurrency: int, *, sole: bool = True) -> tuple[int, int]:
        """Tell how many calls may be at one replica.

        Args:
            max_concurrency: The replica's own limit; 0 for none.
            sole: Whether no other router calls it.

        Returns:
            The most of this worker; and the most of all workers, of other routers too, where they
            share the limit, else 0. Without leases each worker has its part of the limit, at least
            1: below one call a worker a limit cannot be divided, and a worker that may not call at
            all would leave its clients stuck.
        """
        if max_concurrency <= 0:
            return self.max_connections, 0
        if not sole or (self.workers > 1 and self.leases):
            return min(self.max_connections, max_concurrency), max_concurrency
        return min(self.max_connections, self.divided(max_concurrency)), 0

    def in_flight_of(self, limit: int) -> int:
        """Tell how many calls may run within the limit of a session or an account.

        Args:
            limit: The limit at all workers together; 0 for none.

        Returns:
            The most of this worker as far as it can tell without the others, which is all of it
            where they share it by leases, and its part otherwise; 0 for no limit.
        """
        if not limit or self.leases:
            return limit
        return self.divided(limit)

    def divided(self, limit: int) -> int:
        """Tell this worker's share of a limit that holds for all of them, at least 1."""
        share, rest = divmod(limit, self.workers)
        return max(1, share + (self.worker_index < rest))

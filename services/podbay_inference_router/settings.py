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
        max_connections: The most calls that one replica works on at once, whatever its own limit.
        connect_timeout: Seconds until a connection to a replica is given up.
        idle_seconds: Seconds an unused connection is kept; less than the 5 s of common servers,
            so that a request never races the server's close.
        workers: How many workers share the port; a replica's own limit is divided among them.
        worker_index: Which of them this is, from 0.
    """

    queue_length: int = 1024
    queue_timeout: float = 30.0
    settle_seconds: float = 0.5
    call_timeout: float = 600.0
    max_body_bytes: int = 64 << 20
    max_answer_bytes: int = 64 << 20
    max_error_bytes: int = 64 << 10
    max_connections: int = 4096
    connect_timeout: float = 2.0
    idle_seconds: float = 3.0
    workers: int = 1
    worker_index: int = 0

    def share_of(self, max_concurrency: int) -> int:
        """Tell how many calls this worker may have at one replica.

        Args:
            max_concurrency: The replica's own limit; 0 for none.

        Returns:
            This worker's share of the limit, at least 1: below one call a worker the limit cannot
            be divided, and a worker that may not call at all would leave its clients stuck.
        """
        if max_concurrency <= 0:
            return self.max_connections
        share, rest = divmod(max_concurrency, self.workers)
        return min(self.max_connections, max(1, share + (self.worker_index < rest)))

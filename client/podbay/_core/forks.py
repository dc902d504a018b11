"""What a fork leaves to the parent: gRPC's channels, and the threads and tasks that use them.

In the child nothing would ever answer a client that the parent made, nor, where the parent had used
gRPC, one that the child makes: mostly even where the parent had closed its own. Both are told so at
once, instead of running into their timeouts, or for ever into a lock.
"""

from __future__ import annotations

import os
from typing import Final, Protocol
from weakref import WeakSet

from podbay.errors import PodbayError, error_for

__all__ = ["follow", "left_error", "use_grpc"]

# By this gRPC itself is asked to go on in children, and what it takes for a yes. It does so in some
# programs and hangs in others: who asks for it has it.
_SUPPORT: Final = "GRPC_ENABLE_FORK_SUPPORT"
_YES: Final = frozenset({"1", "true", "yes"})


class Leaving(Protocol):
    """What cannot be used in a forked child."""

    def left_behind(self) -> None:
        """Be closed from now on, with new locks, and without touching what is the parent's."""


_followed: WeakSet[Leaving] = WeakSet()
_uses_grpc = False
_grpc_stayed = False


def follow(one: Leaving) -> None:
    """Have something leave in every child that is forked from now on."""
    _followed.add(one)


def left_error() -> PodbayError:
    """Return the error of a call on a client that stayed with the parent."""
    return error_for(
        "CANCELLED",
        "The client belongs to the process that this one was forked from, and cannot be used here. "
        "Make a client in each process.",
        not_started=True,
    )


def use_grpc() -> None:
    """Note that this process is about to use gRPC.

    Raises:
        UnreachableError: It was forked from one that did.
    """
    global _uses_grpc  # noqa: PLW0603 # there is one per process, by definition
    if _grpc_stayed:
        raise error_for(
            "SERVICE_UNREACHABLE",
            "This process was forked after its parent had made calls, and gRPC stays with the "
            "parent. Fork before the first call, or start processes by spawn, as with "
            'multiprocessing.set_start_method("spawn").',
            not_started=True,
        )
    _uses_grpc = True


def _leave() -> None:
    global _grpc_stayed  # noqa: PLW0603 # as above
    for one in list(_followed):
        one.left_behind()
    if _uses_grpc and os.environ.get(_SUPPORT, "").lower() not in _YES:
        _grpc_stayed = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave)

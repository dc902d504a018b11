"""How much an account may have: the form that the services share. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from podbay.v1 import account_pb2
from podbay_kit.errors import invalid

__all__ = ["GPU_PREFIX", "Quota", "changed_quota", "quota_of"]

GPU_PREFIX: Final = "gpus."
"""What the name of a limit on GPUs begins with, before the hardware type."""

_NUMBERS: Final = {
    "sessions": "sessions",
    "replicas": "replicas",
    "modelBytes": "model_bytes",
    "requestsInFlight": "requests_in_flight",
}
_MOST: Final = 1 << 53
_MOST_TYPES: Final = 100
_MOST_NAME: Final = 128


@dataclass(frozen=True, slots=True)
class Quota:
    """How much an account may have at once; None is not limited.

    Attributes:
        sessions: Sessions that have begun and not ended.
        replicas: The replicas of these sessions.
        gpus: GPUs that these replicas need, by hardware type; a type that is not named is not
            limited.
        model_bytes: Bytes of the files of its models.
        requests_in_flight: Calls with tokens of the account that run.
    """

    sessions: int | None = None
    replicas: int | None = None
    gpus: Mapping[str, int] = field(default_factory=dict)
    model_bytes: int | None = None
    requests_in_flight: int | None = None

    @property
    def limits(self) -> dict[str, int]:
        """The limits on sessions by name: "sessions", "replicas", "gpus.nvidia.com/gpu-t4"."""
        named = {"sessions": self.sessions, "replicas": self.replicas}
        named.update({GPU_PREFIX + kind: count for kind, count in self.gpus.items()})
        return {name: limit for name, limit in named.items() if limit is not None}

    def to_message(self) -> account_pb2.AccountQuota:
        """Return the message of the quota."""
        return account_pb2.AccountQuota(
            sessions=self.sessions,
            replicas=self.replicas,
            gpus=self.gpus,
            model_bytes=self.model_bytes,
            requests_in_flight=self.requests_in_flight,
        )

    def dump(self) -> str:
        """Return the quota as JSON text."""
        known: dict[str, Any] = {
            name: getattr(self, attribute)
            for name, attribute in _NUMBERS.items()
            if getattr(self, attribute) is not None
        }
        if self.gpus:
            known["gpus"] = dict(sorted(self.gpus.items()))
        return json.dumps(known)

    @classmethod
    def load(cls, text: str) -> Quota:
        """Read a quota from what `dump` wrote."""
        known = json.loads(text)
        return cls(
            **{attribute: known.get(name) for name, attribute in _NUMBERS.items()},
            gpus=known.get("gpus", {}),
        )


def quota_of(message: account_pb2.AccountQuota, path: str = "quota") -> Quota:
    """Read a quota.

    Args:
        message: The quota.
        path: Its path in the request, for errors.

    Raises:
        ServiceError: INVALID_REQUEST.
    """
    numbers = {
        attribute: getattr(message, attribute) if message.HasField(attribute) else None  # type: ignore[arg-type] # one of its fields
        for attribute in _NUMBERS.values()
    }
    for name, attribute in _NUMBERS.items():
        _check(numbers[attribute], f"{path}.{name}")
    if len(message.gpus) > _MOST_TYPES:
        raise invalid(f"{path}.gpus", f"names more than {_MOST_TYPES} hardware types")
    for kind, count in message.gpus.items():
        if not 0 < len(kind) <= _MOST_NAME or not kind.isprintable() or kind != kind.strip():
            raise invalid(
                f"{path}.gpus", f"holds a hardware type that is not 1 to {_MOST_NAME} characters"
            )
        _check(count, f"{path}.gpus.{kind}")
    return Quota(**numbers, gpus=dict(message.gpus))


def changed_quota(before: Quota, changes: Quota, unlimited: Iterable[str]) -> Quota:
    """Return a quota with changes.

    Args:
        before: The quota until now.
        changes: The limits that change; what is None stays.
        unlimited: The limits that are lifted, by their names in JSON.

    Raises:
        ServiceError: INVALID_REQUEST, where a name is not known, or both are asked for.
    """
    gpus = {**before.gpus, **changes.gpus}
    numbers = {
        attribute: getattr(before if getattr(changes, attribute) is None else changes, attribute)
        for attribute in _NUMBERS.values()
    }
    for index, name in enumerate(unlimited):
        path = f"unlimited.{index}"
        given: Any
        if name in _NUMBERS:
            given = getattr(changes, _NUMBERS[name]) is not None
            numbers[_NUMBERS[name]] = None
        elif name == "gpus":
            given = changes.gpus
            gpus.clear()
        elif name.startswith(GPU_PREFIX):
            kind = name.removeprefix(GPU_PREFIX)
            given = kind in changes.gpus
            gpus.pop(kind, None)
        else:
            known = ", ".join([*_NUMBERS, "gpus", "gpus.TYPE"])
            raise invalid(path, f"is not a limit; there are {known}")
        if given:
            raise invalid(path, "is a limit that the quota sets as well: give one of them")
    if len(gpus) > _MOST_TYPES:
        raise invalid("quota.gpus", f"would name more than {_MOST_TYPES} hardware types")
    return replace(Quota(**numbers), gpus=gpus)


def _check(value: int | None, path: str) -> None:
    if value is not None and not 0 <= value <= _MOST:
        raise invalid(path, f"must be from 0 to {_MOST}; to lift a limit, name it in unlimited")

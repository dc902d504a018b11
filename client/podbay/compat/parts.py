"""The parts of the platform's packages that Podbay has: where each name comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["PARTS", "Part", "missing_name", "missing_part"]

_ERRORS = {
    "DyffClientError": "podbay.errors:PodbayError",
    "HTTPError": "podbay.errors:StatusError",
    "HttpResponseError": "podbay.errors:StatusError",
    "TransportError": "podbay.errors:TransportError",
}
_CLIENT = {"Client": "podbay.compat.remote:Client"}
_LOCAL = {"DyffLocalPlatform": "podbay.compat.local:DyffLocalPlatform"}


@dataclass(frozen=True, slots=True)
class Part:
    """A module of the platform's.

    Attributes:
        source: The module of Podbay's whose public names it has; None for none.
        names: Further names, each with "module:name" of where it comes from.
        package: Whether it has modules of its own.
    """

    source: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    package: bool = False


_PLATFORM = Part("podbay.schema.platform")
_REQUESTS = Part("podbay.schema.requests")
_ADAPTERS = Part("podbay.schema.adapters")
_PACKAGE = Part(package=True)

PARTS: Mapping[str, Part] = {
    "dyff": _PACKAGE,
    "dyff.audit": _PACKAGE,
    "dyff.audit.local": Part(names=_LOCAL, package=True),
    "dyff.audit.local.mocks": Part("podbay.local.mocks"),
    "dyff.audit.local.platform": Part(names=_LOCAL),
    "dyff.client": Part(
        names={
            **_CLIENT,
            "InferenceSessionClient": "podbay._sync.inference:InferenceSessionClient",
            "Timeout": "podbay.compat.timeouts:Timeout",
            **_ERRORS,
        },
        package=True,
    ),
    "dyff.client.client": Part(names=_CLIENT),
    "dyff.client.errors": Part(names=_ERRORS),
    "dyff.schema": _PACKAGE,
    "dyff.schema.adapters": _ADAPTERS,
    "dyff.schema.ids": Part("podbay.schema.ids"),
    "dyff.schema.platform": _PLATFORM,
    "dyff.schema.requests": _REQUESTS,
    # The same by the names of their version.
    "dyff.schema.v0": _PACKAGE,
    "dyff.schema.v0.r1": _PACKAGE,
    "dyff.schema.v0.r1.adapters": _ADAPTERS,
    "dyff.schema.v0.r1.platform": _PLATFORM,
    "dyff.schema.v0.r1.requests": _REQUESTS,
}
"""Every module that can be imported."""


# What the parts that are not there are for, and what to use instead; the first that fits counts.
_PURPOSES = {
    "dyff.schema.dataset": "data sets; infer_many(items) runs a session over any iterable",
    "dyff.schema.io": "the formats of other servers; podbay.schema.adapters translates them",
    "dyff.schema.quantity": "quantities, which podbay.schema.platform checks by itself",
    "dyff.schema.responses": "the HTTP API, and Podbay speaks gRPC",
    "dyff.schema.commands": "the inside of the platform's server",
    "dyff.schema": "the inside of the platform's schema",
    "dyff.audit.workflows": "evaluations and reports; infer_many(items) runs a session over any "
    "iterable",
    "dyff.audit.analysis": "measurements and safety cases",
    "dyff.audit.scoring": "scores",
    "dyff.audit.metrics": "scores",
    "dyff.audit.data": "data sets; infer_many(items) runs a session over any iterable",
    "dyff.audit": "audits beyond inference",
    "dyff.client": "the inside of the HTTP client, and Podbay speaks gRPC",
}
_SHOWN = (
    "dyff.client, dyff.schema.platform, dyff.schema.requests, dyff.schema.adapters, "
    "dyff.schema.ids and dyff.audit.local"
)


def missing_part(module: str) -> str:
    """Say that a module is not there, what it would be for, and which are there."""
    plain = module.replace("dyff.schema.v0.r1", "dyff.schema")
    fits = (why for name, why in _PURPOSES.items() if f"{plain}.".startswith(f"{name}."))
    purpose = next(fits, "")
    about = f", which is for {purpose}" if purpose else ""
    return f"Podbay has no {module}{about}. Of the platform's packages it has {_SHOWN}"


def missing_name(module: str, name: str) -> str:
    """Say that a name of a module is not there."""
    purpose = missing_part(f"{module}.{name}") if PARTS[module].package else ""
    if ", which is for" in purpose and name.islower():
        return purpose
    return (
        f"Podbay has no {name!r} in {module}: it has what models, inference services and "
        "inference sessions need, and not the rest of the platform"
    )

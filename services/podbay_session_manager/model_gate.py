"""Whether a replica can be placed by the models whose files it mounts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from podbay_session_manager.records import DataMount, Reason, ServiceSpec

__all__ = ["COMING", "Gate", "ModelState", "Stand", "gate", "models_of"]

COMING: Final = frozenset({"Created", "Admitted", "WaitingForUpload"})
"""The statuses of models whose files are not there yet."""


class Stand(Enum):
    """Where a model stands, as far as replicas are concerned."""

    ASKED = auto()
    """The registry has not answered yet."""
    COMING = auto()
    """Its files are not there yet."""
    FAILED = auto()
    """Its files will never be there."""
    OPEN = auto()
    """Its files are there; or whoever starts the replica finds out, and says why not."""


@dataclass(frozen=True, slots=True)
class ModelState:
    """What the registry tells of a model."""

    stand: Stand
    status: str = ""
    """Its status, as "WaitingForUpload"."""
    message: str = ""
    """How far it is or why it failed, for people."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Why a replica is not placed now."""

    reason: Reason
    """MODEL_NOT_READY where waiting helps, FETCH_FAILED where it does not."""
    message: str
    model: str
    """The id of the model."""


def models_of(service: ServiceSpec) -> list[str]:
    """Return the ids of the models whose files a service mounts."""
    return [
        mount.source_id
        for mount in service.mounts
        if isinstance(mount, DataMount) and mount.source_kind == "Model"
    ]


def gate(service: ServiceSpec, models: Mapping[str, ModelState]) -> Gate | None:
    """Return what keeps replicas of a service from being placed; None where nothing does.

    Args:
        service: The service.
        models: What is known of models, by id; what is not in it keeps nothing.
    """
    found: Gate | None = None
    for model in models_of(service):
        state = models.get(model)
        if state is None or state.stand is Stand.OPEN:
            continue
        why = f" {state.message}" if state.message else ""
        if state.stand is Stand.FAILED:
            return Gate(
                Reason.FETCH_FAILED,
                f"for the files of the model {model}, which it mounts, in vain: they could not be "
                f"fetched.{why}",
                model,
            )
        told = (
            "the registry is asked for it."
            if state.stand is Stand.ASKED
            else f"it is {state.status}.{why}"
        )
        found = found or Gate(
            Reason.MODEL_NOT_READY,
            f"for the files of the model {model}, which it mounts: {told}",
            model,
        )
    return found

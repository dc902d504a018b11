"""The files of models for replicas: fetched from the registry once, kept while they are used."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from podbay.v1 import errors_pb2
from podbay_kit.errors import ServiceError
from podbay_kit.model_cache import ModelCache
from podbay_session_manager.drivers.containers.settings import NotThereYetError
from podbay_session_manager.model_gate import COMING
from podbay_session_manager.records import DataMount, SessionRecord

__all__ = ["ModelMounts", "mounted_models"]

_HOLDER: Final = "sessions"


def mounted_models(sessions: Iterable[SessionRecord]) -> frozenset[str]:
    """Return the ids of the models that replicas of sessions mount. Pure."""
    return frozenset(
        mount.source_id
        for session in sessions
        for mount in session.service.mounts
        if isinstance(mount, DataMount)
    )


class ModelMounts:
    """Finds the folders of models.

    Args:
        cache: Where they are kept on this machine.
    """

    def __init__(self, cache: ModelCache) -> None:
        self._cache = cache
        self._held: frozenset[str] = frozenset()

    async def resolve(self, mount: DataMount, moved: Callable[[int, int], object]) -> Path:
        """Return the folder of a mount's files, once all are there and verified.

        Args:
            mount: What is mounted.
            moved: Told how many bytes have come, and how many there will be.

        Raises:
            NotThereYetError: The model is not ready yet.
            LookupError: They cannot be had; the text says why, for people.
        """
        if mount.source_kind != "Model":
            raise LookupError(
                f"only models have files that can be mounted, and this is a {mount.source_kind}."
            )
        try:
            folder = await self._cache.ensure(
                mount.source_id,
                holder=_HOLDER,
                progress=lambda come: moved(come.done, come.total),
            )
        except ServiceError as error:
            coming = error.metadata.get("status") in COMING
            if error.reason == errors_pb2.ERROR_REASON_MODEL_NOT_READY and coming:
                raise NotThereYetError(error.message) from error
            raise LookupError(error.message) from error
        self._held |= {mount.source_id}
        return folder

    def keep(self, models: frozenset[str]) -> None:
        """Hold the models that sessions use, and no others, so that the room of those is free."""
        for model in models - self._held:
            self._cache.hold(model, _HOLDER)
        for model in self._held - models:
            self._cache.release(model, _HOLDER)
        self._held = models

"""What replicas mount: scratch space, and the files of resources."""

from __future__ import annotations

import asyncio
import hashlib
import posixpath
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from podbay_session_manager.drivers.containers.archives import (
    FilesUnreadableError,
    empty_file,
    folder_entry,
    size_of,
    tar_of,
)
from podbay_session_manager.drivers.containers.calls import EngineCalls
from podbay_session_manager.drivers.containers.config import (
    MountedFolder,
    declared_folders,
    memory_of,
)
from podbay_session_manager.drivers.containers.engine import (
    EngineClient,
    EngineConflictError,
    EngineError,
    EngineNotFoundError,
)
from podbay_session_manager.drivers.containers.failures import is_no_space
from podbay_session_manager.drivers.containers.labels import COPY, REPLICA, Ownership
from podbay_session_manager.drivers.containers.locks import KeyedLocks
from podbay_session_manager.drivers.containers.settings import DockerSettings, NotThereYetError
from podbay_session_manager.drivers.contract import LaunchSpec, StartFailedError, StartProgress
from podbay_session_manager.records import DataMount, Reason, ScratchMount

__all__ = ["Volumes"]

_PLACE: Final = "/podbay"
_COMPLETE: Final = ".podbay-complete"

HelperWork = Callable[[EngineClient, str], None]
"""What is done through a helper, by its id; may block."""


class Volumes:
    """The volumes of one engine.

    Args:
        calls: The engine.
        owner: Whose they are.
        settings: What the operator allows.
        helpers: The names of helper containers that are in use now.
        local: Whether the engine sees this machine's files.
    """

    def __init__(
        self,
        calls: EngineCalls,
        owner: Ownership,
        settings: DockerSettings,
        helpers: set[str],
        *,
        local: bool,
    ) -> None:
        self._calls = calls
        self._owner = owner
        self._settings = settings
        self._helpers = helpers
        self._local = local
        self._complete: set[str] = set()
        self._locks = KeyedLocks()
        self._copying: dict[str, StartProgress] = {}
        self._fetching: dict[str, StartProgress] = {}
        self._users: defaultdict[str, set[str]] = defaultdict(set)

    async def prepare(self, spec: LaunchSpec, image: Mapping[str, Any]) -> list[MountedFolder]:
        """Make ready what a replica mounts. Idempotent.

        Args:
            spec: The replica.
            image: What the engine knows of its image.

        Raises:
            StartFailedError: It cannot be had.
            DriverUnreachableError: The engine cannot be reached.
        """
        made: list[MountedFolder] = []
        for mount in spec.service.mounts:
            if not mount.path.startswith("/") or posixpath.normpath(mount.path) == "/":
                raise StartFailedError(
                    Reason.DATA_UNAVAILABLE,
                    f"The mount {mount.name!r} has the path {mount.path!r}; it must be absolute, "
                    "and not the root. Mend the service's volumeMounts.",
                )
            if isinstance(mount, DataMount):
                made.append(await self._data(spec, mount))
            else:
                made.append(await self._scratch(spec, mount))
        if not self._settings.unbounded_scratch:
            paths = declared_folders(image, [mount.path for mount in made])
            made.extend([await self._of_image(spec, path) for path in paths])
        return made

    def progress(self, replica_id: str) -> StartProgress | None:
        """Return how far the files for a replica have come."""
        if replica_id in self._fetching:
            return self._fetching[replica_id]
        for name, users in self._users.items():
            if replica_id in users and name in self._copying:
                return self._copying[name]
        return None

    def give_back(self, replica_id: str) -> None:
        """Note that a replica's container holds what it mounts, or that there will be none."""
        for name in [n for n, users in self._users.items() if replica_id in users]:
            self._users[name].discard(replica_id)
            if not self._users[name]:
                del self._users[name]

    async def remove_scratch(self, replica_id: str) -> None:
        """Remove the scratch volumes of a removed replica. Idempotent."""
        labels = {**self._owner.mine, REPLICA: replica_id}
        for volume in await self._calls.ask(lambda engine: engine.volumes(labels)):
            await self._remove(str(volume["Name"]))

    async def scratch_owners(self) -> frozenset[str]:
        """Return the replicas that have scratch volumes."""
        labels = {**self._owner.mine, REPLICA: ""}
        found = await self._calls.ask(lambda engine: engine.volumes(labels))
        return frozenset(volume["Labels"][REPLICA] for volume in found)

    async def drop_copies(self, keep: frozenset[str]) -> None:
        """Remove copies of resources that are not in `keep` and that nothing uses."""
        labels = {**self._owner.mine, COPY: ""}
        for volume in await self._calls.ask(lambda engine: engine.volumes(labels)):
            name = str(volume["Name"])
            if volume["Labels"][COPY] not in keep and not self._users.get(name):
                async with self._locks.of(name):
                    self._complete.discard(name)
                    await self._remove(name)

    async def _remove(self, name: str) -> None:
        try:
            await self._calls.tell(lambda engine: engine.remove_volume(name))
        except EngineNotFoundError:
            pass
        except EngineConflictError:
            # In use: whoever removes the container that uses it comes here again.
            pass

    async def _scratch(self, spec: LaunchSpec, mount: ScratchMount) -> MountedFolder:
        if mount.capacity_bytes <= memory_of(spec.service, self._settings) // 2:
            return MountedFolder(mount.path, memory_bytes=max(mount.capacity_bytes, 1 << 16))
        name = self._owner.name(spec.replica_id, _digest(mount.name))
        labels = self._owner.labels(replica=spec.replica_id, scratch=mount.name)
        size = {"size": str(mount.capacity_bytes)}
        try:
            await self._calls.tell(lambda engine: engine.create_volume(name, labels, size))
        except EngineError as error:
            if not self._settings.unbounded_scratch:
                raise StartFailedError(
                    Reason.DATA_UNAVAILABLE,
                    f"The scratch space {mount.name!r} of {mount.capacity_bytes} bytes is more "
                    "than half of the replica's memory, so that it must be on the node's disk, "
                    f"and the engine cannot bound it there: {error.text}. Ask for less or for "
                    "more memory, give the engine a disk with project quotas (XFS, pquota), or "
                    "let the operator allow scratch space without bounds "
                    "(--allow-unbounded-scratch).",
                ) from error
            await self._calls.tell(lambda engine: engine.create_volume(name, labels))
        await self._open_to_all(spec.service.image, name)
        return MountedFolder(mount.path, source=name, volume=True)

    async def _of_image(self, spec: LaunchSpec, path: str) -> MountedFolder:
        """Give a folder that an image declares as a volume as it is, to be read only.

        The engine would make it writable, on the node's disk, where nothing bounds it.
        """
        name = self._owner.name(spec.replica_id, _digest(f"image {path}"))
        labels = self._owner.labels(replica=spec.replica_id, image=path)
        await self._calls.tell(lambda engine: engine.create_volume(name, labels))
        return MountedFolder(path, source=name, volume=True, read_only=True, filled=True)

    async def _open_to_all(self, image: str, volume: str) -> None:
        """Let every user of its container write to a volume, which root owns at first."""

        def work(engine: EngineClient, helper: str) -> None:
            engine.put_archive(helper, "/", folder_entry(_PLACE[1:], 0o1777))

        await self._with_helper(image, volume, work)

    async def _data(self, spec: LaunchSpec, mount: DataMount) -> MountedFolder:
        folder = await self._resolve(spec, mount)
        if self._local:
            return MountedFolder(mount.path, source=str(folder), read_only=True)
        name = self._owner.name("data", _digest(f"{mount.source_kind}/{mount.source_id}"))
        self._users[name].add(spec.replica_id)
        async with self._locks.of(name):
            if name not in self._complete:
                await self._copy(spec.service.image, name, folder, mount)
                self._complete.add(name)
        return MountedFolder(mount.path, source=name, volume=True, read_only=True)

    async def _resolve(self, spec: LaunchSpec, mount: DataMount) -> Path:
        what = f"the {mount.source_kind} {mount.source_id} for the mount {mount.name!r}"
        resolve = self._settings.resolve_mount
        if resolve is None:
            raise StartFailedError(
                Reason.DATA_UNAVAILABLE,
                f"This installation does not keep files of resources, so that {what} cannot be "
                "had. Leave the mount out.",
            )
        loop = asyncio.get_running_loop()
        doing = f"fetching the {mount.source_kind} {mount.source_id}"

        def moved(done: int, total: int) -> None:
            self._fetching[spec.replica_id] = StartProgress(doing, done, total, loop.time())

        try:
            folder = await resolve(mount, moved)
        except LookupError as error:
            later = isinstance(error, NotThereYetError)
            raise StartFailedError(
                Reason.MODEL_NOT_READY if later else Reason.DATA_UNAVAILABLE,
                f"There are no files of {what}: {error.args[0]}",
            ) from error
        finally:
            self._fetching.pop(spec.replica_id, None)
        if not await asyncio.to_thread(folder.is_dir):
            raise StartFailedError(
                Reason.DATA_UNAVAILABLE,
                f"The files of {what} are not there any more. Fetch or upload them again.",
            )
        return folder.absolute()

    async def _copy(self, image: str, volume: str, folder: Path, mount: DataMount) -> None:
        """Copy a folder into a volume, unless it was copied before."""
        loop = asyncio.get_running_loop()
        labels = self._owner.labels(copy=mount.source_id)
        total = 0
        doing = f"copying the {mount.source_kind} {mount.source_id} to the node"

        def moved(done: int) -> None:
            self._copying[volume] = StartProgress(doing, done, total, loop.time())

        def work(engine: EngineClient, helper: str) -> None:
            if not engine.has_path(helper, f"{_PLACE}/{_COMPLETE}"):
                engine.put_archive(helper, _PLACE, tar_of(folder, moved=moved))
                engine.put_archive(helper, _PLACE, empty_file(_COMPLETE))

        try:
            total = await asyncio.to_thread(size_of, folder)
            moved(0)
            await self._calls.tell(lambda engine: engine.create_volume(volume, labels))
            await self._with_helper(image, volume, work)
        except FilesUnreadableError as error:
            raise StartFailedError(
                Reason.DATA_UNAVAILABLE,
                f"The files of the {mount.source_kind} {mount.source_id} cannot be read: {error}. "
                "Fetch or upload them again.",
            ) from error
        except EngineError as error:
            if is_no_space(error.text):
                await self._remove(volume)
                raise StartFailedError(
                    Reason.DISK_FULL,
                    f"The node's disk has no room for the {total} bytes of the "
                    f"{mount.source_kind} {mount.source_id}. Make some, or give the engine a "
                    "larger disk.",
                ) from error
            raise
        finally:
            self._copying.pop(volume, None)

    async def _with_helper(self, image: str, volume: str, work: HelperWork) -> None:
        """Reach into a volume through a container that never runs.

        Its image does not matter, and that of the replica is there.
        """
        name = f"{volume}-helper"
        config = {
            "Image": image,
            "Cmd": ["true"],
            "Labels": self._owner.labels(helper="volume"),
            "NetworkDisabled": True,
            "HostConfig": {
                "NetworkMode": "none",
                "Mounts": [
                    {
                        "Type": "volume",
                        "Source": volume,
                        "Target": _PLACE,
                        "VolumeOptions": {"NoCopy": True},
                    }
                ],
            },
        }

        def whole(engine: EngineClient) -> None:
            try:
                helper = engine.create(name, config)
            except EngineConflictError:
                # Left by a session manager that ended in the middle of this.
                engine.remove(name, force=True)
                helper = engine.create(name, config)
            try:
                work(engine, helper)
            finally:
                engine.remove(helper, force=True)

        self._helpers.add(name)
        try:
            await self._calls.stream(whole, bulk=True)
        finally:
            self._helpers.discard(name)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]

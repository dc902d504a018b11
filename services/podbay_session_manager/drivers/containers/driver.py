"""Replicas as containers of one node's Docker Engine.

What is true is what the engine lists: nothing about a replica is kept here that its container's
labels do not say, so that another session manager goes on. Containers carry their labels from the
moment they are created.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final
from urllib.parse import quote

from podbay_kit.tasks import TaskSet
from podbay_session_manager.declared_nodes import DeclaredNode
from podbay_session_manager.drivers.containers.addresses import published_at
from podbay_session_manager.drivers.containers.begun import BegunStart
from podbay_session_manager.drivers.containers.calls import EngineCalls
from podbay_session_manager.drivers.containers.config import container_config
from podbay_session_manager.drivers.containers.engine import (
    EngineConflictError,
    EngineError,
    EngineNotFoundError,
)
from podbay_session_manager.drivers.containers.failures import start_failure
from podbay_session_manager.drivers.containers.gpu_looks import GpuLooks
from podbay_session_manager.drivers.containers.images import Images
from podbay_session_manager.drivers.containers.labels import REPLICA, SESSION, Ownership
from podbay_session_manager.drivers.containers.logs import ContainerLogs
from podbay_session_manager.drivers.containers.memory_kills import with_memory_kill
from podbay_session_manager.drivers.containers.networks import SessionNetworks
from podbay_session_manager.drivers.containers.observe import is_running, observed
from podbay_session_manager.drivers.containers.probe import NodeProbe
from podbay_session_manager.drivers.containers.registry_names import knows_name
from podbay_session_manager.drivers.containers.settings import DockerSettings
from podbay_session_manager.drivers.containers.stops import Stops
from podbay_session_manager.drivers.containers.support import supports_image
from podbay_session_manager.drivers.containers.sweep import Sweeper
from podbay_session_manager.drivers.containers.tunnel import SshTunnel
from podbay_session_manager.drivers.containers.volumes import Volumes
from podbay_session_manager.drivers.contract import (
    DriverUnreachableError,
    LaunchSpec,
    LogChunk,
    NodeFacts,
    ObservedReplica,
    ReplicaDriver,
    ReplicaStillRunningError,
    StartFailedError,
    StartFailure,
    StartProgress,
    UnknownReplicaError,
)
from podbay_session_manager.records import ServiceSpec

__all__ = ["DockerDriver"]

_LOG = logging.getLogger(__name__)
_STOP_SIGNAL: Final = "SIGTERM"


@contextmanager
def _refusal_is_unknown(node: str) -> Iterator[None]:
    """Take an engine that refuses a question for one that cannot be asked."""
    try:
        yield
    except EngineError as error:
        raise DriverUnreachableError(f"The engine of node {node} said: {error.text}") from error


class DockerDriver(ReplicaDriver):
    """Runs replicas as containers of one engine.

    Args:
        node: The node.
        settings: What all nodes have in common.
        engine: The engine's address; the node's own unless something stands in between.
    """

    kind = "docker"
    # Most wait for an image; what engines are asked for at once is bounded by itself.
    starts_at_once = 64

    def __init__(
        self, node: DeclaredNode, settings: DockerSettings, *, engine: str | None = None
    ) -> None:
        super().__init__()
        self.name = f"{self.kind}/{node.name}"
        self._node = node
        self._settings = settings
        self._owner = Ownership(settings.installation, settings.generation)
        self._tasks = TaskSet()
        address = engine or node.engine
        self._tunnel = (
            SshTunnel(address, settings.ssh_options) if address.startswith("ssh:") else None
        )
        self._calls = EngineCalls(
            node.name,
            self._tunnel.url if self._tunnel is not None else address,
            node.tls,
            self.changed.set,
            quick=settings.call_seconds,
            connect=self._tunnel.ensure if self._tunnel is not None else None,
            permitted=lambda: self.permitted(),  # noqa: PLW0108 # it is set later
        )
        helpers: set[str] = set()
        self._images = Images(
            self._calls, self._tasks, lambda image: asyncio.to_thread(knows_name, image)
        )
        self._networks = SessionNetworks(
            self._calls, self._owner, published=bool(node.address), subnets=settings.subnets
        )
        self._volumes = Volumes(
            self._calls,
            self._owner,
            settings,
            helpers,
            local=node.engine.startswith("unix:") and not settings.copy_data,
        )
        self._logs = ContainerLogs(
            self._calls, settings.folder / quote(node.name, safe=""), settings.log_bytes
        )
        self._stops = Stops(self._calls, self._tasks)
        self._probe = NodeProbe(
            node, self._calls, self._images, self._owner, settings, helpers, self._tasks
        )
        self._sweeper = Sweeper(
            self._calls, self._owner, self._networks, self._volumes, self._tasks, helpers
        )
        self._gpu_looks = GpuLooks(
            self._calls,
            settings.generation,
            settings.gpu_probe_seconds,
            self._tasks,
            self.changed.set,
        )
        self._starts: dict[str, BegunStart] = {}
        # What goes on of starts that were given up, as the copy of a model.
        self._left: set[asyncio.Task[Any]] = set()
        # What was seen of containers, by their ids: an end does not change any more, nor does
        # where one runs.
        self._details: dict[str, Mapping[str, Any]] = {}

    @property
    def starting(self) -> Collection[str]:
        """The replicas whose image is being pulled, or whose container is being made or started."""
        return self._starts.keys()

    def supports(self, service: ServiceSpec) -> str | None:
        """Return None for services with an image, else why not."""
        return supports_image(service, self._settings)

    async def nodes(self) -> Sequence[NodeFacts]:
        """Return the node, with what differs from its declaration."""
        with _refusal_is_unknown(self._node.name):
            return [await self._probe.facts()]

    async def start(self, spec: LaunchSpec) -> None:
        """Pull the image where it is not there, create a container, and start it."""
        start = self._starts.get(spec.replica_id)
        if start is None:
            # Whoever waits may go away; the start then finishes, and `list` shows what came of it.
            start = self._starts[spec.replica_id] = BegunStart(spec)
            start.task = self._tasks.spawn(f"start-{spec.replica_id}", self._start(start))
        failure = None if start.task is None else await asyncio.shield(start.task)
        if failure is not None:
            raise failure

    def progress(self, replica_id: str) -> StartProgress | None:
        """Return how far the pull of its image or the copy of its data has come."""
        start = self._starts.get(replica_id)
        if start is None:
            return None
        return self._images.progress(start.spec.service.image) or self._volumes.progress(replica_id)

    async def list(self) -> Sequence[ObservedReplica]:
        """Return what the engine lists of this installation."""
        containers = await self._containers()
        self._calls.watch_events(self._owner.mine)
        self._sweeper.sweep_soon(frozenset(self._starts))
        known = {str(container["Id"]) for container in containers}
        self._details = {k: v for k, v in self._details.items() if k in known}
        with _refusal_is_unknown(self._node.name):
            seen = await asyncio.gather(*(self._look(container) for container in containers))
        self._gpu_looks.look_soon([d for d in self._details.values() if is_running(d)])
        return [replica for replica in seen if replica is not None]

    async def stop(self, replica_id: str, grace: float) -> None:
        """Send the image's stop signal, and SIGKILL when the grace is over.

        What still pulls its image or waits for its data is given up at once.
        """
        start = self._starts.get(replica_id)
        if start is not None and start.give_up():
            return
        name = self._container(replica_id)
        await self._stops.stop(name, grace, self._stop_signal(replica_id))

    async def remove(self, replica_id: str) -> None:
        """Take over the log, and remove the container with what only it used."""
        name = self._container(replica_id)
        with _refusal_is_unknown(self._node.name):
            details = await self._inspect(name)
        if details is None:
            return
        if is_running(details):
            raise ReplicaStillRunningError(f"replica {replica_id} has not ended")
        if replica_id in self._starts:
            raise ReplicaStillRunningError(f"replica {replica_id} is being started")
        try:
            await self._logs.take_over(replica_id, name, ended=True)
        except EngineError as error:
            # Of a container that never ran, or that is half gone.
            _LOG.info("no log of %s: %s", name, error)
        try:
            with _refusal_is_unknown(self._node.name):
                await self._remove_container(name)
        finally:
            self._sweeper.due()
        self._stops.forget(name)
        self._logs.forget(replica_id)
        self.changed.set()
        await self._sweeper.clean(str(details["Config"]["Labels"].get(SESSION, "")), replica_id)

    async def read_log(self, replica_id: str, offset: int, limit: int) -> LogChunk:
        """Take over what is new in the container's log, and read from that."""
        unreachable: DriverUnreachableError | None = None
        name = self._container(replica_id)
        try:
            ended = self._ended(replica_id)
            await self._logs.take_over(replica_id, name, ended=ended, patient=True)
        except DriverUnreachableError as error:
            unreachable = error
        except EngineError as error:
            _LOG.info("no log of %s: %s", name, error)
        chunk = await self._logs.read(replica_id, offset, limit)
        if chunk is None:
            if unreachable is not None:
                raise unreachable
            raise UnknownReplicaError(f"there is no log of replica {replica_id}")
        return chunk

    async def drop_logs(self, keep: frozenset[str]) -> None:
        """Delete the logs of replicas without a container."""
        containers = await self._containers()
        held = {str(container["Labels"][REPLICA]) for container in containers}
        await self._logs.drop(keep | held | self._starts.keys())

    async def drop_data(self, keep: frozenset[str]) -> None:
        """Delete copies of data that no container uses."""
        with _refusal_is_unknown(self._node.name):
            await self._volumes.drop_copies(keep)

    async def close(self) -> None:
        """Close the connections; containers go on."""
        await self._tasks.close()
        for left in self._left:
            left.cancel()
        await asyncio.gather(*self._left, return_exceptions=True)
        await self._calls.close()
        if self._tunnel is not None:
            await self._tunnel.close()

    async def _containers(self) -> Sequence[Mapping[str, Any]]:
        labels = {**self._owner.mine, REPLICA: ""}
        with _refusal_is_unknown(self._node.name):
            return await self._calls.ask(lambda engine: engine.containers(labels))

    def _container(self, replica_id: str) -> str:
        return self._owner.name(replica_id)

    async def _start(self, start: BegunStart) -> StartFailure | None:
        """Start a replica that is not there yet; return why that failed."""
        spec = start.spec
        try:
            with _refusal_is_unknown(self._node.name):
                if await self._inspect(self._container(spec.replica_id)) is None:
                    await self._create_and_start(start)
        except (StartFailedError, DriverUnreachableError) as error:
            self._sweeper.due()
            return error
        finally:
            if start.left is None:
                self._give_back(spec)
            else:
                self._left.add(start.left)
                start.left.add_done_callback(partial(self._on_left_done, spec))
            self._starts.pop(spec.replica_id, None)
            self.changed.set()
        return None

    def _on_left_done(self, spec: LaunchSpec, left: asyncio.Task[Any]) -> None:
        """Clean up what a start had begun that was given up meanwhile."""
        self._left.discard(left)
        self._give_back(spec)
        self._sweeper.due()
        if not left.cancelled() and (error := left.exception()) is not None:
            _LOG.info("of %s, which was stopped meanwhile: %s", spec.replica_id, error)

    def _give_back(self, spec: LaunchSpec) -> None:
        self._networks.give_back(spec.session_id, spec.replica_id)
        self._volumes.give_back(spec.replica_id)

    async def _inspect(self, name: str) -> Mapping[str, Any] | None:
        try:
            return await self._calls.ask(lambda engine: engine.inspect(name))
        except EngineNotFoundError:
            return None

    async def _remove_container(self, name: str) -> None:
        try:
            await self._calls.tell(lambda engine: engine.remove(name))
        except (EngineNotFoundError, EngineConflictError) as error:
            _LOG.debug("%s is being removed already: %s", name, error)

    async def _create_and_start(self, start: BegunStart) -> None:
        spec = start.spec
        name = self._container(spec.replica_id)
        try:
            image = await start.unless_stopped(self._images.ensure(spec.service.image))
            network = await self._networks.take(
                spec.session_id, spec.replica_id, egress=spec.service.egress
            )
            mounts = await start.unless_stopped(self._volumes.prepare(spec, image))
            address = await published_at(self._node.name, self._node.address)
            config = container_config(
                spec,
                image,
                network,
                mounts,
                self._owner,
                self._settings,
                address=address,
            )
            start.make()
            try:
                await self._calls.tell(lambda engine: engine.create(name, config))
            except EngineConflictError:
                # Somebody else made it meanwhile; `list` shows what comes of it.
                return
            start.check()
            await self._calls.tell(lambda engine: engine.start(name))
        except (EngineError, StartFailedError) as error:
            await self._undo(spec, name)
            if isinstance(error, EngineError):
                raise start_failure(spec, error) from error
            raise

    async def _undo(self, spec: LaunchSpec, name: str) -> None:
        """Remove what a failed start left. Where that fails, `list` shows it."""
        try:
            await self._calls.tell(lambda engine: engine.remove(name, force=True))
        except EngineNotFoundError:
            pass
        except EngineError as error:
            _LOG.warning("%s could not be removed: %s", name, error)
        self._give_back(spec)
        await self._sweeper.clean(spec.session_id, spec.replica_id)

    async def _look(self, container: Mapping[str, Any]) -> ObservedReplica | None:
        """Return what is to be told of a container in the engine's list."""
        identity = str(container["Id"])
        replica_id = str(container["Labels"][REPLICA])
        running = container["State"] in {"running", "paused", "restarting"}
        if not running and replica_id in self._starts:
            # Created and not started yet.
            return None
        details = self._details.get(identity)
        if details is None or is_running(details) != running:
            details = await self._inspect(identity)
            if details is None:
                return None
            if not self._stops.under_way(self._container(replica_id)):
                details = await with_memory_kill(self._calls, details)
            self._details[identity] = details
        seen = observed(details, self._node)
        if not seen.running:
            self._stops.forget(self._container(replica_id))
            return seen
        return replace(seen, lost_gpus=self._gpu_looks.trouble(identity))

    def _ended(self, replica_id: str) -> bool:
        details = self._details_of(replica_id)
        return details is not None and not is_running(details)

    def _stop_signal(self, replica_id: str) -> str:
        details = self._details_of(replica_id) or {}
        return str((details.get("Config") or {}).get("StopSignal") or _STOP_SIGNAL)

    def _details_of(self, replica_id: str) -> Mapping[str, Any] | None:
        for details in self._details.values():
            if details["Config"]["Labels"].get(REPLICA) == replica_id:
                return details
        return None

"""What a node really has, beside what was declared of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from podbay_kit.tasks import TaskSet
from podbay_session_manager.declared_nodes import DeclaredGpu, DeclaredNode
from podbay_session_manager.drivers.containers.calls import EngineCalls
from podbay_session_manager.drivers.containers.config import probe_config
from podbay_session_manager.drivers.containers.engine import (
    EngineClient,
    EngineConflictError,
    EngineError,
)
from podbay_session_manager.drivers.containers.images import Images
from podbay_session_manager.drivers.containers.labels import Ownership
from podbay_session_manager.drivers.containers.settings import DockerSettings
from podbay_session_manager.drivers.contract import (
    DriverUnreachableError,
    NodeFacts,
    StartFailedError,
)

__all__ = ["LOOKING", "GpuLook", "NodeProbe", "compare", "compare_gpus", "identity", "parse_gpus"]

_MIB: Final = 1 << 20
# A GPU's memory is told without what its driver keeps for itself.
_MEMORY_SLACK: Final = 0.9
_FIRST_LOOK_SECONDS: Final = 5.0

LOOKING: Final = "its GPUs are being looked at"
"""The warning until the first look has an end."""


@dataclass(frozen=True, slots=True)
class GpuLook:
    """What a look at the GPUs of a node found."""

    warnings: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    """The ids of declared GPUs that cannot be used."""


class NodeProbe:
    """Looks at one node.

    Args:
        node: The node as it was declared.
        calls: Its engine.
        images: Its images.
        owner: Whose the container is that looks at GPUs.
        settings: Which image has nvidia-smi, and how often to look.
        helpers: The names of helper containers that are in use now.
        tasks: Where looks run.
    """

    def __init__(
        self,
        node: DeclaredNode,
        calls: EngineCalls,
        images: Images,
        owner: Ownership,
        settings: DockerSettings,
        helpers: set[str],
        tasks: TaskSet,
    ) -> None:
        self._helpers = helpers
        self._node = node
        self._calls = calls
        self._images = images
        self._owner = owner
        self._settings = settings
        self._tasks = tasks
        self._look: GpuLook | None = None
        self._looked_at = float("-inf")
        self._task: asyncio.Task[None] | None = None

    async def facts(self) -> NodeFacts:
        """Return what the node has, and what differs from its declaration.

        Raises:
            DriverUnreachableError: Its engine cannot be reached.
        """
        info = await self._calls.ask(lambda engine: engine.info())
        looked = await self._gpus()
        warnings, cpus, memory = compare(self._node, info, has_probe=bool(self._probe_image))
        return NodeFacts(
            name=self._node.name,
            address=self._node.address,
            cpus=cpus,
            memory_bytes=memory,
            warnings=(*warnings, *looked.warnings),
            failed_gpus=looked.failed,
            engine=identity(info),
        )

    @property
    def _probe_image(self) -> str:
        return self._settings.gpu_probe_image if self._node.gpus else ""

    async def _gpus(self) -> GpuLook:
        """Return what the last look found; begin another one where that was long ago.

        Nobody waits for a look but for the first one, and for that one not long: the image may
        have to be pulled.
        """
        if not self._probe_image:
            return GpuLook()
        now = asyncio.get_running_loop().time()
        under_way = self._task is not None and not self._task.done()
        if not under_way and now - self._looked_at >= self._settings.gpu_probe_seconds:
            self._looked_at = now
            self._task = self._tasks.spawn("look-at-gpus", self._look_again(self._probe_image))
        if self._look is None and self._task is not None:
            await asyncio.wait({self._task}, timeout=_FIRST_LOOK_SECONDS)
        return self._look or GpuLook((LOOKING,))

    async def _look_again(self, image: str) -> None:
        try:
            self._look = await self._look_at_gpus(image)
        except DriverUnreachableError:
            # That says nothing of the GPUs; the next one who asks begins again.
            self._looked_at = float("-inf")

    async def _look_at_gpus(self, image: str) -> GpuLook:
        gpus = self._node.gpus
        config = probe_config(image, self._owner, self._settings)
        name = self._owner.name("gpu-probe", self._node.name)
        try:
            await self._images.ensure(image)
            self._helpers.add(name)
            code, output = await self._calls.stream(lambda engine: _run(engine, name, config))
        except StartFailedError as error:
            # That says nothing of the GPUs.
            return GpuLook((f"its GPUs could not be looked at: {error.message}",))
        except EngineError as error:
            why = f"containers get no GPUs: {error.text}"
            return GpuLook((why,), tuple(gpu.id for gpu in gpus))
        finally:
            self._helpers.discard(name)
        if code:
            last = output.strip().splitlines()[-1:] or ["it wrote nothing"]
            why = f"nvidia-smi ended with exit code {code}: {last[0][:200]}"
            return GpuLook((why,), tuple(gpu.id for gpu in gpus))
        return compare_gpus(gpus, parse_gpus(output))


@dataclass(frozen=True, slots=True)
class SeenGpu:
    """A GPU as nvidia-smi tells of it."""

    index: str
    uuid: str
    model: str
    memory_bytes: int


def parse_gpus(output: str) -> Sequence[SeenGpu]:
    """Return the GPUs in the output of nvidia-smi: index, UUID, name and MiB, by commas. Pure."""
    seen: list[SeenGpu] = []
    for line in output.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 4 and parts[0].isdecimal():
            memory = int(parts[3]) * _MIB if parts[3].isdecimal() else 0
            seen.append(SeenGpu(parts[0], parts[1], parts[2], memory))
    return seen


def compare_gpus(declared: Sequence[DeclaredGpu], seen: Sequence[SeenGpu]) -> GpuLook:
    """Return what differs between the GPUs that were declared and those that are there. Pure."""
    by_id = {name: gpu for gpu in seen for name in (gpu.index, gpu.uuid)}
    warnings: list[str] = []
    failed: list[str] = []
    taken: dict[str, str] = {}
    for gpu in declared:
        found = by_id.get(gpu.id)
        if found is not None and taken.setdefault(found.uuid, gpu.id) != gpu.id:
            # By its index and by its UUID: it would be given to two replicas.
            warnings.append(f"the GPU {gpu.id} is the GPU {taken[found.uuid]}, declared once more")
            failed.append(gpu.id)
            continue
        if found is None:
            warnings.append(f"the GPU {gpu.id} ({gpu.hardware_type}) is not there, or has failed")
            failed.append(gpu.id)
        elif gpu.memory_bytes and found.memory_bytes < gpu.memory_bytes * _MEMORY_SLACK:
            warnings.append(
                f"the GPU {gpu.id} ({found.model}) has {found.memory_bytes // _MIB} MiB of memory, "
                f"and {gpu.memory_bytes // _MIB} MiB were declared"
            )
    known = {gpu.id for gpu in declared}
    warnings.extend(
        f"the GPU {gpu.index} ({gpu.model}, {gpu.uuid}) was not declared, and is not used"
        for gpu in seen
        if not known & {gpu.index, gpu.uuid}
    )
    return GpuLook(tuple(warnings), tuple(failed))


def compare(
    node: DeclaredNode, info: Mapping[str, Any], *, has_probe: bool
) -> tuple[list[str], int, int]:
    """Return what differs from a declaration, and the processors and memory to count with. Pure.

    Args:
        node: The declaration.
        info: What the engine tells.
        has_probe: Whether its GPUs are looked at.
    """
    cpus = int(info.get("NCPU") or 0)
    memory = int(info.get("MemTotal") or 0)
    warnings: list[str] = []
    if node.cpus > cpus:
        warnings.append(f"{node.cpus:g} CPUs were declared, and the engine has {cpus}")
    if node.memory_bytes > memory:
        warnings.append(
            f"{node.memory_bytes // _MIB} MiB of memory were declared, and the engine has "
            f"{memory // _MIB} MiB"
        )
    for name, what in (
        ("MemoryLimit", "memory"),
        ("CpuCfsQuota", "CPU"),
        ("PidsLimit", "process"),
    ):
        if info.get(name) is False:
            warnings.append(f"its kernel cannot keep {what} limits, so that replicas are unbounded")
    if info.get("LiveRestoreEnabled") is False:
        warnings.append(
            "live-restore is off: its replicas end when the engine is restarted (daemon.json: "
            '"live-restore": true)'
        )
    if node.gpus and not has_probe:
        warnings.append("its GPUs are not looked at: no image with nvidia-smi is set")
    warnings.extend(str(line) for line in info.get("Warnings") or () if "swap" not in line.lower())
    return (
        warnings,
        max(1, int(min(node.cpus, cpus) if node.cpus else cpus)),
        min(node.memory_bytes, memory) if node.memory_bytes else memory,
    )


def identity(info: Mapping[str, Any]) -> str:
    """Return what tells an engine from others, at whatever address it is reached. Pure.

    Its id alone does not: machines that are copies of one another may have the same, and so have
    engines of 20.10 that share a machine.
    """
    if not info.get("ID"):
        return ""
    return " ".join(str(info.get(part) or "") for part in ("ID", "Name", "DockerRootDir"))


def _run(engine: EngineClient, name: str, config: Mapping[str, Any]) -> tuple[int, str]:
    """Run a container to its end; return its exit code and what it wrote. Blocks."""
    try:
        container = engine.create(name, config)
    except EngineConflictError:
        engine.remove(name, force=True)
        container = engine.create(name, config)
    try:
        engine.start(container)
        code = engine.wait(container)
        written = bytearray()

        def take(message: bytes) -> bool:
            written.extend(message.partition(b" ")[2])
            return len(written) < 1 << 16

        engine.log(container, 0.0, take)
        return code, written.decode(errors="replace")
    finally:
        engine.remove(container, force=True)

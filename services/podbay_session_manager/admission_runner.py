"""What a runner comes to: what a replica runs, and what it needs of its node. Pure.

A field that is accepted is honoured: what cannot be done is refused with the field's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Final

from podbay.schema import platform, requests
from podbay.v1 import errors_pb2
from podbay_kit.errors import ServiceError
from podbay_session_manager.records import (
    GPUS_VARIABLE,
    PORT_VARIABLE,
    REPLICA_VARIABLE,
    SESSION_VARIABLE,
    DataMount,
    Needs,
    ScratchMount,
    ServiceSpec,
)
from podbay_session_manager.runner_kinds import RunnerKind, fill

__all__ = ["container_spec", "mock_spec", "read_needs", "unsupported"]

_DEFAULT_PORT: Final = 8000
_MAX_GPUS: Final = 256
_MAX_CPUS: Final = 65_536
_MAX_BYTES: Final = 1 << 60
# With less no container is started.
_LEAST_MEMORY_BYTES: Final = 6 << 20
_OWN_VARIABLES: Final = {
    SESSION_VARIABLE: "every replica is told its session by it",
    REPLICA_VARIABLE: "every replica is told its id by it",
    GPUS_VARIABLE: "it says which GPUs a replica has; ask for GPUs by the accelerator",
}
# The kernel's own.
_NO_MOUNTS: Final = frozenset({"proc", "sys"})


def unsupported(service: platform.InferenceService, why: str, out: str) -> ServiceError:
    """Return the error of a service that cannot be run here."""
    return ServiceError(
        errors_pb2.ERROR_REASON_UNSUPPORTED_SERVICE,
        f"The inference service {service.name!r} cannot be run here: {why}. {out}",
        metadata={"service": service.id},
    )


def mock_spec(
    service: platform.InferenceService, runner: platform.InferenceServiceRunner
) -> ServiceSpec:
    """Return what a replica of a mock, or of a command without an image, runs."""
    return ServiceSpec(
        kind=runner.kind.value,
        name=service.name,
        command=tuple(runner.command or ()),
        args=tuple(runner.args or ()),
        env=tuple((variable.name, variable.value) for variable in runner.env or ()),
        working_dir=None if runner.workingDir is None else str(runner.workingDir),
    )


def container_spec(
    service: platform.InferenceService,
    runner: platform.InferenceServiceRunner,
    kind: RunnerKind,
    *,
    egress: bool,
) -> ServiceSpec:
    """Return what a replica in a container runs.

    Args:
        service: The service.
        runner: Its runner.
        kind: How services of its kind are run; what the runner says wins over it.
        egress: Whether the service asks for connections to the outside.

    Raises:
        ServiceError: UNSUPPORTED_SERVICE, with the field that cannot be honoured.
    """
    _refuse(service, runner, kind)
    _check_process(service, runner)
    mounts = tuple(_mounts(service, runner, kind))
    given = {variable.name: variable.value for variable in runner.env or ()}
    port = given.get(PORT_VARIABLE, "")
    names = {
        "port": port if port.isdecimal() else str(_DEFAULT_PORT),
        "model_path": _model_path(service, kind),
        "model_name": service.model.name if service.model else "",
    }
    defaults = dict(
        zip((n for n, _ in kind.env), fill((v for _, v in kind.env), names), strict=True)
    )
    return ServiceSpec(
        kind=runner.kind.value,
        name=service.name,
        image=runner.image.pull_name() if runner.image else kind.image,
        command=tuple(runner.command) if runner.command else fill(kind.command, names),
        args=tuple(runner.args or ()),
        env=tuple({**defaults, **given}.items()),
        working_dir=None if runner.workingDir is None else str(runner.workingDir),
        cpus=_cpus(service, runner),
        memory_bytes=_memory(service, runner),
        mounts=mounts,
        egress=egress,
    )


def read_needs(
    request: requests.InferenceSessionCreateRequest,
    service: platform.InferenceService,
    runner: platform.InferenceServiceRunner,
) -> Needs:
    """Return what one replica needs of its node.

    The session's accelerator wins over the runner's as a whole: the service says what it runs on
    unless whoever starts it says otherwise.

    Raises:
        ServiceError: UNSUPPORTED_SERVICE, with the field that cannot be honoured.
    """
    cpus = _cpus(service, runner)
    memory = _memory(service, runner)
    spot = request.useSpotPods
    path = "accelerator" if request.accelerator is not None else "runner.accelerator"
    accelerator = request.accelerator or runner.accelerator
    if accelerator is None:
        return Needs(cpus=cpus, memory_bytes=memory, spot=spot)
    if accelerator.kind != "GPU" or accelerator.gpu is None:
        raise unsupported(
            service,
            f"{path} is of the kind {accelerator.kind[:64]!r}, and only GPU is known, with gpu",
            "Ask for GPUs by their hardware types.",
        )
    gpu = accelerator.gpu
    if not 1 <= gpu.count <= _MAX_GPUS:
        raise unsupported(
            service, f"{path}.gpu.count is not between 1 and {_MAX_GPUS}", "Change it."
        )
    return Needs(
        gpus=gpu.count,
        hardware_types=tuple(dict.fromkeys(gpu.hardwareTypes)),
        gpu_memory_bytes=_bytes(service, f"{path}.gpu.memory", gpu.memory),
        cpus=cpus,
        memory_bytes=memory,
        spot=spot,
    )


def _refuse(
    service: platform.InferenceService, runner: platform.InferenceServiceRunner, kind: RunnerKind
) -> None:
    name = runner.kind.value
    if runner.imageRef is not None:
        raise unsupported(
            service,
            "runner.imageRef points to an image that another installation keeps",
            "Name the image itself: runner.image, with its host, name and digest.",
        )
    if runner.image is None and not kind.image:
        raise unsupported(
            service,
            f"runner.image is missing, and the kind {name} has no image of its own",
            "Name the image: its host, name and digest. Or let the operator choose one for the "
            f"kind: podbay up --runner-kinds FILE, with [kinds.{name}] and image = "
            '"HOST/NAME@sha256:DIGEST" (docs/containers.md, "Images of model servers").',
        )
    if runner.nodes > 1:
        raise unsupported(
            service,
            f"runner.nodes is {runner.nodes}, and a replica runs on one node here",
            "Use one node with more GPUs, or an installation that spans nodes.",
        )
    if runner.resources.storage is not None:
        raise unsupported(
            service,
            "runner.resources.storage is deprecated, and no driver sets storage apart",
            "Use a Scratch mount: runner.volumeMounts.",
        )
    if kind.needs_model and service.model is None:
        raise unsupported(
            service, f"the kind {name} needs a model, and it has none", "Register it with a model."
        )


def _check_process(
    service: platform.InferenceService, runner: platform.InferenceServiceRunner
) -> None:
    """Refuse what no process can be given, and what would be overwritten."""

    def refuse(path: str, why: str) -> ServiceError:
        return unsupported(service, f"runner.{path} {why}", "Change it.")

    for name, texts in (("command", runner.command), ("args", runner.args)):
        for index, text in enumerate(texts or ()):
            if "\0" in text:
                raise refuse(f"{name}.{index}", "holds a NUL character")
    if runner.command and not runner.command[0]:
        raise refuse("command.0", "is empty, and is the program to run")
    folder = runner.workingDir
    if folder is not None and ("\0" in str(folder) or not folder.is_absolute()):
        raise refuse("workingDir", "is not the whole path of a folder")
    seen: set[str] = set()
    for index, variable in enumerate(runner.env or ()):
        path = f"env.{index}"
        if not variable.name or "=" in variable.name or "\0" in variable.name:
            raise refuse(f"{path}.name", "is not the name of a variable")
        if "\0" in variable.value:
            raise refuse(f"{path}.value", "holds a NUL character")
        if variable.name in seen:
            raise refuse(f"{path}.name", f"is {variable.name!r}, which is set before")
        if variable.name in _OWN_VARIABLES:
            why = _OWN_VARIABLES[variable.name]
            raise unsupported(
                service,
                f"runner.{path}.name is {variable.name!r}, which is not the service's to set: "
                f"{why}",
                "Leave it out.",
            )
        seen.add(variable.name)


def _mounts(
    service: platform.InferenceService, runner: platform.InferenceServiceRunner, kind: RunnerKind
) -> Iterator[DataMount | ScratchMount]:
    taken: set[PurePosixPath] = set()
    names: set[str] = set()
    for index, mount in enumerate(runner.volumeMounts or ()):
        path = f"runner.volumeMounts.{index}"
        where = mount.mountPath
        whole = where.is_absolute() and len(where.parts) > 1 and "\0" not in str(where)
        if not whole or ".." in where.parts:
            raise unsupported(
                service, f"{path}.mountPath is not the whole path of a folder", "Change it."
            )
        # Two slashes at the beginning are one here.
        where = PurePosixPath("/", *where.parts[1:])
        if where.parts[1] in _NO_MOUNTS:
            raise unsupported(
                service, f"{path}.mountPath is in /{where.parts[1]}, the kernel's own", "Change it."
            )
        if where in taken:
            raise unsupported(service, f"{path}.mountPath comes twice", "Change one of them.")
        if mount.name in names:
            raise unsupported(service, f"{path}.name comes twice", "Change one of them.")
        taken.add(where)
        names.add(mount.name)
        if mount.scratch is not None:
            size = _bytes(service, f"{path}.scratch.capacity", mount.scratch.capacity)
            if size < 1:
                raise unsupported(service, f"{path}.scratch.capacity is zero", "Change it.")
            yield ScratchMount(mount.name, str(where), size)
        elif mount.data is not None:
            source = mount.data.source
            if source.kind != "Model":
                raise unsupported(
                    service,
                    f"{path}.data.source is of the kind {source.kind[:64]!r}, and only the files "
                    "of models can be mounted here",
                    "Mount a model.",
                )
            yield DataMount(mount.name, str(where), source.kind, source.id)
    if service.model is not None and kind.model_path:
        if PurePosixPath(kind.model_path) in taken:
            return
        yield DataMount("model", kind.model_path, "Model", service.model.id)


def _model_path(service: platform.InferenceService, kind: RunnerKind) -> str:
    """Return the folder of the model's files; in a cache of the Hub they lie deeper."""
    if service.model is None or service.model.artifact.huggingFaceCache is None:
        return kind.model_path
    return f"{kind.model_path}/{service.model.artifact.huggingFaceCache.snapshot_path()}"


def _cpus(service: platform.InferenceService, runner: platform.InferenceServiceRunner) -> float:
    return float(_quantity(service, "runner.resources.cpu", runner.resources.cpu, _MAX_CPUS))


def _memory(service: platform.InferenceService, runner: platform.InferenceServiceRunner) -> int:
    size = _bytes(service, "runner.resources.memory", runner.resources.memory)
    if 0 < size < _LEAST_MEMORY_BYTES:
        raise unsupported(
            service,
            f"runner.resources.memory is {size} bytes, and no container runs in less than 6 MiB",
            "Write more, as 512Mi.",
        )
    return size


def _bytes(service: platform.InferenceService, path: str, quantity: str | None) -> int:
    value = _quantity(service, path, quantity, _MAX_BYTES)
    if value != int(value):
        raise unsupported(service, f"{path} is not a whole number of bytes", "Change it.")
    return int(value)


def _quantity(
    service: platform.InferenceService, path: str, quantity: str | None, limit: int
) -> Decimal:
    if quantity is None:
        return Decimal(0)
    try:
        value = platform.quantity_to_decimal(quantity)
    except (ValueError, ArithmeticError) as error:
        raise unsupported(
            service, f"{path} is not a quantity that can be computed", "Change it."
        ) from error
    if not 0 <= value <= limit:
        raise unsupported(service, f"{path} is more than there can be", "Change it.")
    return value

"""How an inference service is run."""

from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from podbay.schema._base import PodbayModel
from podbay.schema._common import EntityIdentifier
from podbay.schema._hardware import Accelerator, ModelResources
from podbay.schema._quantity import NonNegativeQuantity

__all__ = [
    "ContainerImageSource",
    "EnvVar",
    "InferenceServiceRunner",
    "InferenceServiceRunnerKind",
    "VolumeMount",
    "VolumeMountData",
    "VolumeMountKind",
    "VolumeMountScratch",
]

_IMAGE_PART = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"


class ContainerImageSource(PodbayModel):
    """A container image by host, name and digest.

    Attributes:
        host: The registry, as "registry.example.com:5000".
        name: The repository, as "team/service".
        digest: Which image: "sha256:" and 64 hexadecimal characters.
        tag: What people call that image; the digest decides.
    """

    host: str
    name: Annotated[str, StringConstraints(pattern=rf"^{_IMAGE_PART}(\/{_IMAGE_PART})*$")]
    digest: Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
    # OCI allows one character more; the platform does not.
    tag: (
        Annotated[
            str, StringConstraints(pattern=r"^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$", max_length=127)
        ]
        | None
    ) = None

    @field_validator("host")
    @classmethod
    def _check_host(cls, host: str) -> str:
        if any(character in host for character in "/_?#"):
            raise ValueError("write the host alone, with its port: no '/', '_', '?' or '#'")
        return host

    def pull_name(self) -> str:
        """Returns the form that engines pull by: "host/name@digest"."""
        return f"{self.host}/{self.name}@{self.digest}"


class EnvVar(PodbayModel):
    """An environment variable.

    Attributes:
        name: Its name.
        value: Its value.
    """

    name: str
    value: str


class VolumeMountKind(StrEnum):
    """What may be mounted into a replica."""

    data = "Data"
    scratch = "Scratch"


class VolumeMountData(PodbayModel):
    """A resource that is mounted.

    Attributes:
        source: The resource whose files are mounted.
    """

    source: EntityIdentifier


class VolumeMountScratch(PodbayModel):
    """Empty space that is mounted.

    Attributes:
        capacity: How much fits, in bytes, as "10Gi".
    """

    capacity: NonNegativeQuantity


class VolumeMount(PodbayModel):
    """A folder that is mounted into a replica; exactly the payload of its kind is set.

    Attributes:
        kind: What is mounted.
        name: Tells it from the other mounts.
        mountPath: The folder in the replica.
        data: The options of kind Data.
        scratch: The options of kind Scratch.
    """

    kind: VolumeMountKind
    name: str
    mountPath: PurePosixPath
    data: VolumeMountData | None = None
    scratch: VolumeMountScratch | None = None

    @model_validator(mode="after")
    def _check_payload(self) -> Self:
        has_data, has_scratch = self.data is not None, self.scratch is not None
        wants_data = self.kind == VolumeMountKind.data
        if (has_data, has_scratch) != (wants_data, not wants_data):
            raise ValueError("kind Data needs data and nothing else, kind Scratch needs scratch")
        return self


class InferenceServiceRunnerKind(StrEnum):
    """What runs a service."""

    BENTOML_SERVICE_OPENLLM = "bentoml_service_openllm"
    CONTAINER = "container"
    HUGGINGFACE = "huggingface"
    MOCK = "mock"
    STANDALONE = "standalone"
    VLLM = "vllm"


class InferenceServiceRunner(PodbayModel):
    """How a service is run.

    Attributes:
        args: Arguments of the command.
        command: What to run instead of the image's own entry point.
        env: Environment variables.
        image: The container image.
        imageRef: The resource that holds the image; this or `image` in create requests.
        resources: What one replica needs of its node.
        volumeMounts: What is mounted.
        workingDir: The folder in which the command runs.
        kind: Which kind of runner.
        accelerator: What one node of a replica needs besides.
        nodes: How many nodes one replica spans.
    """

    args: list[str] | None = None
    command: list[str] | None = None
    env: list[EnvVar] | None = None
    image: ContainerImageSource | None = None
    imageRef: EntityIdentifier | None = None
    resources: ModelResources
    volumeMounts: list[VolumeMount] | None = None
    workingDir: PurePosixPath | None = None
    kind: InferenceServiceRunnerKind
    accelerator: Accelerator | None = None
    nodes: Annotated[int, Field(ge=1)] = 1

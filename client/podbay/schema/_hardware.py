"""What workloads need of a node."""

from typing import Annotated

from pydantic import Field

from podbay.schema._base import PodbayModel
from podbay.schema._quantity import NonNegativeQuantity

__all__ = ["Accelerator", "AcceleratorGPU", "ModelResources", "ResourceRequirements"]


class AcceleratorGPU(PodbayModel):
    """Which GPUs are acceptable, and how many of them a node needs."""

    hardwareTypes: Annotated[list[str], Field(min_length=1)]
    count: int = 1
    # Deprecated by the platform.
    memory: NonNegativeQuantity | None = None


class Accelerator(PodbayModel):
    """Hardware besides the CPU; "GPU" is the kind that is known."""

    kind: str
    gpu: AcceleratorGPU | None = None


class ModelResources(PodbayModel):
    """What a workload needs of its node, in Kubernetes quantities."""

    # Deprecated by the platform.
    storage: NonNegativeQuantity | None = None
    memory: NonNegativeQuantity | None = None
    cpu: NonNegativeQuantity | None = None


ResourceRequirements = ModelResources

"""What workloads need of a node."""

from typing import Annotated

from pydantic import Field

from podbay.schema._base import PodbayModel
from podbay.schema._quantity import NonNegativeQuantity

__all__ = ["Accelerator", "AcceleratorGPU", "ModelResources", "ResourceRequirements"]


class AcceleratorGPU(PodbayModel):
    """Which GPUs are acceptable, and how many of them a node needs.

    Attributes:
        hardwareTypes: The acceptable types, at least one, as "nvidia.com/gpu-t4".
        count: How many GPUs one node of a replica needs.
        memory: Deprecated by the platform.
    """

    hardwareTypes: Annotated[list[str], Field(min_length=1)]
    count: int = 1
    memory: NonNegativeQuantity | None = None


class Accelerator(PodbayModel):
    """Hardware besides the CPU; "GPU" is the kind that is known.

    Attributes:
        kind: "GPU"; others are read and kept.
        gpu: The options of kind GPU.
    """

    kind: str
    gpu: AcceleratorGPU | None = None


class ModelResources(PodbayModel):
    """What a workload needs of its node, in Kubernetes quantities.

    Attributes:
        storage: Deprecated by the platform.
        memory: In bytes, as "8Gi".
        cpu: In processors, as "2" or "500m".
    """

    storage: NonNegativeQuantity | None = None
    memory: NonNegativeQuantity | None = None
    cpu: NonNegativeQuantity | None = None


ResourceRequirements = ModelResources

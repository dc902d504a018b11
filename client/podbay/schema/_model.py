"""Models: the raw form of AI systems."""

from enum import StrEnum
from typing import Literal

from pydantic import Field, HttpUrl

from podbay.schema._base import PodbayModel
from podbay.schema._common import Digest, DyffEntity
from podbay.schema._hardware import Accelerator, ModelResources

__all__ = [
    "File",
    "ForeignModel",
    "Model",
    "ModelArtifact",
    "ModelArtifactHuggingFaceCache",
    "ModelArtifactKind",
    "ModelBase",
    "ModelSource",
    "ModelSourceGitLFS",
    "ModelSourceHuggingFaceHub",
    "ModelSourceKinds",
    "ModelSourceOpenLLM",
    "ModelSpec",
    "ModelStorage",
    "ModelStorageMedium",
    "Volume",
]


class ModelSourceKinds(StrEnum):
    """Where models come from."""

    GitLFS = "GitLFS"
    HuggingFaceHub = "HuggingFaceHub"
    Mock = "Mock"
    OpenLLM = "OpenLLM"
    Upload = "Upload"


class ModelSourceGitLFS(PodbayModel):
    """A Git repository with large files."""

    url: HttpUrl


class ModelSourceHuggingFaceHub(PodbayModel):
    """A snapshot of the Hugging Face Hub."""

    repoID: str
    revision: str
    allowPatterns: list[str] | None = None
    ignorePatterns: list[str] | None = None


class ModelSourceOpenLLM(PodbayModel):
    """A model of OpenLLM."""

    modelKind: str
    modelID: str
    modelVersion: str


class ModelSource(PodbayModel):
    """Where a model came from. Kind and payload may disagree here; creation checks them."""

    kind: ModelSourceKinds
    gitLFS: ModelSourceGitLFS | None = None
    huggingFaceHub: ModelSourceHuggingFaceHub | None = None
    openLLM: ModelSourceOpenLLM | None = None


class ModelArtifactKind(StrEnum):
    """How the data of models are kept."""

    HuggingFaceCache = "HuggingFaceCache"
    Mock = "Mock"
    Volume = "Volume"


class ModelArtifactHuggingFaceCache(PodbayModel):
    """A folder in the form of a Hugging Face cache."""

    repoID: str
    revision: str

    def snapshot_path(self) -> str:
        """Returns the folder of the snapshot within the cache."""
        return f"models--{self.repoID.replace('/', '--')}/snapshots/{self.revision}"


class File(PodbayModel):
    """One file of a volume; `size` is in bytes."""

    mediaType: str | None = None
    path: str
    size: int
    # MD5 in base64.
    digest: Digest = Field(default_factory=Digest)


class Volume(PodbayModel):
    """A tree of files."""

    files: list[File]


class ModelArtifact(PodbayModel):
    """How a model's data are kept. Kind and payload may disagree here; creation checks them."""

    kind: ModelArtifactKind
    huggingFaceCache: ModelArtifactHuggingFaceCache | None = None
    volume: Volume | None = None


class ModelStorageMedium(StrEnum):
    """Deprecated by the platform: how the data of models were stored."""

    Mock = "Mock"
    ObjectStorage = "ObjectStorage"
    PersistentVolume = "PersistentVolume"
    FUSEVolume = "FUSEVolume"


class ModelStorage(PodbayModel):
    """Deprecated by the platform: how a model's data were stored."""

    medium: ModelStorageMedium


class ModelBase(PodbayModel):
    """What a model's entity, embedded form and requests share."""

    name: str
    artifact: ModelArtifact
    # Deprecated by the platform.
    storage: ModelStorage | None = None


class ModelSpec(ModelBase):
    """The specification of a model."""

    source: ModelSource
    resources: ModelResources
    # Hardware that the model can run on.
    accelerators: list[Accelerator] | None = None


class ForeignModel(ModelBase):
    """A model as a service embeds it."""

    id: str
    account: str


class Model(DyffEntity, ModelSpec):
    """The raw form of an AI system, as the weights of a network."""

    kind: Literal["Model"] = "Model"

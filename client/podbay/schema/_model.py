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
    """A Git repository with large files.

    Attributes:
        url: The repository's address, http or https; written with a path, at least "/".
    """

    url: HttpUrl


class ModelSourceHuggingFaceHub(PodbayModel):
    """A snapshot of the Hugging Face Hub.

    Attributes:
        repoID: The repository, as "organization/name".
        revision: A commit, a branch or a tag.
        allowPatterns: Only files that match one of these, as "*.safetensors"; all unless given.
        ignorePatterns: No files that match one of these.
    """

    repoID: str
    revision: str
    allowPatterns: list[str] | None = None
    ignorePatterns: list[str] | None = None


class ModelSourceOpenLLM(PodbayModel):
    """A model of OpenLLM.

    Attributes:
        modelKind: The model's family, as "llama".
        modelID: Its id there.
        modelVersion: Its version.
    """

    modelKind: str
    modelID: str
    modelVersion: str


class ModelSource(PodbayModel):
    """Where a model came from. Kind and payload may disagree here; creation checks them.

    Attributes:
        kind: Which kind of source.
        gitLFS: The options of kind GitLFS.
        huggingFaceHub: The options of kind HuggingFaceHub.
        openLLM: The options of kind OpenLLM.
    """

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
    """A folder in the form of a Hugging Face cache.

    Attributes:
        repoID: The repository, as "organization/name".
        revision: The revision whose snapshot is meant.
    """

    repoID: str
    revision: str

    def snapshot_path(self) -> str:
        """Returns the folder of the snapshot within the cache."""
        return f"models--{self.repoID.replace('/', '--')}/snapshots/{self.revision}"


class File(PodbayModel):
    """One file of a volume; `size` is in bytes.

    Attributes:
        mediaType: The media type, as "application/json".
        path: The path within the volume, with "/"; create requests hold it to portable relative
            paths.
        size: In bytes.
        digest: The digest of the content; empty where it is not known.
    """

    mediaType: str | None = None
    path: str
    size: int
    digest: Digest = Field(default_factory=Digest)


class Volume(PodbayModel):
    """A tree of files.

    Attributes:
        files: The files, at any depth; may be empty.
    """

    files: list[File]


class ModelArtifact(PodbayModel):
    """How a model's data are kept. Kind and payload may disagree here; creation checks them.

    Attributes:
        kind: Which form.
        huggingFaceCache: The options of kind HuggingFaceCache.
        volume: The files of kind Volume.
    """

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
    """Deprecated by the platform: how a model's data were stored.

    Attributes:
        medium: Where.
    """

    medium: ModelStorageMedium


class ModelBase(PodbayModel):
    """What a model's entity, embedded form and requests share.

    Attributes:
        name: What people call it.
        artifact: How its data are kept.
        storage: Deprecated by the platform.
    """

    name: str
    artifact: ModelArtifact
    storage: ModelStorage | None = None


class ModelSpec(ModelBase):
    """The specification of a model.

    Attributes:
        source: Where it came from.
        resources: What it takes to keep and load it.
        accelerators: Hardware that it can run on; any unless given.
    """

    source: ModelSource
    resources: ModelResources
    accelerators: list[Accelerator] | None = None


class ForeignModel(ModelBase):
    """A model as a service embeds it.

    Attributes:
        id: The model's id.
        account: The account that owns it.
    """

    id: str
    account: str


class Model(DyffEntity, ModelSpec):
    """The raw form of an AI system, as the weights of a network."""

    kind: Literal["Model"] = "Model"

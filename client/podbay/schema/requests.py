"""Requests: what is sent to create, edit and query resources."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from podbay.schema._base import SCHEMA_VERSION, EditModel, RequestModel, SchemaVersion
from podbay.schema._common import LabelKey, LabelValue
from podbay.schema._local_requests import LocalInferenceServiceCreateRequest
from podbay.schema._model import ModelArtifact, ModelSpec
from podbay.schema._paths import check_portable_path
from podbay.schema._request_base import CreateRequest
from podbay.schema._service import InferenceServiceBase
from podbay.schema._session import InferenceSessionBase
from podbay.schema.checks import check_creatable

__all__ = [
    "CreateRequest",
    "DocumentationEdit",
    "DocumentationEditRequest",
    "InferenceServiceCreateRequest",
    "InferenceServiceQueryRequest",
    "InferenceSessionCreateRequest",
    "InferenceSessionQueryRequest",
    "InferenceSessionTokenCreateRequest",
    "LabelUpdateRequest",
    "LabelsEditRequest",
    "LocalInferenceServiceCreateRequest",
    "ModelCreateRequest",
    "ModelQueryRequest",
    "QueryRequest",
    "check_creatable",
]


class ModelCreateRequest(CreateRequest, ModelSpec):
    """The specification of a new model."""

    @field_validator("artifact")
    @classmethod
    def _check_paths(cls, artifact: ModelArtifact) -> ModelArtifact:
        for index, file in enumerate(artifact.volume.files if artifact.volume else ()):
            try:
                check_portable_path(file.path)
            except ValueError as error:
                raise ValueError(f"volume.files.{index}.path: {error}") from error
        return artifact


class InferenceServiceCreateRequest(CreateRequest, InferenceServiceBase):
    """The specification of a new service around an image.

    Attributes:
        model: The id of the model that it loads.
    """

    model: str | None = None

    @model_validator(mode="after")
    def _check_image(self) -> Self:
        if self.runner is None:
            raise ValueError("runner is required")
        if (self.runner.image is None) == (self.runner.imageRef is None):
            raise ValueError("the runner needs exactly one of image and imageRef")
        return self


class InferenceSessionCreateRequest(CreateRequest, InferenceSessionBase):
    """The specification of a new session.

    Attributes:
        inferenceService: The id of the service to run.
    """

    inferenceService: str


class InferenceSessionTokenCreateRequest(RequestModel):
    """Asks for another token of a session; `expires` must carry an offset, and keeps it.

    Attributes:
        schemaVersion: "0.1".
        expires: When the token shall end: not later than the session, which is also the default.
    """

    schemaVersion: SchemaVersion = SCHEMA_VERSION
    expires: datetime | None = None

    @model_validator(mode="after")
    def _check_offset(self) -> Self:
        if self.expires is not None and self.expires.tzinfo is None:
            raise ValueError("expires needs an offset, as in 2030-01-01T00:00:00Z")
        return self


class LabelsEditRequest(EditModel):
    """Changes labels: null deletes, keys that are not mentioned stay.

    Attributes:
        labels: The changes by key.
    """

    labels: dict[LabelKey, LabelValue | None] = Field(default_factory=dict)


LabelUpdateRequest = LabelsEditRequest
"""Deprecated by the platform: the former name of LabelsEditRequest."""


class DocumentationEdit(EditModel):
    """Changes of documentation: null deletes, what is not set stays.

    Attributes:
        title: At most 140 characters.
        summary: At most 280 characters.
        fullPage: Any length.
    """

    title: Annotated[str, StringConstraints(max_length=140)] | None = None
    summary: Annotated[str, StringConstraints(max_length=280)] | None = None
    fullPage: str | None = None


class DocumentationEditRequest(EditModel):
    """Changes documentation.

    Attributes:
        documentation: The changes.
    """

    documentation: DocumentationEdit


class QueryRequest(RequestModel):
    """Selects resources; everything that is set must hold.

    `query` is a JSON object, or a list of objects that must all hold; `labels` a JSON object.

    Attributes:
        query: JSON: an object, or a list of objects that must all hold; a list as a value means
            "one of".
        id: The id.
        order: The direction of `orderBy`; ascending unless given.
        orderBy: The field to sort by.
        limit: How many to return at most.
        after: A JSON array of the `orderBy` value and the id of the last item seen.
        account: The account that owns it.
        status: The status.
        reason: The reason.
        labels: A JSON object: pairs that it must have.
    """

    query: str | None = None
    id: str | None = None
    order: Literal["ascending", "descending"] | None = None
    orderBy: str | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    after: str | None = None
    account: str | None = None
    status: str | None = None
    reason: str | None = None
    labels: str | None = None


class ModelQueryRequest(QueryRequest):
    """Selects models.

    Attributes:
        name: The model's name.
    """

    name: str | None = None


class InferenceServiceQueryRequest(QueryRequest):
    """Selects inference services; `model` and `modelName` are of the model they load.

    Attributes:
        name: The service's name.
        model: The id of the model that it loads.
        modelName: The name of that model.
    """

    name: str | None = None
    model: str | None = None
    modelName: str | None = None


class InferenceSessionQueryRequest(QueryRequest):
    """Selects sessions. They have no name, so none matches one.

    Attributes:
        name: Matches none.
        inferenceService: The id of the service.
        inferenceServiceName: The name of the service.
        model: The id of the service's model.
        modelName: The name of that model.
    """

    name: str | None = None
    inferenceService: str | None = None
    inferenceServiceName: str | None = None
    model: str | None = None
    modelName: str | None = None

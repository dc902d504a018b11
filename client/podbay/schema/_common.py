"""What resources of every kind share: identifiers, labels, documentation, status, metadata."""

from math import isfinite
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import Field, StringConstraints, field_serializer

from podbay.schema._base import SCHEMA_VERSION, PodbayModel, SchemaVersion, UtcTime

__all__ = [
    "Annotation",
    "Digest",
    "Documentation",
    "DocumentationBase",
    "DyffEntity",
    "DyffEntityMetadata",
    "EntityIdentifier",
    "EntityKind",
    "LabelKey",
    "LabelValue",
    "Labels",
    "MetricValue",
    "Metrics",
    "QuotaSelector",
    "SecurityContext",
    "Status",
    "resource_collection",
]

_PART = "[a-zA-Z0-9]([-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?"

LabelKey = Annotated[
    str, StringConstraints(pattern=rf"^({_PART}(\.{_PART})*/)?{_PART}$", max_length=317)
]
"""An optional domain, a slash, and a name of alphanumerics and dashes."""

LabelValue = Annotated[
    str,
    StringConstraints(pattern=r"^([a-z0-9A-Z]([-_.a-z0-9A-Z]{0,61}[a-z0-9A-Z])?)?$", max_length=63),
]
"""Empty, or up to 63 alphanumerics, dashes, underscores and dots."""

Labels = dict[LabelKey, LabelValue]

EntityKind = Literal[
    "Account",
    "Analysis",
    "Audit",
    "AuditProcedure",
    "Challenge",
    "Curve",
    "DataSource",
    "Dataset",
    "Evaluation",
    "Family",
    "Hazard",
    "History",
    "InferenceService",
    "InferenceSession",
    "Measurement",
    "Method",
    "Model",
    "Module",
    "OCIArtifact",
    "Pipeline",
    "PipelineRun",
    "Quota",
    "Report",
    "Revision",
    "SafetyCase",
    "Submission",
    "Team",
    "UseCase",
]

# Plurals that are not the lower-case kind and an "s".
_COLLECTIONS = {
    "Analysis": "analyses",
    "Family": "families",
    "History": "histories",
    "OCIArtifact": "artifacts",
}


def resource_collection(kind: str) -> str:
    """Returns the collection of a kind: "InferenceService" is in "inferenceservices"."""
    return _COLLECTIONS.get(kind, f"{kind.lower()}s")


class _HasIdentity(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> Any: ...


class EntityIdentifier(PodbayModel):
    """A reference to a resource of any kind.

    Attributes:
        id: The id of the resource; not checked to be of the form of generated ones.
        kind: Its kind, as "InferenceService".
    """

    id: str
    kind: EntityKind

    @classmethod
    def of(cls, entity: _HasIdentity) -> Self:
        """Returns the identifier of an entity."""
        return cls(id=entity.id, kind=entity.kind)

    def resource_path(self) -> str:
        """Returns the path of the resource, as "models/ID"."""
        return f"{resource_collection(self.kind)}/{self.id}"


class Annotation(PodbayModel):
    """A note for programs. Annotations are a list, and may hold a key more than once.

    Attributes:
        key: Of the form of label keys.
        value: Any text.
    """

    key: LabelKey
    value: str


class DocumentationBase(PodbayModel):
    """What people read about a resource; lengths are limited in edits only.

    Attributes:
        title: One line; at most 140 characters in an edit.
        summary: A few lines; at most 280 characters in an edit.
        fullPage: The whole text, without a limit.
    """

    title: str | None = None
    summary: str | None = None
    fullPage: str | None = None


class Documentation(DocumentationBase):
    """Documentation by itself, with the id of the resource that it belongs to.

    Attributes:
        schemaVersion: "0.1".
        entity: The id of the documented resource.
    """

    schemaVersion: SchemaVersion = SCHEMA_VERSION
    entity: str | None = None


class Status(PodbayModel):
    """Where a resource stands, and why.

    Attributes:
        status: As "Admitted"; `EntityStatus` and its kin name them.
        reason: Why, in one word, as "QuotaLimit".
        message: Why, for people.
    """

    status: str
    reason: str | None = None
    message: str | None = None


class MetricValue(PodbayModel):
    """One recorded value of a metric.

    Attributes:
        labels: What tells this value from others of the metric.
        timestamp: When it was recorded.
        value: The value, in the metric's own unit.
    """

    labels: dict[str, str]
    timestamp: UtcTime
    value: float


class Metrics(PodbayModel):
    """Recorded values by the name of their metric.

    Attributes:
        data: The values by metric. Those that are not finite are left out when written.
    """

    data: dict[str, list[MetricValue]] = Field(default_factory=dict)

    @field_serializer("data", mode="plain")
    def _write_finite(self, data: dict[str, list[MetricValue]]) -> dict[str, list[dict[str, Any]]]:
        """Leaves out values that JSON has no form for."""
        return {
            name: [value.model_dump() for value in values if isfinite(value.value)]
            for name, values in data.items()
        }


class DyffEntityMetadata(PodbayModel):
    """What the platform keeps about a resource besides its specification.

    Attributes:
        metrics: What was measured of the resource.
        revision: The revision of the resource, where it is kept.
        documentation: What people read about it.
        preconditions: Further resources that must succeed before work on this one begins.
    """

    metrics: Metrics | None = None
    revision: str | None = None
    documentation: DocumentationBase = Field(default_factory=DocumentationBase)
    preconditions: list[EntityIdentifier] = Field(default_factory=list)


class DyffEntity(PodbayModel):
    """The members that all resources have.

    Attributes:
        id: Assigned by the system: 32 lower-case hexadecimal characters.
        account: The account that owns it.
        schemaVersion: "0.1".
        labels: Short texts to select by.
        creationTime: When it was made, in UTC.
        lastTransitionTime: When its status, reason or message last changed.
        status: Where it stands, as "Admitted"; `EntityStatus` and its kin name them.
        reason: Why, in one word, as "QuotaLimit".
        message: Why, for people.
        kind: The name of its kind, as "Model".
        metadata: What the platform keeps about it.
        annotations: Notes for programs; they cannot be selected by.
    """

    id: str
    account: str
    schemaVersion: SchemaVersion = SCHEMA_VERSION
    labels: Labels = Field(default_factory=dict)
    creationTime: UtcTime
    lastTransitionTime: UtcTime | None = None
    status: str
    reason: str | None = None
    message: str | None = None
    kind: str
    metadata: DyffEntityMetadata = Field(default_factory=DyffEntityMetadata)
    annotations: list[Annotation] = Field(default_factory=list)

    def _spec_dependencies(self) -> set[str]:
        """The ids that the specification of this kind refers to."""
        return set()

    def dependencies(self) -> list[str]:
        """Returns the ids of all resources that this one needs, in no particular order."""
        return list(self._spec_dependencies() | {p.id for p in self.metadata.preconditions})


class Digest(PodbayModel):
    """The digest of content.

    Attributes:
        md5: The MD5 digest (RFC 1321) of the bytes, in base64 (RFC 4648).
    """

    md5: str | None = None


class QuotaSelector(PodbayModel):
    """Names a quota; "*" stands for all.

    Attributes:
        principal: Whose quota.
        resource: Of what, as "cpu".
        flavor: Of which kind of capacity.
    """

    principal: str
    resource: str
    flavor: str


class SecurityContext(PodbayModel):
    """How far a session is trusted.

    Attributes:
        trusted: Whether what it runs is trusted.
        ignoreQuotas: The quotas that do not hold for it.
    """

    trusted: bool = True
    ignoreQuotas: list[QuotaSelector] = Field(default_factory=list)

"""Inference sessions: running services."""

from typing import Literal

from pydantic import Field

from podbay.schema._base import PodbayModel, UtcTime
from podbay.schema._common import Digest, DyffEntity, EntityIdentifier, SecurityContext
from podbay.schema._hardware import Accelerator
from podbay.schema._service import ForeignInferenceService, InferenceInterface

__all__ = [
    "Artifact",
    "ArtifactURL",
    "InferenceSession",
    "InferenceSessionAndToken",
    "InferenceSessionBase",
    "InferenceSessionReference",
    "InferenceSessionSpec",
    "StorageSignedURL",
    "WorkflowLogEntry",
    "WorkflowLogsResponse",
]


class InferenceSessionBase(PodbayModel):
    """What a session's entity and create request share."""

    # When the session ends by itself; none for never.
    expires: UtcTime | None = None
    replicas: int = 1
    # What each node of a replica needs.
    accelerator: Accelerator | None = None
    # Whether replicas may run on capacity that can be taken away.
    useSpotPods: bool = True


class InferenceSessionSpec(InferenceSessionBase):
    """The specification of a session, with the service that it runs."""

    inferenceService: ForeignInferenceService


class InferenceSession(DyffEntity, InferenceSessionSpec):
    """A running service: one or more replicas. It never becomes Ready; readiness is asked for."""

    kind: Literal["InferenceSession"] = "InferenceSession"
    securityContext: SecurityContext = Field(default_factory=SecurityContext)

    def _spec_dependencies(self) -> set[str]:
        return {self.inferenceService.id}


class InferenceSessionAndToken(PodbayModel):
    """A new session, and a token for its calls."""

    inferencesession: InferenceSession
    token: str

    @property
    def session(self) -> str:
        """The token's text, the same as `token`.

        The platform's guide passes `session_and_token.session` on as the token, so scripts that
        were written after it work unchanged. The session itself is `inferencesession`.
        """
        return self.token


class InferenceSessionReference(PodbayModel):
    """A session by its id, and the interface to use with it."""

    session: str
    interface: InferenceInterface


class WorkflowLogEntry(PodbayModel):
    """One line of a log."""

    timestamp: str
    message: str
    labels: dict[str, str]


class WorkflowLogsResponse(PodbayModel):
    """Lines of the log of a resource's work."""

    workflow: EntityIdentifier
    logs: list[WorkflowLogEntry]
    totalLines: int


class Artifact(PodbayModel):
    """A stored file."""

    kind: str | None = None
    path: str
    digest: Digest = Field(default_factory=Digest)


class StorageSignedURL(PodbayModel):
    """An address that is valid for one kind of access, and what to send with it."""

    url: str
    method: str
    headers: dict[str, str] = Field(default_factory=dict)


class ArtifactURL(PodbayModel):
    """A stored file, and the address to reach it at."""

    artifact: Artifact
    signedURL: StorageSignedURL

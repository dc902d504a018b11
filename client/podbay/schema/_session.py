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
    """What a session's entity and create request share.

    Attributes:
        expires: When it ends by itself; never unless given.
        replicas: How many copies of the service run.
        accelerator: What each node of a replica needs.
        useSpotPods: Whether replicas may run on capacity that can be taken away.
    """

    expires: UtcTime | None = None
    replicas: int = 1
    accelerator: Accelerator | None = None
    useSpotPods: bool = True


class InferenceSessionSpec(InferenceSessionBase):
    """The specification of a session, with the service that it runs.

    Attributes:
        inferenceService: The service, embedded as it was at creation.
    """

    inferenceService: ForeignInferenceService


class InferenceSession(DyffEntity, InferenceSessionSpec):
    """A running service: one or more replicas. It never becomes Ready; readiness is asked for.

    Attributes:
        securityContext: How far it is trusted.
    """

    kind: Literal["InferenceSession"] = "InferenceSession"
    securityContext: SecurityContext = Field(default_factory=SecurityContext)

    def _spec_dependencies(self) -> set[str]:
        return {self.inferenceService.id}


class InferenceSessionAndToken(PodbayModel):
    """A new session, and a token for its calls.

    Attributes:
        inferencesession: The session.
        token: A token for its calls, and for nothing else.
    """

    inferencesession: InferenceSession
    token: str = Field(repr=False)

    @property
    def session(self) -> str:
        """The token's text, the same as `token`.

        The platform's guide passes `session_and_token.session` on as the token, so scripts that
        were written after it work unchanged. The session itself is `inferencesession`.
        """
        return self.token


class InferenceSessionReference(PodbayModel):
    """A session by its id, and the interface to use with it.

    Attributes:
        session: The session's id.
        interface: How to call it.
    """

    session: str
    interface: InferenceInterface


class WorkflowLogEntry(PodbayModel):
    """One line of a log.

    Attributes:
        timestamp: When it was written, in the form of RFC 3339.
        message: The line.
        labels: Where it comes from.
    """

    timestamp: str
    message: str
    labels: dict[str, str]


class WorkflowLogsResponse(PodbayModel):
    """Lines of the log of a resource's work.

    Attributes:
        workflow: The resource.
        logs: The lines, the oldest first.
        totalLines: How many lines there are in all.
    """

    workflow: EntityIdentifier
    logs: list[WorkflowLogEntry]
    totalLines: int


class Artifact(PodbayModel):
    """A stored file.

    Attributes:
        kind: Its media type or form.
        path: Its path within the store.
        digest: The digest of its content.
    """

    kind: str | None = None
    path: str
    digest: Digest = Field(default_factory=Digest)


class StorageSignedURL(PodbayModel):
    """An address that is valid for one kind of access, and what to send with it.

    Attributes:
        url: The address.
        method: The HTTP method that it is valid for.
        headers: Headers that must be sent with it.
    """

    url: str
    method: str
    headers: dict[str, str] = Field(default_factory=dict)


class ArtifactURL(PodbayModel):
    """A stored file, and the address to reach it at.

    Attributes:
        artifact: The file.
        signedURL: Where it is.
    """

    artifact: Artifact
    signedURL: StorageSignedURL

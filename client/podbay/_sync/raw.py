"""Resources as plain JSON, synchronously: dicts and lists instead of models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from podbay._core.raw import labels_of, plain, query_members
from podbay._sync.resources import Documented, InferenceServices, Models, Resources
from podbay._sync.sessions import InferenceSessions

__all__ = ["Raw", "RawDocumented", "RawResources", "RawSessions"]

G = TypeVar("G", bound=Resources[Any])
D = TypeVar("D", bound=Documented[Any])


class RawResources(Generic[G]):
    """What can be done with resources of every kind, as JSON. `timeout` is as for `Resources`."""

    def __init__(self, group: G) -> None:
        self._group = group

    def create(self, body: Mapping[str, Any], *, timeout: float | None = None) -> Any:
        """Create a resource from the JSON form of its request."""
        group: Any = self._group
        return plain(group.create(body, timeout=timeout))

    def get(self, id: str, *, timeout: float | None = None) -> Any:
        """Return a resource as an object."""
        return plain(self._group.get(id, timeout=timeout))

    def query(self, request: Any = None, *, timeout: float | None = None) -> Any:
        """Return the resources that match as a list of objects.

        Args:
            request: A query request or its JSON form, `order`, `orderBy`, `limit` and `after`
                included; everything unless given.
            timeout: How long all pages together may take, in seconds.

        Raises:
            InvalidRequestError: A member is not valid, or `after` has no `orderBy`.
        """
        group: Any = self._group
        return plain(group.query(**query_members(request), timeout=timeout))

    def delete(self, id: str, *, timeout: float | None = None) -> Any:
        """Mark a resource as deleted; return its status as an object."""
        return plain(self._group.delete(id, timeout=timeout))

    def label(self, id: str, body: Mapping[str, Any], *, timeout: float | None = None) -> None:
        """Change labels.

        Args:
            id: The resource.
            body: As `{"labels": {"key": "value"}}`; null removes a label.
            timeout: How long the call may take, in seconds, further tries included.
        """
        self._group.label(id, labels_of(body), timeout=timeout)


class RawDocumented(RawResources[D]):
    """What can be done with resources that people read about, as JSON."""

    def documentation(self, id: str, *, timeout: float | None = None) -> Any:
        """Return what people read about a resource as an object."""
        return plain(self._group.documentation(id, timeout=timeout))

    def edit_documentation(
        self, id: str, body: Mapping[str, Any], *, timeout: float | None = None
    ) -> Any:
        """Change what people read about a resource; return it as an object."""
        return plain(self._group.edit_documentation(id, body, timeout=timeout))


class RawSessions(RawResources[InferenceSessions]):
    """Sessions as JSON."""

    def terminate(self, id: str, *, timeout: float | None = None) -> Any:
        """End a session; return its status as an object."""
        return plain(self._group.terminate(id, timeout=timeout))

    def ready(self, id: str, *, timeout: float | None = None) -> Any:
        """Return whether a session takes calls, as `{"ready": true}`."""
        return {"ready": self._group.ready(id, timeout=timeout)}

    def token(self, id: str, *, timeout: float | None = None) -> Any:
        """Return another token for the calls of a session, as `{"token": "…"}`."""
        return {"token": self._group.token(id, timeout=timeout)}


class Raw:
    """Models, services and sessions as plain JSON.

    Attributes:
        models: Models.
        inferenceservices: Inference services.
        inferencesessions: Inference sessions.
    """

    def __init__(
        self, models: Models, inferenceservices: InferenceServices, sessions: InferenceSessions
    ) -> None:
        self.models = RawDocumented(models)
        self.inferenceservices = RawDocumented(inferenceservices)
        self.inferencesessions = RawSessions(sessions)

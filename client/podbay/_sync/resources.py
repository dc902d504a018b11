"""Models and inference services, synchronously."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import Any, Generic, TypeVar, Unpack

from podbay._core import create_ops, resource_ops
from podbay._core.filters import ListFilter, ModelFilter, ServiceFilter
from podbay._core.paging import Pages
from podbay._core.resource_ops import Resource
from podbay._core.watching import Watch
from podbay._sync.model_files import ModelFiles
from podbay._sync.transport import Transport
from podbay.schema.platform import (
    Documentation,
    InferenceInterface,
    InferenceService,
    Model,
    Status,
)
from podbay.schema.requests import (
    DocumentationEditRequest,
    InferenceServiceCreateRequest,
    ModelCreateRequest,
)
from podbay.schema.serving import ServingOptions
from podbay.types import Change

__all__ = ["InferenceServices", "Models", "Resources"]

T = TypeVar("T")


class Resources(Generic[T]):
    """What can be done with resources of every kind.

    Every method takes a `timeout`: how long the call may take, in seconds, further tries included;
    the client's timeout unless given. Of `pages` it counts for each page, and `watch` goes on for
    so long, without end unless given. What takes longer raises a DeadlineExceededError.
    """

    def __init__(self, transport: Transport, resource: Resource[T]) -> None:
        self._transport = transport
        self._resource = resource

    def get(self, id: str, *, timeout: float | None = None) -> T:
        """Return a resource.

        Raises:
            NotFoundError: There is none with this id.
        """
        return self._transport.run(self._resource.get(id), timeout)

    def delete(self, id: str, *, timeout: float | None = None) -> Status:
        """Mark a resource as deleted; return its status."""
        return self._transport.run(self._resource.delete(id), timeout)

    def label(
        self, id: str, labels: Mapping[str, str | None], *, timeout: float | None = None
    ) -> None:
        """Change labels of a resource: None removes one, those that are not named stay."""
        if labels:
            self._transport.run(self._resource.label(id, labels), timeout)

    def _query(self, filters: ListFilter, timeout: float | None) -> list[T]:
        pages = Pages(self._resource, filters)
        deadline = self._transport.deadline(timeout)
        found: list[T] = []
        while (operation := pages.next_operation()) is not None:
            found += pages.took(self._transport.run_until(operation, deadline))
        return found

    def _pages(self, filters: ListFilter, timeout: float | None) -> Generator[list[T], None, None]:
        pages = Pages(self._resource, filters)
        while (operation := pages.next_operation()) is not None:
            yield pages.took(self._transport.run(operation, timeout))

    def _watch(
        self, filters: ListFilter, after_revision: int, timeout: float | None
    ) -> Generator[Change[T], None, None]:
        watch = Watch(self._resource, filters, after_revision)
        with closing(self._transport.follow(watch.operation, timeout)) as results:
            for came in results:
                change = watch.took(came)
                if change is not None:
                    yield change


class Documented(Resources[T]):
    """What can be done with resources that people read about."""

    def publish(self, id: str, access: str, *, timeout: float | None = None) -> None:
        """Say who may see a resource: "public", "preview" or "private"."""
        self.label(id, resource_ops.access_labels(access), timeout=timeout)

    def documentation(self, id: str, *, timeout: float | None = None) -> Documentation:
        """Return what people read about a resource."""
        return self._transport.run(self._resource.documentation(id), timeout)

    def edit_documentation(
        self,
        id: str,
        edit_request: DocumentationEditRequest | Mapping[str, Any],
        *,
        timeout: float | None = None,
    ) -> Documentation:
        """Change what people read about a resource: null removes, what is not set stays."""
        return self._transport.run(self._resource.edit_documentation(id, edit_request), timeout)


class Models(ModelFiles, Documented[Model]):
    """Models: the raw form of AI systems."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, resource_ops.MODELS)

    def create(
        self,
        request: ModelCreateRequest | Mapping[str, Any],
        *,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> Model:
        """Register a model.

        Args:
            request: The specification, or its JSON form.
            request_id: Makes the call idempotent; made up unless given.
            timeout: How long the call may take, in seconds, further tries included.

        Raises:
            InvalidRequestError: The specification breaks a rule.
        """
        return self._transport.run(create_ops.create_model(request, request_id), timeout)

    def query(self, *, timeout: float | None = None, **filters: Unpack[ModelFilter]) -> list[Model]:
        """Return all models that match; see `ModelFilter` for the keywords."""
        return self._query(filters, timeout)

    def pages(
        self, *, timeout: float | None = None, **filters: Unpack[ModelFilter]
    ) -> Generator[list[Model], None, None]:
        """Yield the models that match, page by page."""
        return self._pages(filters, timeout)

    def watch(
        self,
        *,
        after_revision: int = 0,
        timeout: float | None = None,
        **filters: Unpack[ModelFilter],
    ) -> Generator[Change[Model], None, None]:
        """Yield changes as they happen, without end; survives a restart of the registry.

        Args:
            after_revision: Only later changes; 0 yields first what is there, as "created".
            timeout: How long to go on, in seconds; without end unless given.
            **filters: See `ModelFilter`.

        Raises:
            ConflictError: REVISION_COMPACTED: list again.
        """
        return self._watch(filters, after_revision, timeout)


class InferenceServices(Documented[InferenceService]):
    """Inference services: packaged AI systems, ready to run."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, resource_ops.SERVICES)

    def create(
        self,
        request: InferenceServiceCreateRequest | Mapping[str, Any],
        *,
        serving: ServingOptions | Mapping[str, Any] | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> InferenceService:
        """Register a service around a container image.

        Args:
            request: The specification, or its JSON form.
            serving: How its replicas are started, probed, loaded and stopped.
            request_id: Makes the call idempotent; made up unless given.
            timeout: How long the call may take, in seconds, further tries included.

        Raises:
            InvalidRequestError: The specification breaks a rule.
        """
        return self._transport.run(create_ops.create_service(request, serving, request_id), timeout)

    def create_mock(
        self,
        mock_type: type | str,
        *,
        account: str,
        model: str | None = None,
        interface: InferenceInterface | Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        serving: ServingOptions | Mapping[str, Any] | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> InferenceService:
        """Register a mock: a class that stands in for a real system.

        Args:
            mock_type: The class, as `podbay.local.mocks.TextCompletion`, or its import path.
            account: The account that shall own the service.
            model: The id of the model that it stands for.
            interface: How it is called; the class is asked unless given.
            env: Environment variables of its replicas.
            serving: How its replicas are started, probed, loaded and stopped.
            request_id: Makes the call idempotent; made up unless given.
            timeout: How long the call may take, in seconds, further tries included.

        Raises:
            InvalidRequestError: A replica could not import the class.
        """
        request = create_ops.mock_request(mock_type, account, model, interface, env)
        return self._transport.run(
            create_ops.create_local_service(request, serving, request_id), timeout
        )

    def create_process(
        self,
        command: Sequence[str],
        interface: InferenceInterface | Mapping[str, Any],
        *,
        account: str,
        name: str | None = None,
        args: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        working_dir: str | os.PathLike[str] | None = None,
        model: str | None = None,
        serving: ServingOptions | Mapping[str, Any] | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> InferenceService:
        """Register a command that serves HTTP on the port given in the variable PORT.

        Args:
            command: The program and its first arguments.
            interface: How it is called.
            account: The account that shall own the service.
            name: What people call it; the program's name unless given.
            args: Further arguments.
            env: Environment variables of its replicas. A PORT asks for that fixed port.
            working_dir: The folder on the node in which it runs.
            model: The id of the model that it stands for.
            serving: How its replicas are started, probed, loaded and stopped.
            request_id: Makes the call idempotent; made up unless given.
            timeout: How long the call may take, in seconds, further tries included.

        Raises:
            InvalidRequestError: The specification breaks a rule.
        """
        request = create_ops.process_request(
            command,
            interface,
            account=account,
            name=name,
            args=None if args is None else list(args),
            env=env,
            working_dir=working_dir,
            model=model,
        )
        return self._transport.run(
            create_ops.create_local_service(request, serving, request_id), timeout
        )

    def query(
        self, *, timeout: float | None = None, **filters: Unpack[ServiceFilter]
    ) -> list[InferenceService]:
        """Return all services that match; see `ServiceFilter` for the keywords."""
        return self._query(filters, timeout)

    def pages(
        self, *, timeout: float | None = None, **filters: Unpack[ServiceFilter]
    ) -> Generator[list[InferenceService], None, None]:
        """Yield the services that match, page by page."""
        return self._pages(filters, timeout)

    def watch(
        self,
        *,
        after_revision: int = 0,
        timeout: float | None = None,
        **filters: Unpack[ServiceFilter],
    ) -> Generator[Change[InferenceService], None, None]:
        """Yield changes as they happen, like `Models.watch`."""
        return self._watch(filters, after_revision, timeout)

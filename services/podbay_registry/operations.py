"""What can be done with resources of any kind, by whoever may do it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, Generic, TypeVar

from podbay.schema import convert, platform
from podbay.v1 import common_pb2
from podbay_kit.access import Access, current_access
from podbay_kit.clock import Clock
from podbay_kit.resource_feed import Watch
from podbay_kit.resource_filters import ResourceKind, compile_filter
from podbay_kit.resource_labels import labelled
from podbay_kit.resource_messages import filter_of, read_valid
from podbay_kit.resource_pages import page_query
from podbay_kit.resources import Page
from podbay_registry import entities
from podbay_registry.store import RegistryStore

__all__ = ["ResourceOperations"]

E = TypeVar("E", bound=platform.DyffEntity)


class ResourceOperations(Generic[E]):
    """Gets, lists, edits, deletes and watches the resources of one kind.

    Args:
        kind: The kind of resource.
        plural: The name of the kind in grants, as "inferenceservices".
        store: Where they are.
        clock: Where the time comes from.
        stopping: Ends watches.
    """

    def __init__(
        self,
        kind: ResourceKind[E],
        plural: str,
        *,
        store: RegistryStore,
        clock: Clock,
        stopping: asyncio.Event,
    ) -> None:
        self.kind: Final = kind
        self.plural: Final = plural
        self._store = store
        self._clock = clock
        self._stopping = stopping

    async def get(self, resource_id: str) -> E:
        """Return a resource to a caller who may do with it what the RPC that runs does.

        Raises:
            ServiceError: The kind's reason for an id that does not exist, or PERMISSION_DENIED.
        """
        entity = await self._store.database.read(
            lambda conn: self._store.resources.get(conn, self.kind, resource_id)
        )
        self._permit(current_access(), entity)
        return entity

    async def list_page(
        self, selected: common_pb2.ResourceFilter, page: common_pb2.PageRequest
    ) -> Page[E]:
        """Return one page of what the caller may query.

        Raises:
            ServiceError: INVALID_REQUEST or INVALID_PAGE_TOKEN.
        """
        given, query = filter_of(selected), page_query(page)
        scope = current_access().scope()
        return await self._store.database.read(
            lambda conn: self._store.resources.list_page(conn, self.kind, given, query, scope)
        )

    async def label(self, resource_id: str, labels: Mapping[str, common_pb2.LabelChange]) -> E:
        """Change labels.

        Raises:
            ServiceError: INVALID_REQUEST, the reason for an unknown id, or PERMISSION_DENIED.
        """
        edit = convert.labels_edit_from_proto(labels)
        access = current_access()

        def change(entity: E) -> E:
            self._permit(access, entity)
            return labelled(entity, edit)

        return await self._store.feed.write(
            lambda conn: self._store.resources.modify(
                conn, self.kind, resource_id, change, now=self._clock.now()
            )
        )

    async def document(
        self, resource_id: str, message: common_pb2.DocumentationEdit
    ) -> common_pb2.Documentation:
        """Change documentation, and return all of it.

        Raises:
            ServiceError: INVALID_REQUEST, the reason for an unknown id, or PERMISSION_DENIED.
        """
        edit = read_valid(convert.documentation_edit_from_proto, message, "")
        access = current_access()

        def change(entity: E) -> E:
            self._permit(access, entity)
            return entities.documented(entity, edit)

        entity = await self._store.feed.write(
            lambda conn: self._store.resources.modify(
                conn, self.kind, resource_id, change, now=self._clock.now()
            )
        )
        return convert.documentation_to_proto(entity.metadata.documentation)

    async def delete(self, resource_id: str) -> common_pb2.Status:
        """Mark a resource as deleted, and return its status.

        Raises:
            ServiceError: The kind's reason for an id that does not exist, or PERMISSION_DENIED.
        """
        now = self._clock.now()
        access = current_access()

        def change(entity: E) -> E:
            self._permit(access, entity)
            return entities.deleted(entity, now)

        entity = await self._store.feed.write(
            lambda conn: self._store.resources.modify(conn, self.kind, resource_id, change, now=now)
        )
        return convert.to_proto(entities.status_of(entity))

    def watch(self, selected: common_pb2.ResourceFilter, after_revision: int) -> Watch[E]:
        """Return the changes of what the caller may query.

        Raises:
            ServiceError: INVALID_REQUEST.
        """
        return self._store.feed.watch(
            self.kind,
            after_revision,
            stopping=self._stopping,
            selected=compile_filter(filter_of(selected), self.kind),
            scope=current_access().scope(),
        )

    def _permit(self, access: Access, entity: E) -> None:
        access.permit(self.plural, entity.account, entity.id)

"""A resource store with a small kind of resource, for the store's own tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pydantic
import sqlalchemy as sa

from podbay.v1 import errors_pb2
from podbay_kit.resource_feed import ChangeFeed
from podbay_kit.resource_filters import SERVICE_FIELDS, SESSION_FIELDS, ResourceKind
from podbay_kit.resources import ResourceStore, define_resource_tables
from podbay_kit.storage import Database
from podbay_kit.storage_engines import schema_of
from podbay_kit.storage_urls import SCHEMA, is_postgresql

START = datetime(2030, 1, 1, tzinfo=UTC)


class Ship(pydantic.BaseModel):
    """A resource with all fields that the store looks at, and some that it does not."""

    id: str
    account: str = "acme"
    status: str = "Created"
    reason: str | None = None
    creationTime: datetime = START  # noqa: N815 # the name in the JSON interface
    name: str | None = "discovery"
    labels: dict[str, str] = {}
    model: dict[str, Any] | None = None
    crew: list[dict[str, Any]] = []


class Voyage(pydantic.BaseModel):
    """A resource shaped like a session."""

    id: str
    account: str = "acme"
    status: str = "Created"
    reason: str | None = None
    creationTime: datetime = START  # noqa: N815 # the name in the JSON interface
    labels: dict[str, str] = {}
    inferenceService: dict[str, Any]  # noqa: N815 # the name in the JSON interface


SHIPS = ResourceKind("Ship", "ship", Ship, errors_pb2.ERROR_REASON_MODEL_NOT_FOUND, SERVICE_FIELDS)
VOYAGES = ResourceKind(
    "Voyage",
    "voyage",
    Voyage,
    errors_pb2.ERROR_REASON_INFERENCE_SESSION_NOT_FOUND,
    SESSION_FIELDS,
)


def ship(number: int, **fields: Any) -> Ship:
    """Return a ship whose id and creation time come from a number."""
    return Ship(
        **{"id": f"{number:032x}", "creationTime": START + timedelta(seconds=number), **fields}
    )


class StoreUnderTest:
    """A database with a resource store and a feed."""

    def __init__(self, url: str, **feed: Any) -> None:
        self.metadata = sa.MetaData()
        self.url = url
        self.database = Database(url)
        self.store = ResourceStore(define_resource_tables(self.metadata))
        self.feed = ChangeFeed(self.database, self.store, **feed)

    async def create_tables(self) -> None:
        """Make the tables."""
        await self.database.write(self.metadata.create_all)

    async def add(self, *ships: Ship, now: datetime = START) -> None:
        """Insert ships, each in its own transaction."""
        for each in ships:
            await self._add(each, now)

    async def _add(self, added: Ship, now: datetime) -> None:
        await self.feed.write(lambda conn: self.store.insert(conn, SHIPS, added, now=now))

    async def put(self, changed: Ship, now: datetime = START) -> int:
        """Update a ship."""
        return await self.feed.write(lambda conn: self.store.update(conn, SHIPS, changed, now=now))


@asynccontextmanager
async def opened_store(url: str, **feed: Any) -> AsyncIterator[StoreUnderTest]:
    """Open a store over a new database."""
    _make_schema(url)
    under_test = StoreUnderTest(url, **feed)
    await under_test.create_tables()
    try:
        yield under_test
    finally:
        await under_test.database.close()


def _make_schema(url: str) -> None:
    """Make the schema that a service's migrations would make."""
    if not is_postgresql(url):
        return
    engine = sa.create_engine(sa.make_url(url).difference_update_query([SCHEMA]))
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(schema_of(url)))
    engine.dispose()

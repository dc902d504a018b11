"""The drivers that are on: those of this machine, and one for each declared node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from podbay_session_manager.declared_nodes import DeclaredNode
from podbay_session_manager.drivers.contract import ReplicaDriver

__all__ = ["DriverSet", "NodeDriverFactory"]

NodeDriverFactory = Callable[[DeclaredNode], ReplicaDriver]
"""Makes the driver of a declared node; nothing is reached by that. Raises `SettingsError` where the
declaration names no engine that it could reach."""


class DriverSet(Mapping[str, ReplicaDriver]):
    """The drivers by name. Those of declared nodes come and go while the session manager runs.

    Args:
        local: The drivers of this machine, in the order of preference.
        make: Makes the drivers of declared nodes; None where none can be declared.
        permitted: Whether the drivers may start, stop and remove at a moment; always unless given.
    """

    def __init__(
        self,
        local: Iterable[ReplicaDriver] = (),
        make: NodeDriverFactory | None = None,
        *,
        permitted: Callable[[], bool] | None = None,
    ) -> None:
        self.make = make
        self._permitted = permitted
        self._drivers = {driver.name: self._bound(driver) for driver in local}
        self._listeners: list[Callable[[ReplicaDriver], None]] = []

    def __getitem__(self, name: str) -> ReplicaDriver:
        return self._drivers[name]

    def __iter__(self) -> Iterator[str]:
        # A copy: a node may be declared while somebody looks at all drivers.
        return iter(list(self._drivers))

    def __len__(self) -> int:
        return len(self._drivers)

    @property
    def by_kind(self) -> list[ReplicaDriver]:
        """One driver of each kind, in the order of preference."""
        found: dict[str, ReplicaDriver] = {}
        for driver in self._drivers.values():
            found.setdefault(driver.kind, driver)
        return list(found.values())

    def listen(self, listener: Callable[[ReplicaDriver], None]) -> None:
        """Have every driver told that is on now or comes later."""
        self._listeners.append(listener)
        for driver in list(self._drivers.values()):
            listener(driver)

    def put(self, driver: ReplicaDriver) -> ReplicaDriver | None:
        """Add a driver; return the one of the same name that it replaces, which is to be closed."""
        replaced = self._drivers.get(driver.name)
        self._drivers[driver.name] = self._bound(driver)
        for listener in self._listeners:
            listener(driver)
        return replaced

    def take(self, name: str) -> ReplicaDriver | None:
        """Remove a driver, and return it to be closed."""
        return self._drivers.pop(name, None)

    def holds(self, driver: ReplicaDriver) -> bool:
        """Say whether this very driver is on."""
        return self._drivers.get(driver.name) is driver

    def _bound(self, driver: ReplicaDriver) -> ReplicaDriver:
        if self._permitted is not None:
            driver.permitted = self._permitted
        return driver

    async def close(self) -> None:
        """Close all drivers."""
        for driver in list(self._drivers.values()):
            await driver.close()

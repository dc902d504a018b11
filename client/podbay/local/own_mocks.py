"""Mocks that live in this process: classes that no other one can import, or shall not."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from podbay.local.faults import LocalError
from podbay.local.state import DataDir

if TYPE_CHECKING:
    from podbay_kit.mock_host import MockHost

__all__ = ["OwnMocks"]


class OwnMocks:
    """What this process offers to the session manager of an installation.

    Nothing runs before the first offer: most scripts make none.

    Args:
        data: The installation's data folder.
    """

    def __init__(self, data: DataDir) -> None:
        self._data = data
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._host: MockHost | None = None
        self._stopped = False

    def offer(self, mock_type: type, key: str | None = None) -> str:
        """Offer a class, from now to the end of the platform's object.

        Args:
            mock_type: The class.
            key: The key of an earlier offer that is to be renewed; a new one unless given.

        Returns:
            The key by which a service names the class.

        Raises:
            LocalError: The platform is closed, belongs to the parent process, or its folder cannot
                be written.
        """
        if os.getpid() != self._pid:
            raise LocalError(
                "FORKED",
                "this process was forked from the one that made the platform, and cannot host "
                "mocks for it",
                way_out="make a LocalPlatform of its own here, on the same folder",
            )
        with self._lock:
            if self._stopped:
                raise LocalError(
                    "PLATFORM_CLOSED",
                    "the platform is closed",
                    way_out="make another LocalPlatform on the same folder",
                )
            if self._host is None:
                self._host = self._start()
            return self._host.offer(mock_type, key)

    def stop(self) -> None:
        """End what is hosted here. May be called more than once."""
        with self._lock:
            self._stopped = True
            if self._host is not None:
                self._host.stop()

    def _start(self) -> MockHost:
        try:
            # The web server takes long to import, and is an extra.
            from podbay_kit.mock_host import MockHost  # noqa: PLC0415 # see above
        except ImportError as error:
            raise LocalError(
                "LOCAL_PLATFORM_NOT_INSTALLED",
                f"this installation holds the client only: {error.name} is missing",
                way_out="install the local platform: pip install 'podbay[local]'",
            ) from error
        try:
            return MockHost(self._data.mock_hosts)
        except OSError as error:
            raise LocalError(
                "DATA_DIR_NOT_WRITABLE",
                f"{self._data.mock_hosts} cannot be written: {error.strerror}",
                way_out="make room on its disk, or use another folder",
            ) from error

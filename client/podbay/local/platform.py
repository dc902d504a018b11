"""The platform on this machine, as an object of a script or a notebook."""

from __future__ import annotations

import atexit
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podbay import AsyncClient, Client
from podbay.local.faults import LocalError

if TYPE_CHECKING:
    from podbay.local.services import LocalInferenceServices
    from podbay.local.sessions import LocalInferenceSessions

__all__ = ["LocalPlatform"]


class LocalPlatform(Client):
    """The platform on this machine, without a terminal: a client that brings its installation.

    Starts the registry, the session manager and the inference router on free ports of the loopback
    interface, or joins those that another process has started on the same folder. They run in
    processes of their own, and end with the last process that uses them, however it ends. What is
    stored survives; sessions go on when the services run again.

    The services start here, and not at the first call, so that what keeps them from starting
    shows where it can be mended. Close the object when it is no longer needed, or use it as a
    context manager; otherwise it is closed when the program ends.

    Args:
        storage_root: The folder that holds everything; made where there is none. It is a data
            folder as that of `podbay up`, so `podbay status --data-dir FOLDER` works.
        account: The account of what is created here; made where there is none.
        timeout: How long one call may take, in seconds, further tries included.
        retries: How often a call that does no harm twice is sent again; 0 for never.

    Attributes:
        account: The account.
        storage_root: The folder, as an absolute path.

    Raises:
        LocalError: The services could not be started.
    """

    inferenceservices: LocalInferenceServices
    inferencesessions: LocalInferenceSessions

    def __init__(
        self,
        storage_root: str | os.PathLike[str] = "podbay-local",
        *,
        account: str = "local",
        timeout: float = 30.0,
        retries: int = 3,
    ) -> None:
        _refuse_in_a_replica()
        # Here: what they bring along takes much longer to import than a script's first lines need.
        from podbay.local.membership import Membership  # noqa: PLC0415 # see above
        from podbay.local.own_mocks import OwnMocks  # noqa: PLC0415
        from podbay.local.services import LocalInferenceServices  # noqa: PLC0415
        from podbay.local.sessions import LocalInferenceSessions  # noqa: PLC0415

        self._pid = os.getpid()
        self._membership = Membership(Path(storage_root))
        self._mocks = OwnMocks(self._membership.data)
        try:
            self.account = account
            self.storage_root = self._membership.data.path
            self._token = self._membership.data.admin_token_file.read_text().strip()
            endpoint = self._membership.record.service("registry").endpoint
            super().__init__(
                endpoint,
                self._token,
                timeout=timeout,
                retries=retries,
                # On loopback, whatever installation the environment speaks of.
                insecure=True,
            )
            self.inferenceservices = LocalInferenceServices(self._transport, account, self._mocks)
            self.inferencesessions = LocalInferenceSessions(self._transport)
            self._make_account()
        except BaseException:
            self._membership.leave()
            raise
        # The object lives until then: session clients that it made need its services.
        atexit.register(self.close)

    def client(self, **options: Any) -> Client:
        """Return a further client, with the keywords of `Client`; close it by itself."""
        return Client(self.endpoint, self._token, **{"insecure": True, **options})

    def async_client(self, **options: Any) -> AsyncClient:
        """Return an asynchronous client, with the keywords of `AsyncClient`; close it by itself."""
        return AsyncClient(self.endpoint, self._token, **{"insecure": True, **options})

    def close(self) -> None:
        """Close the client, and stop the services where nobody else uses them.

        May be called more than once. Does nothing in a forked child: the parent goes on.
        """
        if os.getpid() != self._pid:
            return
        atexit.unregister(self.close)
        try:
            super().close()
        finally:
            try:
                # First the services: they end the replicas here as they end all others.
                self._membership.leave()
            finally:
                self._mocks.stop()

    def _make_account(self) -> None:
        from podbay.errors import ConflictError  # noqa: PLC0415 # see the constructor

        try:
            self.accounts.create(self.account)
        except ConflictError:
            return  # it was made before


def _refuse_in_a_replica() -> None:
    # A script that is imported for a class of it, and does its work while it is imported, would
    # start replicas that import it again, without end.
    if "PODBAY_REPLICA_ID" in os.environ:
        raise LocalError(
            "STARTED_IN_A_REPLICA",
            "a replica imported this script for a class of it, and the script uses the platform "
            'while it is imported: put what it does under `if __name__ == "__main__":`, or move '
            "the class into a module of its own",
        )

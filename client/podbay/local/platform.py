"""The platform on this machine, as an object of a script or a notebook."""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from podbay import AsyncClient, Client
from podbay._core.create_ops import checked, imported, interface_of
from podbay._core.wire_errors import invalid
from podbay._sync.resources import InferenceServices
from podbay._sync.transport import Transport
from podbay.errors import ConflictError
from podbay.local.faults import LocalError
from podbay.local.membership import Membership
from podbay.local.mocks import mock_name
from podbay.local.own_mocks import OwnMocks
from podbay.local.python_path import importable_elsewhere, own_python_path
from podbay.local.sessions import LocalInferenceSessions
from podbay.schema.mock_keys import MOCK_KEY_VARIABLE
from podbay.schema.platform import InferenceInterface, InferenceService
from podbay.schema.serving import ServingOptions

__all__ = ["LocalInferenceServices", "LocalPlatform"]


class LocalInferenceServices(InferenceServices):
    """Inference services of a platform on this machine.

    Args:
        transport: What sends the calls.
        account: The account that owns a mock for which no other is named.
        mocks: What this process offers.
    """

    def __init__(self, transport: Transport, account: str, mocks: OwnMocks) -> None:
        super().__init__(transport)
        self._account = account
        self._mocks = mocks

    def create_mock(
        self,
        mock_type: type | str,
        *,
        account: str | None = None,
        model: str | None = None,
        interface: InferenceInterface | Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        serving: ServingOptions | Mapping[str, Any] | None = None,
        request_id: str | None = None,
        here: bool | None = None,
    ) -> InferenceService:
        """Register a mock: a class that stands in for a real system.

        A class of a module runs in replicas that are processes of their own, which import it from
        wherever this process does: what this process has on its `sys.path` becomes their
        PYTHONPATH, unless `env` has one. Any other class (of the main script or a notebook, or
        made within a function) runs in this process, behind the same web server: it prints here,
        shares what this process has, and ends with it.

        Args:
            mock_type: The class, as `podbay.local.mocks.TextCompletion`, or its import path.
            account: The account that shall own the service; the platform's unless given.
            model: The id of the model that it stands for.
            interface: How it is called; the class is asked unless given.
            env: Environment variables of its replicas, where they are processes.
            serving: How its replicas are started, probed, loaded and stopped.
            request_id: Makes the call idempotent; made up unless given.
            here: True to run it in this process (to debug it, for example), False to run it in
                processes of its own; chosen by where the class is unless given.

        Raises:
            InvalidRequestError: It is no class of a mock, or cannot run where it is to.
        """
        found = imported(mock_type) if isinstance(mock_type, str) and here else mock_type
        if here is None:
            here = isinstance(found, type) and not importable_elsewhere(found)
        if here:
            mock_class, interface = checked(found), interface or interface_of(found)
            if env:
                text = "a mock in this process has the process's own: set os.environ, or here=False"
                raise invalid("env", text, "The mock")
            env = {MOCK_KEY_VARIABLE: self._mocks.offer(mock_class)}
            name = f"{mock_class.__module__}.{mock_class.__qualname__}"
        else:
            interface = interface or (interface_of(found) if isinstance(found, type) else None)
            name = self._name_elsewhere(found)
            if not name.startswith("podbay."):
                env = {"PYTHONPATH": self._python_path(), **(env or {})}
        return super().create_mock(
            name,
            account=account or self._account,
            model=model,
            interface=interface,
            env=env,
            serving=serving,
            request_id=request_id,
        )

    def attach_mock(self, service_id: str, mock_type: type) -> None:
        """Let a service go on whose class lived in a process that has ended.

        From now on this process serves the service's sessions with the class, as if it had made
        it: those that wait for a replica have one within half a minute.

        Args:
            service_id: A service that `create_mock` made, here or in another process.
            mock_type: The class.

        Raises:
            NotFoundError: There is no such service.
            InvalidRequestError: The service's class is not one that lives in a process.
        """
        runner = self.get(service_id).runner
        env = {each.name: each.value for each in (runner.env or [] if runner else [])}
        if MOCK_KEY_VARIABLE not in env:
            text = "is a service whose class does not live in a process that made it"
            raise invalid("service_id", text, "The mock")
        self._mocks.offer(checked(mock_type), env[MOCK_KEY_VARIABLE])

    def _python_path(self) -> str:
        return own_python_path()

    @staticmethod
    def _name_elsewhere(mock_type: type | str) -> str:
        if isinstance(mock_type, str):
            return mock_type
        if not importable_elsewhere(checked(mock_type)):
            text = (
                f"{mock_type.__qualname__} cannot be imported by another process: move it into a "
                "module beside the script, or leave here=False out"
            )
            raise invalid("mock_type", text, "The mock")
        try:
            return mock_name(mock_type)
        except (TypeError, ValueError) as error:
            raise invalid("mock_type", str(error), "The mock") from None


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
        self._pid = os.getpid()
        self._membership = Membership(Path(storage_root))
        self._mocks = OwnMocks(self._membership.data)
        try:
            self.account = account
            self.storage_root = self._membership.data.path
            self._token = self._membership.data.admin_token_file.read_text().strip()
            endpoint = self._membership.record.service("registry").endpoint
            super().__init__(endpoint, self._token, timeout=timeout, retries=retries)
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
        return Client(self.endpoint, self._token, **options)

    def async_client(self, **options: Any) -> AsyncClient:
        """Return an asynchronous client, with the keywords of `AsyncClient`; close it by itself."""
        return AsyncClient(self.endpoint, self._token, **options)

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

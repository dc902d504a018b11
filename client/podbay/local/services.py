"""Inference services of a platform on this machine: mocks, and where they run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from podbay._core.create_ops import checked, imported, interface_of
from podbay._core.wire_errors import invalid
from podbay._sync.resources import InferenceServices
from podbay._sync.transport import Transport
from podbay.local.mocks import mock_name
from podbay.local.own_mocks import OwnMocks
from podbay.local.python_path import importable_elsewhere, own_python_path
from podbay.schema.mock_keys import MOCK_KEY_VARIABLE
from podbay.schema.platform import InferenceInterface, InferenceService
from podbay.schema.serving import ServingOptions

__all__ = ["LocalInferenceServices"]


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
        timeout: float | None = None,
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
            timeout: How long the call may take, in seconds, further tries included.
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
            timeout=timeout,
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

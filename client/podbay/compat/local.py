"""`dyff.audit.local.DyffLocalPlatform`: the platform on this machine, with any account."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from podbay._core.wire_errors import invalid
from podbay._sync.inference import InferenceSessionClient
from podbay._sync.resources import Models
from podbay._sync.transport import Transport
from podbay.compat.groups import CompatSessions, WaitingSessionClient, no_such_member
from podbay.errors import ConflictError
from podbay.local.platform import LocalInferenceServices, LocalPlatform
from podbay.local.python_path import own_python_path
from podbay.schema.platform import InferenceService, InferenceSessionAndToken, Model
from podbay.schema.requests import InferenceSessionCreateRequest, ModelCreateRequest

__all__ = ["DyffLocalPlatform"]

# A replica that imports a script's own mock finds the platform's packages there.
_REPLICA_PATH = Path(__file__).with_name("replica_path")

_MakeAccount = Callable[[str], None]


class _LocalModels(Models):
    def __init__(self, transport: Transport, make_account: _MakeAccount) -> None:
        super().__init__(transport)
        self._make_account = make_account

    def create(self, request: ModelCreateRequest | Mapping[str, Any], **options: Any) -> Model:
        self._make_account(_account_of(request))
        return super().create(request, **options)

    def create_from_volume(
        self, root_directory: str | os.PathLike[str], *, account: str, **options: Any
    ) -> Model:
        """Register a model whose files are those of a folder."""
        self._make_account(account)
        return super().create_from_volume(root_directory, account=account, **options)


class _LocalServices(LocalInferenceServices):
    def __init__(self, transport: Transport, account: str, make_account: _MakeAccount) -> None:
        super().__init__(transport, account)
        self._make_account = make_account

    def create_mock(
        self,
        mock_type: type | str,
        *,
        account: str | None = None,
        id: str | None = None,
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> InferenceService:
        """Register a mock; `id` is the one thing of the platform's that cannot be chosen."""
        if id is not None:
            raise invalid("id", "cannot be chosen: Podbay makes the ids of resources", "The mock")
        if account is not None:
            self._make_account(account)
        module = mock_type if isinstance(mock_type, str) else mock_type.__module__
        if not module.startswith("podbay."):
            path = os.pathsep.join([str(_REPLICA_PATH), own_python_path()])
            env = {"PYTHONPATH": path, **(env or {})}
        return super().create_mock(mock_type, account=account, env=env, **options)


class _LocalSessions(CompatSessions):
    client_type = WaitingSessionClient

    def __init__(self, transport: Transport, make_account: _MakeAccount) -> None:
        super().__init__(transport)
        self._make_account = make_account

    def create(
        self, request: InferenceSessionCreateRequest | Mapping[str, Any], **options: Any
    ) -> InferenceSessionAndToken:
        self._make_account(_account_of(request))
        return super().create(request, **options)

    def client(self, session_id: str, token: str, **options: Any) -> InferenceSessionClient:
        """Return a client for the calls of one session. The token is not looked at."""
        # Scripts pass anything: the platform's local sessions have no tokens.
        del token
        return super().client(session_id, self.token(session_id), **options)


class DyffLocalPlatform(LocalPlatform):
    """The platform on this machine.

    The services run until the script ends. Accounts are made when they are first named, and calls
    of a session wait until it has started.

    Args:
        storage_root: The folder that holds everything; made where there is none.
        remote_client: Where the platform would fetch resources from; warned of, as there is no
            `fetch`.
    """

    def __init__(
        self, storage_root: str | os.PathLike[str] = "dyff-outputs", *, remote_client: Any = None
    ) -> None:
        if remote_client is not None:
            warnings.warn("Podbay does not fetch: 'remote_client' is not used", stacklevel=2)
        super().__init__(storage_root)
        self.remote_client = remote_client
        self._accounts_made = {self.account}
        make_account = self._make_account_once
        self.models = _LocalModels(self._transport, make_account)
        self.inferenceservices = _LocalServices(self._transport, self.account, make_account)
        self.inferencesessions = _LocalSessions(self._transport, make_account)

    def __getattr__(self, name: str) -> Any:
        no_such_member("DyffLocalPlatform", name)

    def _make_account_once(self, account: str) -> None:
        if account in self._accounts_made:
            return
        with suppress(ConflictError):  # an earlier script has made it
            self.accounts.create(account)
        self._accounts_made.add(account)


def _account_of(request: Any) -> str:
    account = request.get("account") if isinstance(request, Mapping) else request.account
    if not isinstance(account, str):
        raise invalid("account", "must be the name of an account")
    return account

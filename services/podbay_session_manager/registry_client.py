"""The registry as the session manager asks it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Final

import grpc

from podbay.schema import convert, platform
from podbay.schema.identities import REGISTRY
from podbay.v1 import (
    account_pb2,
    errors_pb2,
    inference_service_pb2,
    model_pb2,
    registry_service_pb2,
)
from podbay.v1.registry_service_pb2_grpc import RegistryServiceStub
from podbay_kit.audit import shown_id
from podbay_kit.errors import ServiceError
from podbay_kit.model_source import RegistryModelFiles
from podbay_kit.service_link import ServiceLink
from podbay_session_manager.model_gate import COMING, ModelState, Stand

if TYPE_CHECKING:
    from podbay_kit.tls_files import LiveTls

__all__ = ["RegistryClient", "RegistryUnavailableError"]

_LOG = logging.getLogger(__name__)

_TIMEOUT: Final = 5.0
_SILENT_SECONDS: Final = 20.0
_AWAY: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
    }
)


class RegistryUnavailableError(OSError):
    """The registry cannot be asked now."""


class RegistryClient:
    """Asks the registry as a service of the installation.

    Args:
        endpoint: Its address, as "127.0.0.1:7101"; with certificates that for services.
        service_token: The secret that the services share; None where there are certificates.
        certificate: The session manager's certificate; None for plain text.
    """

    def __init__(
        self, endpoint: str, service_token: str | None, certificate: LiveTls | None = None
    ) -> None:
        self._endpoint = endpoint
        self._link = ServiceLink(
            endpoint,
            REGISTRY,
            RegistryServiceStub,
            options=[
                ("grpc.max_receive_message_length", 65 << 20),
                # A registry that comes back is found quickly.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
            ],
            certificate=certificate,
            service_token=service_token,
        )
        self._stub = self._link.stub
        self._metadata = self._link.metadata

    @property
    def model_files(self) -> RegistryModelFiles:
        """The files of models that the registry keeps."""
        return RegistryModelFiles(self._stub, self._metadata, self._link.failed)

    async def authenticate(self, secret: str) -> registry_service_pb2.AuthenticateResponse:
        """Ask whom an API token acts for.

        Raises:
            RegistryUnavailableError: It cannot be asked now.
        """
        request = registry_service_pb2.AuthenticateRequest(secret=secret)
        try:
            answer: registry_service_pb2.AuthenticateResponse = await self._stub.Authenticate(
                request, metadata=self._metadata, timeout=_TIMEOUT
            )
        except grpc.aio.AioRpcError as error:
            raise RegistryUnavailableError(self._note(error)) from error
        return answer

    async def get_service(self, service_id: str) -> platform.InferenceService:
        """Return an inference service.

        Raises:
            ServiceError: INFERENCE_SERVICE_NOT_FOUND or DEPENDENCY_UNAVAILABLE.
        """
        request = registry_service_pb2.GetInferenceServiceRequest(id=service_id)
        try:
            answer = await self._stub.GetInferenceService(
                request, metadata=self._metadata, timeout=_TIMEOUT
            )
        except grpc.aio.AioRpcError as error:
            raise self._failure(error, service_id) from error
        message: inference_service_pb2.InferenceService = answer.inference_service
        return convert.from_proto(message)

    async def model_state(self, model_id: str) -> ModelState:
        """Return where a model stands.

        Raises:
            RegistryUnavailableError: It cannot be asked now.
        """
        request = registry_service_pb2.GetModelRequest(id=model_id)
        try:
            answer = await self._stub.GetModel(request, metadata=self._metadata, timeout=_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return ModelState(Stand.OPEN)
            raise RegistryUnavailableError(self._note(error)) from error
        model: model_pb2.Model = answer.model
        stand = Stand.OPEN
        if model.status in COMING:
            stand = Stand.COMING
        elif model.status == "Error":
            stand = Stand.FAILED
        return ModelState(stand, model.status, model.message)

    async def watch_quotas(
        self,
    ) -> AsyncGenerator[registry_service_pb2.WatchAccountQuotasResponse, None]:
        """Yield all quotas, and then those that change, until the registry goes away.

        Raises:
            RegistryUnavailableError: It cannot be asked now.
        """
        call = self._stub.WatchAccountQuotas(
            registry_service_pb2.WatchAccountQuotasRequest(), metadata=self._metadata
        )
        try:
            while True:
                # It tells something every few seconds, so that silence is a lost connection.
                async with asyncio.timeout(_SILENT_SECONDS):
                    told = await call.read()
                if told is grpc.aio.EOF:
                    return
                yield told
        except TimeoutError as error:
            raise RegistryUnavailableError("SILENT") from error
        except grpc.aio.AioRpcError as error:
            self._note(error)
            raise RegistryUnavailableError(error.code().name) from error
        finally:
            call.cancel()

    async def get_quota(self, account: str) -> account_pb2.QuotaOfAccount:
        """Ask for the quota of an account.

        Raises:
            ServiceError: ACCOUNT_NOT_FOUND.
            RegistryUnavailableError: It cannot be asked now.
        """
        request = registry_service_pb2.GetAccountQuotaRequest(account=account)
        try:
            answer = await self._stub.GetAccountQuota(
                request, metadata=self._metadata, timeout=_TIMEOUT
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise ServiceError(
                    errors_pb2.ERROR_REASON_ACCOUNT_NOT_FOUND,
                    "There is no account with this id. Create it first, or use one that exists "
                    "(podbay account list).",
                ) from error
            self._note(error)
            raise RegistryUnavailableError(error.code().name) from error
        return account_pb2.QuotaOfAccount(
            account=account, quota=answer.quota, revision=answer.revision
        )

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()

    def _note(self, error: grpc.aio.AioRpcError) -> str:
        """Tell the operator; return what callers may hear."""
        # What gRPC says of certificates is for operators, not for callers.
        _LOG.warning(
            "the registry at %s does not answer (%s: %s)",
            self._endpoint,
            error.code().name,
            error.details(),
        )
        return self._link.failed(error)

    def _failure(self, error: grpc.aio.AioRpcError, service_id: str) -> ServiceError:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return ServiceError(
                errors_pb2.ERROR_REASON_INFERENCE_SERVICE_NOT_FOUND,
                f"There is no inference service with the id {shown_id(service_id)[:64]!r}. List "
                "them: podbay service list.",
            )
        why = self._note(error)
        if error.code() in _AWAY:
            return ServiceError(
                errors_pb2.ERROR_REASON_DEPENDENCY_UNAVAILABLE,
                f"The registry at {self._endpoint} cannot be reached now "
                f"({why}), and the session manager needs it to read the inference "
                "service. Sessions that run go on; try again.",
                retry_after=1.0,
                metadata={"dependency": "registry"},
            )
        return ServiceError(
            errors_pb2.ERROR_REASON_DEPENDENCY_UNAVAILABLE,
            f"The registry at {self._endpoint} refused to tell about the inference service "
            f"({error.code().name}). Check that all services of the installation use the same "
            "service token, or certificates of the same authority.",
            metadata={"dependency": "registry"},
        )

"""Creating models, inference services and sessions."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from podbay._core.arguments import text
from podbay._core.operations import Operation, Service
from podbay._core.resource_ops import converted, new_request_id, read
from podbay._core.wire_errors import invalid
from podbay.schema import convert, platform, requests
from podbay.schema.serving import ServingOptions
from podbay.v1 import registry_service_pb2 as registry
from podbay.v1 import session_manager_service_pb2 as sessions

__all__ = [
    "checked",
    "create_local_service",
    "create_model",
    "create_service",
    "create_session",
    "imported",
    "interface_of",
    "mock_request",
    "process_request",
]


def create_model(
    request: requests.ModelCreateRequest | Mapping[str, Any], request_id: str | None
) -> Operation[platform.Model]:
    """Register a model."""
    given = read(requests.ModelCreateRequest, request, "The model")
    return Operation(
        service=Service.REGISTRY,
        method="CreateModel",
        what="create the model",
        request=registry.CreateModelRequest(
            model=converted(convert.to_proto, given, "The model"),
            request_id=_request_id(request_id),
        ),
        response=registry.CreateModelResponse,
        decode=lambda answer: convert.from_proto(answer.model),
    )


def create_service(
    request: requests.InferenceServiceCreateRequest | Mapping[str, Any],
    serving: ServingOptions | Mapping[str, Any] | None,
    request_id: str | None,
) -> Operation[platform.InferenceService]:
    """Register a service around an image."""
    given = read(requests.InferenceServiceCreateRequest, request, "The inference service")
    return _service(
        "CreateInferenceService",
        registry.CreateInferenceServiceRequest,
        registry.CreateInferenceServiceResponse,
        given,
        serving,
        request_id,
    )


def create_local_service(
    request: requests.LocalInferenceServiceCreateRequest,
    serving: ServingOptions | Mapping[str, Any] | None,
    request_id: str | None,
) -> Operation[platform.InferenceService]:
    """Register a service that needs no image."""
    return _service(
        "CreateLocalInferenceService",
        registry.CreateLocalInferenceServiceRequest,
        registry.CreateLocalInferenceServiceResponse,
        request,
        serving,
        request_id,
    )


def _service(
    method: str,
    request_type: Any,
    response_type: Any,
    given: Any,
    serving: ServingOptions | Mapping[str, Any] | None,
    request_id: str | None,
) -> Operation[platform.InferenceService]:
    request = request_type(
        inference_service=converted(convert.to_proto, given, "The inference service"),
        request_id=_request_id(request_id),
    )
    if serving is not None:
        options = read(ServingOptions, serving, "The serving options")
        request.serving.CopyFrom(converted(convert.to_proto, options, "The serving options"))
    return Operation(
        service=Service.REGISTRY,
        method=method,
        what="create the inference service",
        request=request,
        response=response_type,
        decode=lambda answer: convert.from_proto(answer.inference_service),
    )


def create_session(
    request: requests.InferenceSessionCreateRequest | Mapping[str, Any], request_id: str | None
) -> Operation[platform.InferenceSessionAndToken]:
    """Start a session."""
    given = read(requests.InferenceSessionCreateRequest, request, "The inference session")
    return Operation(
        service=Service.SESSION_MANAGER,
        method="CreateInferenceSession",
        what="create the inference session",
        request=sessions.CreateInferenceSessionRequest(
            inference_session=converted(convert.to_proto, given, "The inference session"),
            request_id=_request_id(request_id),
        ),
        response=sessions.CreateInferenceSessionResponse,
        decode=convert.from_proto,
    )


def _request_id(given: str | None) -> str:
    return new_request_id() if given is None else text(given, "request_id")


def mock_request(
    mock_type: type | str,
    account: str,
    model: str | None,
    interface: platform.InferenceInterface | Mapping[str, Any] | None,
    env: Mapping[str, str] | None,
) -> requests.LocalInferenceServiceCreateRequest:
    """Return the request of a mock.

    Args:
        mock_type: The class, or its import path.
        account: The account that shall own the service.
        model: The id of the model that it stands for.
        interface: How it is called; the class is asked unless given.
        env: Environment variables of its replicas.

    Raises:
        InvalidRequestError: No other process can import the class, or it has no interface.
    """
    if isinstance(mock_type, str):
        name = mock_type
    else:
        from podbay.local.mocks import mock_name  # noqa: PLC0415 # only mocks need it

        try:
            name = mock_name(mock_type)
        except (TypeError, ValueError) as error:
            raise invalid("mock_type", str(error), "The mock") from None
    if interface is None:
        found = imported(mock_type) if isinstance(mock_type, str) else mock_type
        interface = interface_of(found)
    return _local_request(
        account=account,
        name=name,
        interface=interface,
        model=model,
        env=env,
    )


def process_request(
    command: Sequence[str],
    interface: platform.InferenceInterface | Mapping[str, Any],
    **options: Any,
) -> requests.LocalInferenceServiceCreateRequest:
    """Return the request of a command that serves HTTP.

    Args:
        command: The program and its first arguments.
        interface: How it is called.
        **options: account, name, args, env, working_dir and model.
    """
    if isinstance(command, str) or not command:
        raise invalid("command", "must be a list: the program and its arguments", "The process")
    name = options.pop("name") or command[0].rpartition("/")[2] or "process"
    working_dir = options.pop("working_dir")
    return _local_request(
        command=list(command),
        interface=interface,
        name=name,
        workingDir=None if working_dir is None else str(working_dir),
        **options,
    )


def _local_request(
    *, interface: Any, env: Mapping[str, str] | None, **fields: Any
) -> requests.LocalInferenceServiceCreateRequest:
    values = {key: value for key, value in fields.items() if value is not None}
    if env is not None:
        values["env"] = [{"name": key, "value": value} for key, value in env.items()]
    values["interface"] = interface
    return read(requests.LocalInferenceServiceCreateRequest, values, "The local inference service")


def imported(path: str) -> Any:
    """Return the class of an import path as "package.module.Outer.Inner".

    Raises:
        InvalidRequestError: It cannot be imported here.
    """
    parts = path.split(".")
    for split in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:split])
        try:
            found: Any = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
                continue
            raise invalid(
                "mock_type", f"{path} needs the module {error.name}, which is not there", "The mock"
            ) from None
        try:
            for part in parts[split:]:
                found = getattr(found, part)
        except AttributeError:
            break
        return found
    raise invalid(
        "mock_type",
        f"{path} cannot be imported here to ask for its interface: give interface=..., or the "
        "import path of a class",
        "The mock",
    )


def checked(mock_type: Any) -> type:
    """Return the class of a mock.

    Raises:
        InvalidRequestError: It is not one.
    """
    if not isinstance(mock_type, type):
        raise invalid("mock_type", "must be a class, or the import path of one", "The mock")
    if not callable(getattr(mock_type, "infer", None)):
        text = f"{mock_type.__qualname__} has no method infer(endpoint, request)"
        raise invalid("mock_type", text, "The mock")
    return mock_type


def interface_of(mock_type: Any) -> Any:
    """Build a mock and return its interface.

    Raises:
        InvalidRequestError: It is no class, or has no interface.
    """
    if not isinstance(mock_type, type):
        raise invalid("mock_type", "must be a class, or the import path of one", "The mock")
    interface = getattr(mock_type(), "interface", None)
    if interface is None:
        raise invalid(
            "mock_type", f"{mock_type.__qualname__} has no property `interface`", "The mock"
        )
    return interface

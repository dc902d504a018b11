"""How a body becomes a call, and the items of its answer what the user gets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import pydantic
from google.protobuf.json_format import MessageToDict

from podbay._core.arguments import text
from podbay._core.foreign import plain_form
from podbay._core.wire_errors import from_validation_error, invalid
from podbay.errors import PodbayError, error_for
from podbay.schema import adapters
from podbay.schema.jsontext import loads, quick_dumps
from podbay.schema.platform import InferenceInterface
from podbay.v1 import inference_router_service_pb2 as wire

__all__ = ["MAX_BODY_BYTES", "Adapter", "CallShape", "locate"]

Adapter = Callable[[Iterable[Any]], Iterable[Any]]
"""From a stream of items to a stream of items."""

MAX_BODY_BYTES: Final = 64 << 20
"""The most bytes of one body: what one message of the router's may hold."""

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class CallShape:
    """The endpoint and the adapters of one session client.

    Args:
        interface: The service's interface, as a model or its JSON form.
        endpoint: The path at the replica; wins over the interface's.
        input_adapter: Wins over the interface's input pipeline.
        output_adapter: Wins over the interface's output pipeline.

    Raises:
        InvalidRequestError: There is neither an interface nor an endpoint, or it is not valid.
        AdapterError: A pipeline of the interface cannot be built.
    """

    def __init__(
        self,
        interface: InferenceInterface | Mapping[str, Any] | None,
        endpoint: str | None,
        input_adapter: Adapter | None,
        output_adapter: Adapter | None,
    ) -> None:
        if interface is None and endpoint is None:
            raise invalid(
                "endpoint", "give an interface, or the path of an endpoint", "The session client"
            )
        checked = None if interface is None else _interface(interface)
        path = endpoint if endpoint is not None else (checked.endpoint if checked else "")
        self.endpoint = text(path, "endpoint").lstrip("/")
        if checked is not None:
            if input_adapter is None and checked.inputPipeline:
                input_adapter = adapters.create_pipeline(checked.inputPipeline)
            if output_adapter is None and checked.outputPipeline:
                if checked.outputPipeline[-1].kind == "FileUpload":
                    raise invalid(
                        "interface.outputPipeline", "must not end in a FileUpload", "The interface"
                    )
                output_adapter = adapters.create_pipeline(checked.outputPipeline)
        self._input = input_adapter
        self._output = output_adapter

    def prepare(self, body: Any) -> bytes | wire.FileUpload:
        """Return what is sent for a body.

        Raises:
            InvalidRequestError: It makes no request, or more than one, or is not JSON.
            AdapterError: It does not fit the input pipeline.
        """
        item = body if self._input is None else _only(self._input([body]))
        upload = adapters.file_upload_envelope(item)
        if upload is not None:
            return _file_upload(upload)
        text = _json(item)
        if len(text) > MAX_BODY_BYTES:
            raise _too_large(len(text))
        return text

    def results(self, items: Sequence[wire.Item]) -> list[Any]:
        """Return the user's items of a whole answer.

        Raises:
            ReplicaError: The replica's answer is not JSON.
            AdapterError: It does not fit the output pipeline.
        """
        values = [_value(item) for item in items]
        return values if self._output is None else list(self._output(values))

    def values(self, items: Sequence[wire.Item], session_id: str, replica_id: str) -> Iterator[Any]:
        """Yield the values of an answer, or of a piece of one, before the output pipeline.

        Raises:
            ReplicaError: The replica's answer is not JSON.
        """
        for item in items:
            try:
                value = _value(item)
            except PodbayError as error:
                locate(error, session_id, replica_id)
                raise
            yield value

    def adapted(self, values: Iterator[Any]) -> Iterator[Any]:
        """Return the user's items of a stream of values, each as soon as the adapter makes it.

        Raises:
            AdapterError: A value does not fit the output pipeline.
        """
        return values if self._output is None else iter(self._output(values))

    @property
    def adapts_by_item(self) -> bool:
        """Whether the output pipeline keeps nothing from one item to the next."""
        return self._output is None or isinstance(
            self._output, adapters.Adapter | adapters.Pipeline
        )


def _interface(interface: InferenceInterface | Mapping[str, Any]) -> InferenceInterface:
    if isinstance(interface, InferenceInterface):
        return interface
    try:
        return InferenceInterface.model_validate(plain_form(interface, "The interface"))
    except pydantic.ValidationError as error:
        raise from_validation_error(error, "The interface") from None


def _only(adapted: Iterable[Any]) -> Any:
    items = iter(adapted)
    try:
        item = next(items)
    except StopIteration:
        raise invalid("body", "makes no item in the input pipeline", "The body") from None
    for _second in items:
        raise invalid("body", "makes more than one item in the input pipeline", "The body")
    if item is None:
        raise invalid("body", "makes a null in the input pipeline", "The body")
    return item


def _json(item: Any) -> bytes:
    try:
        return quick_dumps(item) or _encode(item).encode()
    except UnicodeEncodeError:
        why = "holds text with a lone surrogate"
    except ValueError as error:
        circular = "ircular" in str(error)
        why = "refers to itself" if circular else "holds NaN or an infinity, which JSON has not"
    except TypeError:
        why = "holds an object that is not JSON: only null, booleans, numbers, texts, lists, dicts"
    except RecursionError:
        raise invalid("body", "is nested too deeply", "The body") from None
    raise error_for(
        "MALFORMED_JSON",
        f"The body is not JSON: it {why}.",
        violations=[("body", f"not JSON: it {why}")],
        not_started=True,
    )


def _too_large(size: int) -> PodbayError:
    return error_for(
        "BODY_TOO_LARGE",
        f"The body has {size} bytes; at most {MAX_BODY_BYTES} can be sent. Send less at once.",
        metadata={"size": str(size), "limit": str(MAX_BODY_BYTES)},
        not_started=True,
    )


def _value(item: wire.Item) -> Any:
    if item.WhichOneof("item") == "value":
        return MessageToDict(item.value)
    try:
        return loads(item.json)
    except RecursionError:
        why = "are nested more deeply than Python reads"
    except (json.JSONDecodeError, UnicodeDecodeError):
        why = "are not JSON"
    except ValueError:
        why = "hold an integer of more digits than Python reads"
    raise error_for(
        "REPLICA_BAD_ANSWER", f"The replica answered {len(item.json)} bytes that {why}."
    )


def locate(error: Exception, session_id: str, replica_id: str) -> None:
    """Add to an error that a replica's answer cannot be read which replica's it is."""
    if isinstance(error, PodbayError) and error.reason == "REPLICA_BAD_ANSWER":
        error.metadata["session"] = session_id
        if replica_id:
            error.metadata["replica"] = replica_id


def _file_upload(envelope: adapters.FileUploadEnvelope) -> wire.FileUpload:
    if len(envelope.content) > MAX_BODY_BYTES:
        raise _too_large(len(envelope.content))
    try:
        return wire.FileUpload(
            name=envelope.name,
            filename=envelope.filename,
            content_type=envelope.content_type,
            content=envelope.content,
            form_fields=[
                wire.FormField(name=name, value=value)
                for name, value in envelope.form_fields.items()
            ],
        )
    except ValueError:
        raise invalid(
            "body", "the file upload holds text with a lone surrogate", "The body"
        ) from None

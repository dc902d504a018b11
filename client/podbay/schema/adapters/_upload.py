"""FileUpload, and the check of its envelope by the sender."""

import binascii
import dataclasses
import json
from collections.abc import Callable
from typing import Any

from podbay.schema.adapters._compute import compile_query
from podbay.schema.adapters._errors import (
    ConfigurationAttributeError,
    ConfigurationValueError,
    EnvelopeError,
    ItemAttributeError,
    ItemBase64Error,
    ItemTypeError,
    ItemValueError,
    json_type,
    member_path,
    quoted,
)
from podbay.schema.adapters._fields import explain_item
from podbay.schema.adapters._stages import Building, Stage
from podbay.schema.adapters._template import compile_template

_ENVELOPE = "$fileUpload"
_KEYS = ("field", "encoding", "name", "filename", "contentType", "formFields")
# The members that are templates, with their defaults.
_EXPRESSIONS: dict[str, Any] = {
    "filename": "file",
    "contentType": "application/octet-stream",
    "formFields": {},
}
_FIELDS = ("name", "filename", "contentType", "content", "formFields")


@dataclasses.dataclass(frozen=True, slots=True)
class FileUploadEnvelope:
    """A file to be sent as `multipart/form-data`.

    Attributes:
        name: The name of the file's part.
        filename: The file's name.
        content_type: The file's media type; it holds no line break.
        content: The file.
        form_fields: The other parts, in order; they come before the file.
    """

    name: str
    filename: str
    content_type: str
    content: bytes
    form_fields: dict[str, str]


def build_upload(configuration: Any, building: Building) -> Stage:
    """Builds FileUpload: an item becomes the envelope of a file, with form fields."""
    if not isinstance(configuration, dict):
        message = f"must be an object, not {json_type(configuration)}"
        raise ConfigurationAttributeError(message)
    unknown = [quoted(key) for key in configuration if key not in _KEYS]
    if unknown:
        listed = f"{', '.join(unknown)}; there are {', '.join(_KEYS)}"
        raise ConfigurationValueError(f"has the unknown members {listed}")
    find = compile_query(_text(configuration, "field", None), ".field").scalar(".field")
    name = _text(configuration, "name", "file")
    encoding = configuration.get("encoding", "base64")
    if not isinstance(encoding, str) or encoding not in _ENCODINGS:
        message = f"must be one of {', '.join(_ENCODINGS)}, not {quoted(encoding)}"
        raise ConfigurationValueError(message, path=".encoding")
    encode = _ENCODINGS[encoding]()
    fields = configuration.get("formFields", {})
    if not isinstance(fields, dict):
        message = f"must be an object, not {json_type(fields)}"
        raise ConfigurationValueError(message, path=".formFields")
    filename, content_type, make_fields = (
        compile_template(configuration.get(key, default), f".{key}", building)
        for key, default in _EXPRESSIONS.items()
    )

    def wrap(item: Any) -> Any:
        payload = {"name": name, "filename": filename(item), "contentType": content_type(item)}
        values = make_fields(item)
        payload["content"] = encode(find(item))
        payload["formFields"] = _form_fields(values) if values != {} else values
        return {_ENVELOPE: payload}

    return Stage("FileUpload", one=wrap, explain=explain_item, last=True)


def _text(configuration: dict[str, Any], key: str, default: str | None) -> str:
    text = configuration.get(key, default)
    if not isinstance(text, str):
        message = f"must be a string, not {json_type(text)}"
        raise ConfigurationValueError(message, path=f".{key}")
    return text


def _form_fields(fields: Any) -> dict[str, str]:
    if not isinstance(fields, dict):
        message = f"must give an object, not {json_type(fields)}"
        raise ItemAttributeError(message, path=".formFields")
    for name, value in fields.items():
        if not isinstance(value, str | int | float):
            message = f"must be a string, a number or a boolean, not {json_type(value)}"
            raise ItemValueError(message, path=f".formFields{member_path(name)}")
    return {name: str(value) for name, value in fields.items()}


def _wrong(expected: str, value: Any) -> ItemValueError:
    return ItemValueError(f"must be {expected}, not {json_type(value)}", path=".field")


def _base64_decoder() -> Callable[[Any], bytes]:
    from pybase64 import b64decode  # noqa: PLC0415 - only those who upload files need it

    def decode(value: Any) -> bytes:
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str):
            raise _wrong("base64 in a string, or bytes", value)
        try:
            # Ten times as quick, and refuses everything about which one could be of two minds.
            return b64decode(value, None, True)
        except ValueError:
            return _decode_leniently(value)

    return decode


def _decode_leniently(text: str) -> bytes:
    """Decodes base64 as the standard library does, which skips what is not in the alphabet."""
    try:
        return binascii.a2b_base64(text)
    except binascii.Error:
        message = "the string is not base64: its length or its padding is wrong"
        raise ItemBase64Error(message, path=".field") from None
    except ValueError:
        raise ItemValueError("the string is not base64: it is not ASCII", path=".field") from None


def _from_bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise _wrong("bytes", value)
    return value


def _from_text(value: Any) -> bytes:
    if not isinstance(value, str):
        raise _wrong("a string", value)
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise ItemValueError("the string cannot be written as UTF-8", path=".field") from None


def _from_json(value: Any) -> bytes:
    try:
        return json.dumps(value).encode()
    except TypeError:
        raise ItemTypeError("the value holds something JSON does not have", path=".field") from None


# What makes the function from a value to the file.
_ENCODINGS: dict[str, Callable[[], Callable[[Any], bytes]]] = {
    "base64": _base64_decoder,
    "binary": lambda: _from_bytes,
    "utf-8": lambda: _from_text,
    "json": lambda: _from_json,
}


def file_upload_envelope(item: Any) -> FileUploadEnvelope | None:
    """Returns the file to be sent for an item, if the item is the envelope of one.

    Args:
        item: What is to be sent. An object with the member `$fileUpload` is an envelope, also if
            no adapter has made it.

    Returns:
        The file, or None for every other item.

    Raises:
        EnvelopeError: The envelope has other members, lacks some, or one is of the wrong type.
    """
    if not isinstance(item, dict) or _ENVELOPE not in item:
        return None
    payload = item[_ENVELOPE]
    if len(item) > 1:
        raise _envelope_error(f"{_ENVELOPE} must be the only member of the item")
    if not isinstance(payload, dict) or set(payload) != set(_FIELDS):
        raise _envelope_error(f"must be an object with exactly {', '.join(_FIELDS)}", "")
    for field in ("name", "filename", "contentType"):
        _expect(payload[field], str, "a string", f".{field}")
    _expect(payload["content"], bytes, "bytes", ".content")
    fields = payload["formFields"]
    _expect(fields, dict, "an object", ".formFields")
    for name, value in fields.items():
        _expect(name, str, "a string", ".formFields")
        _expect(value, str, "a string", ".formFields")
    if any(character in payload["contentType"] for character in "\r\n\0"):
        raise _envelope_error("must not hold a line break", ".contentType")
    return FileUploadEnvelope(
        name=payload["name"],
        filename=payload["filename"],
        content_type=payload["contentType"],
        content=payload["content"],
        form_fields=dict(fields),
    )


def _expect(value: Any, expected: type, words: str, place: str) -> None:
    if not isinstance(value, expected):
        raise _envelope_error(f"must be {words}, not {json_type(value)}", place)


def _envelope_error(message: str, place: str | None = None) -> EnvelopeError:
    path = "" if place is None else f"{_ENVELOPE}{place}"
    error = EnvelopeError(message, path=path)
    return error.of_kind("FileUpload")

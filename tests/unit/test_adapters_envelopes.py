"""The sender's check of file uploads."""

from typing import Any

import pytest

from podbay.schema.adapters import EnvelopeError, file_upload_envelope
from tests.unit.test_adapters_vectors import by_name, load, to_text, with_bytes

REFUSED_HERE = "contentType-with-line-break"


@pytest.mark.parametrize("vector", load("envelopes.json"), ids=by_name)
def test_envelopes(vector: dict[str, Any]) -> None:
    item = with_bytes(vector["input"])
    if "error" in vector or vector["name"] == REFUSED_HERE:
        with pytest.raises(ValueError, match="FileUpload") as failure:
            file_upload_envelope(item)
        assert isinstance(failure.value, EnvelopeError)
        return
    envelope = file_upload_envelope(item)
    if vector["output"] is None:
        assert envelope is None
        return
    assert envelope is not None
    as_sent = {
        "name": envelope.name,
        "filename": envelope.filename,
        "contentType": envelope.content_type,
        "content": envelope.content,
        "formFields": envelope.form_fields,
    }
    assert to_text(as_sent) == to_text(vector["output"])


def envelope_with(**changed: Any) -> dict[str, Any]:
    payload = {
        "name": "n",
        "filename": "f",
        "contentType": "t/p",
        "content": b"x",
        "formFields": {"a": "b"},
    }
    return {"$fileUpload": payload | changed}


@pytest.mark.parametrize("content_type", ["a/b\rX: y", "a/b\nX: y", "a/b\0"])
def test_a_content_type_cannot_smuggle_headers(content_type: str) -> None:
    with pytest.raises(EnvelopeError, match=r"\$fileUpload.contentType: must not hold"):
        file_upload_envelope(envelope_with(contentType=content_type))


def test_the_error_names_the_field_and_not_the_value() -> None:
    with pytest.raises(EnvelopeError) as failure:
        file_upload_envelope(envelope_with(content="sEcReT"))
    assert "$fileUpload.content" in str(failure.value)
    assert "sEcReT" not in str(failure.value)


def test_the_form_fields_are_copied() -> None:
    item = envelope_with()
    envelope = file_upload_envelope(item)
    assert envelope is not None
    envelope.form_fields["a"] = "changed"
    assert item["$fileUpload"]["formFields"] == {"a": "b"}

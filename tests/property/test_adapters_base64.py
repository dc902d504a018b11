"""FileUpload decodes base64 exactly as the standard library does, whatever it is given."""

import base64
import binascii

from hypothesis import example, given, settings
from hypothesis import strategies as st

from podbay.schema.adapters import (
    AdapterRunError,
    ItemBase64Error,
    create_adapter,
    file_upload_envelope,
)

UPLOAD = create_adapter({"kind": "FileUpload", "configuration": {"field": "$.data"}})
ALPHABET = "ABCDwxyz0189+/"

_broken = st.text(ALPHABET + "==\n\r -_.\x00é\ud800", max_size=24)


@st.composite
def _nearly(draw: st.DrawFn) -> str:
    """Base64 with one thing taken out or put in, at any place."""
    text = base64.b64encode(draw(st.binary(max_size=100))).decode()
    at = draw(st.integers(0, len(text)))
    gone = draw(st.integers(0, 2))
    return text[:at] + draw(_broken) + text[at + gone :]


TEXTS = st.one_of(
    st.binary(max_size=200).map(lambda data: base64.b64encode(data).decode()),
    st.binary(max_size=300).map(lambda data: base64.encodebytes(data).decode()),
    st.binary(max_size=60).map(lambda data: base64.urlsafe_b64encode(data).decode()),
    st.text(ALPHABET, max_size=24),
    _nearly(),
    _broken,
    st.text(max_size=24),
)


def expected(text: str) -> bytes | type[Exception]:
    try:
        return binascii.a2b_base64(text)
    except ValueError as error:  # binascii.Error is one
        return type(error)


def decoded(text: str) -> bytes | type[Exception]:
    try:
        (item,) = UPLOAD.push({"data": text})
    except AdapterRunError as error:
        return binascii.Error if isinstance(error, ItemBase64Error) else ValueError
    envelope = file_upload_envelope(item)
    assert envelope is not None
    return envelope.content


@given(TEXTS)
@example("")
@example("=")
@example("ab==cd==")
@example("abcd====")
@example("abcd=abcd")
@example("ab=\n=")
@example("zz==")  # bits are left over
@example("zzz=")
@example("Zm9vZg==Zm9v")
@example("é")
@example("\ud800")
@settings(max_examples=3_000, deadline=None)
def test_any_text_is_what_the_standard_library_says(text: str) -> None:
    assert decoded(text) == expected(text)

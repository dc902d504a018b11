"""A file with form fields as multipart/form-data. Pure."""

from typing import Final

from podbay.v1.inference_router_service_pb2 import FileUpload

__all__ = ["encode"]

# As browsers write it: the quote is percent-encoded, and so is what could end the line.
_ESCAPES: Final = str.maketrans(
    {'"': "%22", **{chr(code): f"%{code:02X}" for code in (*range(0x20), 0x7F)}}
)


def encode(upload: FileUpload, boundary: str) -> tuple[str, bytes]:
    """Write a file upload as the body of an HTTP request.

    Args:
        upload: The file and its fields. Its content type must hold no line breaks.
        boundary: What separates the parts: random, so that no content holds it.

    Returns:
        The Content-Type of the request and its body: the fields in their order, then the file.
    """
    lines: list[bytes] = []
    separator = f"--{boundary}".encode()
    for field in upload.form_fields:
        name = field.name.translate(_ESCAPES)
        disposition = f'Content-Disposition: form-data; name="{name}"'
        lines += [separator, disposition.encode(), b"", field.value.encode()]
    name = upload.name.translate(_ESCAPES)
    filename = upload.filename.translate(_ESCAPES)
    disposition = f'Content-Disposition: form-data; name="{name}"; filename="{filename}"'
    lines += [
        separator,
        disposition.encode(),
        f"Content-Type: {upload.content_type}".encode(),
        b"",
        upload.content,
        separator + b"--",
        b"",
    ]
    return f"multipart/form-data; boundary={boundary}", b"\r\n".join(lines)

"""A service around a real model: a picture in, the lines of text in it out.

`python -m podbay.demo.ocr_service` serves RapidOCR, whose weights ship in its package, on `$PORT`:

- `GET /ready`: 200 once the model is loaded, 503 before.
- `POST /read`: `multipart/form-data` with a file part named `file`, a PNG, JPEG or other common
  format; answers `{"lines": [{"text", "score", "box"}], "filename"}`. `score` is from 0 to 1,
  `box` the corners of the line as four pairs [x, y] of pixels, clockwise from the top left.

It needs the extra `ocr`: `pip install "podbay[ocr]"`.
"""

import io
import os
import sys
import threading
from typing import Any

__all__ = ["Reader", "read"]

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

try:
    from PIL import Image
    from rapidocr import RapidOCR

    from podbay.demo import model_service
except ImportError as error:
    if __name__ != "__main__":
        raise
    sys.stderr.write(
        f"podbay.demo.ocr_service: {error.name or error} is missing; install the extra `ocr`: "
        'pip install "podbay[ocr]"\n'
    )
    sys.exit(1)

# One request uses one core, as replicas are how a service gets more.
_ONE_THREAD = {
    "EngineConfig.onnxruntime.intra_op_num_threads": 1,
    "EngineConfig.onnxruntime.inter_op_num_threads": 1,
}


class Reader:
    """Three models: for finding lines, their direction, and their text."""

    def __init__(self) -> None:
        self._model = RapidOCR(params={**_ONE_THREAD, "Global.log_level": "error"})
        # The library keeps options of a call in the object.
        self._lock = threading.Lock()

    def read(self, picture: Image.Image) -> list[dict[str, Any]]:
        """Return the lines of a picture, from top to bottom."""
        with self._lock:
            found: Any = self._model(picture)  # its class depends on options
        if found.boxes is None or found.txts is None or found.scores is None:
            return []
        return [
            {"text": text, "score": float(score), "box": box.tolist()}
            for text, score, box in zip(found.txts, found.scores, found.boxes, strict=True)
        ]


def read(reader: Reader, content: bytes) -> dict[str, Any]:
    """Read the lines of a picture.

    Raises:
        UnreadableFileError: The bytes are no picture, or a huge one.
    """
    try:
        picture = Image.open(io.BytesIO(content)).convert("RGB")
    # Its formats raise a ValueError or a SyntaxError here and there.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise model_service.UnreadableFileError(
            "the file is not a picture that can be read: send a whole PNG or JPEG"
        ) from None
    return {"lines": reader.read(picture)}


if __name__ == "__main__":
    sys.exit(model_service.main(model_service.create_app("read", Reader, read)))

"""A service around a real model: file bytes in, file type and score out.

`python -m podbay.demo.magika_service` serves Magika, whose weights ship in its package, on `$PORT`:

- `GET /ready`: 200 once the model is loaded, 503 before.
- `POST /classify`: `multipart/form-data` with a file part named `file`; answers `{"label",
  "description", "mimeType", "group", "score", "filename"}`.

It needs the extra `demo`: `pip install "podbay[demo]"`.
"""

import os
import sys
from typing import Any

__all__ = ["OneThreadMagika", "classify"]

# One request uses one core: two threads for one file take twice the work for a third less time,
# and replicas are how a service gets more. numpy reads this when it is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

try:
    import onnxruntime
    from magika import Magika

    from podbay.demo import model_service
except ImportError as error:
    if __name__ != "__main__":
        raise
    sys.stderr.write(
        f"podbay.demo.magika_service: {error.name or error} is missing; install the extra `demo`: "
        'pip install "podbay[demo]"\n'
    )
    sys.exit(1)


class OneThreadMagika(Magika):
    """Magika with a runtime that uses the calling thread only."""

    def _init_onnx_session(self) -> onnxruntime.InferenceSession:
        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(
            self._model_path, options, providers=["CPUExecutionProvider"]
        )


def classify(model: Magika, content: bytes) -> dict[str, Any]:
    """Tell the type of a file by its bytes."""
    result = model.identify_bytes(content)
    found = result.output
    return {
        "label": str(found.label),
        "description": found.description,
        "mimeType": found.mime_type,
        "group": found.group,
        "score": float(result.score),
    }


if __name__ == "__main__":
    sys.exit(model_service.main(model_service.create_app("classify", OneThreadMagika, classify)))

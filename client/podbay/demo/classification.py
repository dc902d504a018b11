"""The third part of the demo: a real model over files of this machine."""

from __future__ import annotations

import base64
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from podbay.demo.files import find_files
from podbay.demo.scene import DemoFailedError, Scene
from podbay.schema.platform import InferenceInterface
from podbay.schema.serving import ServingOptions

__all__ = ["INTERFACE", "classify"]

FILES = 240
_SHOWN_KINDS = 15
_SHOWN_ERRORS = 5

# A file goes in as {"name", "data"} with its bytes in base64, and reaches the service as an
# upload: the form that its web server takes.
INTERFACE = {
    "endpoint": "classify",
    "outputSchema": {"arrowSchema": ""},
    "inputPipeline": [
        {
            "kind": "FileUpload",
            "configuration": {"field": "$.data", "name": "file", "filename": "$.name"},
        }
    ],
}


def classify(scene: Scene) -> None:
    """Find out the types of at least 200 files with Magika, through the bulk call.

    Raises:
        DemoFailedError: No file was classified, or the calls failed for more than some.
    """
    scene.show.heading("3. A real model: Magika says what kind of file each file is")
    command = [sys.executable, "-m", "podbay.demo.magika_service"]
    service = scene.client.inferenceservices.create_process(
        command,
        InferenceInterface.model_validate(INTERFACE),
        account=scene.account,
        name="magika",
        serving=ServingOptions(readiness_path="/ready"),
    )
    scene.show.line(f"service {service.id}  python {' '.join(command[1:])}")
    files = find_files(FILES)
    running = scene.start(service, replicas=2)
    kinds: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)
    errors: list[str] = []
    begun = time.monotonic()
    with scene.show.bar("files", len(files)) as bar:
        for result in running.calls.infer_many(_bodies(files), max_in_flight=16, ordered=False):
            if result.error is not None:
                errors.append(f"{files[result.index]}: {result.error}")
            for item in result.items or ():
                kinds[item["label"]].append((item["score"], _name(files[result.index])))
            bar.advance()
    took = time.monotonic() - begun
    _show_kinds(scene, kinds)
    for error in errors[:_SHOWN_ERRORS]:
        scene.show.bad(error)
    done = len(files) - len(errors)
    if errors:
        raise DemoFailedError(f"{len(errors)} of {len(files)} files could not be classified")
    scene.show.good(
        f"{done} files, {len(errors)} errors, {took:.1f} s: {len(files) / took:.0f} calls/s"
    )


def _bodies(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for path in files:
        yield {"name": _name(path), "data": base64.b64encode(path.read_bytes()).decode()}


def _name(path: Path) -> str:
    """Return a file's name as text that can be sent and shown; names of files are bytes."""
    return path.name.encode(errors="replace").decode()


def _show_kinds(scene: Scene, kinds: dict[str, list[tuple[float, str]]]) -> None:
    ranked = sorted(kinds.items(), key=lambda kind: (-len(kind[1]), kind[0]))
    rows = [
        (
            label,
            str(len(found)),
            f"{sum(score for score, _ in found) / len(found):.3f}",
            ", ".join(sorted({name for _, name in found})[:3]),
        )
        for label, found in ranked[:_SHOWN_KINDS]
    ]
    scene.show.table(("type", "files#", "mean score#", "examples"), rows)
    if len(ranked) > _SHOWN_KINDS:
        rest = sum(len(found) for _, found in ranked[_SHOWN_KINDS:])
        scene.show.line(f"and {len(ranked) - _SHOWN_KINDS} further types of {rest} files")

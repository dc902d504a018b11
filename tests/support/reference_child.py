"""Answers questions about the reference packages, in an environment that has them.

Runs as a program: one question a line on standard input, one answer a line on standard output,
both JSON. The functions that Podbay is asked by as well (`outcome`, `as_text`) need nothing but
the standard library, so that a test can import them.
"""

import base64
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any


def as_text(value: Any) -> str:
    """JSON text in which the order of members counts; bytes are written as an object."""
    return json.dumps(value, default=_bytes, ensure_ascii=False)


def _bytes(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    raise TypeError(type(value).__name__)


def outcome(
    specs: list[Any],
    items: list[Any],
    make_spec: Callable[[Any], Any],
    create_pipeline: Callable[[list[Any]], Any],
) -> dict[str, Any]:
    """What a pipeline does with items.

    Returns:
        `outputs`: all that was delivered, as text; `phase` of the error (schema, construct, run)
        or null; `error`: the names of the error's type and its bases.
    """
    phase = "schema"
    delivered: list[str] = []
    try:
        made = [make_spec(spec) for spec in specs]
        phase = "construct"
        pipeline = create_pipeline(made)
        phase = "run"
        # What came before an error counts: `extend` keeps it.
        delivered.extend(map(as_text, _apply(pipeline, items)))
    except Exception as error:  # noqa: BLE001 - any error is an outcome here
        names = [base.__name__ for base in type(error).__mro__]
        return {"outputs": delivered, "phase": phase, "error": names}
    return {"outputs": delivered, "phase": None, "error": []}


def _apply(pipeline: Any, items: list[Any]) -> Iterable[Any]:
    found: Iterable[Any] = pipeline(items)
    return found


def seconds(pipeline: Any, item: Any, count: int, *, calls: bool) -> float:
    """How many seconds of a processor a pipeline takes for so many items; outputs are dropped.


    A part of them goes through it before, untimed: the first ones find a cold machine.

    Args:
        pipeline: Of either side.
        item: The item.
        count: How often it is given.
        calls: Each time is a run of its own, and may fail; otherwise they are one run.
    """
    run = _run_each if calls else _run_all
    run(pipeline, [item] * (count // 4))
    items = [item] * count
    start = time.process_time()
    run(pipeline, items)
    return time.process_time() - start


def _run_all(pipeline: Any, items: list[Any]) -> None:
    for _ in _apply(pipeline, items):
        pass


def _run_each(pipeline: Any, items: list[Any]) -> None:
    failed = 0
    for item in items:
        try:
            for _ in _apply(pipeline, [item]):
                pass
        except Exception:  # noqa: BLE001 - an outcome: both sides have been compared before
            failed += 1
    assert failed in {0, len(items)}


class _Reference:
    """The reference packages: one method for each kind of question."""

    def __init__(self) -> None:
        self._adapters = importlib.import_module("dyff.schema.adapters")
        self._platform = importlib.import_module("dyff.schema.platform")
        self._models = [
            self._platform,
            importlib.import_module("dyff.schema.requests"),
            importlib.import_module("dyff.schema.responses"),
        ]

    def has(self, names: list[str]) -> list[str]:
        """Which of the models are there."""
        return [name for name in names if self._find(name) is not None]

    def read(self, model: str, texts: list[str]) -> list[dict[str, Any]]:
        """For each text, its normal form or what is wrong with it."""
        kind = self._find(model)
        return [self._read(kind, text) for text in texts]

    def adapt(self, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The outcome of each case."""
        return [
            outcome(
                case["specs"],
                case["items"],
                self._platform.SchemaAdapter.model_validate if case["validated"] else _same,
                self._adapters.create_pipeline,
            )
            for case in cases
        ]

    def measure(self, specs: list[Any], item: Any, count: int, calls: bool) -> float:
        """The seconds that a pipeline takes for so many items."""
        pipeline = self._adapters.create_pipeline(
            [self._platform.SchemaAdapter.model_validate(spec) for spec in specs]
        )
        return seconds(pipeline, item, count, calls=calls)

    def _find(self, name: str) -> Any:
        found = (getattr(module, name, None) for module in self._models)
        return next((kind for kind in found if kind is not None), None)

    def _read(self, kind: Any, text: str) -> dict[str, Any]:
        validation_error = importlib.import_module("pydantic").ValidationError
        try:
            return {"written": kind.model_validate_json(text).model_dump_json()}
        except validation_error as error:
            return {"errors": [[list(one["loc"]), one["type"]] for one in error.errors()]}
        except Exception as error:  # noqa: BLE001 - the reference fails in other ways, too
            return {"broken": type(error).__name__}


def _same(spec: Any) -> Any:
    return spec


def main() -> None:
    """Answer until standard input ends."""
    reference = _Reference()
    for line in sys.stdin:
        question = json.loads(line)
        answer = getattr(reference, question.pop("ask"))(**question)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

"""Objects of other packages, taken by their JSON form. None of these packages is imported."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from typing import Any

from podbay._core.wire_errors import invalid
from podbay.schema._base import PodbayModel

__all__ = ["plain_form"]


def plain_form(value: Any, what: str = "The request") -> Any:
    """Return a value in which all models but ours are replaced by their JSON forms.

    What was not set in a model is left out, so that a request keeps its defaults and an edit
    changes nothing that it does not name.

    Args:
        value: A model, or mappings, lists and scalars that may hold some.
        what: What it is, for the error.

    Raises:
        InvalidRequestError: It is nested too deeply, or holds itself.
    """
    try:
        return _plain(value)
    except RecursionError:
        raise invalid("", "is nested too deeply, or holds itself", what) from None


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if value is None or isinstance(value, PodbayModel | str | bytes | int | float | type):
        return value
    if isinstance(value, Mapping):
        return {key: _plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    if hasattr(value, "model_dump"):  # pydantic's models
        return value.model_dump(mode="json", by_alias=True, exclude_unset=True)
    if hasattr(value, "json") and hasattr(value, "__fields__"):  # those of pydantic 1
        return json.loads(value.json(by_alias=True, exclude_unset=True))
    if hasattr(value, "dict"):
        return _plain(value.dict())
    return value

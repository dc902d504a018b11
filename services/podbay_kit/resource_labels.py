"""Changes of labels, for resources of every kind. Pure."""

from __future__ import annotations

from typing import Final, TypeVar

from podbay.schema import platform, requests
from podbay_kit.errors import invalid

__all__ = ["MAX_LABELS", "labelled"]

MAX_LABELS: Final = 256
"""The most labels of one resource."""

Entity = TypeVar("Entity", bound=platform.DyffEntity)


def labelled(entity: Entity, edit: requests.LabelsEditRequest) -> Entity:
    """Return a resource with changed labels: a null removes, what is not mentioned stays.

    Raises:
        ServiceError: INVALID_REQUEST, where there would be too many labels.
    """
    labels: dict[str, str] = dict(entity.labels)
    for key, value in edit.labels.items():
        if value is None:
            labels.pop(key, None)
        else:
            labels[key] = value
    if len(labels) > MAX_LABELS:
        raise invalid("labels", f"would leave the resource with more than {MAX_LABELS} labels")
    return entity.model_copy(update={"labels": labels})

"""What all models share: strictness, times, and the form that they are written in."""

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict

__all__ = ["SCHEMA_VERSION", "EditModel", "PodbayModel", "RequestModel", "SchemaVersion", "UtcTime"]

SCHEMA_VERSION: Final = "0.1"
"""The version of the JSON interface; there is one."""

SchemaVersion = Literal["0.1"]

# `dict` names a method inside the classes below, as the platform's models have it.
_Data = dict[str, Any]


def _to_utc(value: datetime) -> datetime:
    """Takes a time without an offset as UTC, and converts every other one to UTC."""
    if value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        message = "the time lies outside the years 1 to 9999 in UTC"
        raise ValueError(message) from error


UtcTime = Annotated[datetime, AfterValidator(_to_utc)]
"""A time that is always aware and in UTC, written as `YYYY-MM-DDTHH:MM:SS[.ffffff]Z`."""


class PodbayModel(BaseModel):
    """A model that refuses unknown members and is written in the interface's normal form.

    The normal form: members by their JSON names, defaults included, members that are null left
    out. Nulls inside free objects, as an adapter's configuration, are kept. All methods that
    write take pydantic's arguments; those that are not given follow the normal form.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    _written: ClassVar[Mapping[str, bool]] = MappingProxyType(
        {"by_alias": True, "exclude_none": True}
    )

    def model_dump(self, **kwargs: Any) -> _Data:
        """Returns the normal form as a dict; takes pydantic's arguments."""
        return super().model_dump(**{**self._written, **kwargs})

    def model_dump_json(self, **kwargs: Any) -> str:
        """Returns the normal form as JSON text; takes pydantic's arguments, as `indent`."""
        return super().model_dump_json(**{**self._written, **kwargs})

    def json(self, **kwargs: Any) -> str:
        """Returns the normal form as JSON text, like `model_dump_json`."""
        return self.model_dump_json(**kwargs)

    def dict(self, **kwargs: Any) -> _Data:
        """Returns the normal form as a dict, like `model_dump`."""
        return self.model_dump(**kwargs)

    @classmethod
    def parse_obj(cls, obj: Any) -> Self:
        """Reads a model from a mapping, like `model_validate`.

        Raises:
            pydantic.ValidationError: The mapping breaks a rule of the model.
        """
        return cls.model_validate(obj)


class RequestModel(PodbayModel):
    """A request: only what was set is written, and nulls are left out."""

    _written: ClassVar[Mapping[str, bool]] = MappingProxyType(
        {"by_alias": True, "exclude_none": True, "exclude_unset": True}
    )


class EditModel(PodbayModel):
    """An edit in the form of a JSON Merge Patch: only what was set is written, null deletes."""

    _written: ClassVar[Mapping[str, bool]] = MappingProxyType(
        {"by_alias": True, "exclude_unset": True}
    )

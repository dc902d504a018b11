"""The docstrings of the JSON interface say what each field means."""

import pydantic
import pytest

from podbay.schema import platform, requests


def _models() -> list[type[pydantic.BaseModel]]:
    public = [getattr(module, name) for module in (platform, requests) for name in module.__all__]
    found = {
        item for item in public if isinstance(item, type) and issubclass(item, pydantic.BaseModel)
    }
    return sorted(found, key=lambda model: model.__name__)


@pytest.mark.parametrize("model", _models(), ids=lambda model: model.__name__)
def test_a_docstring_tells_every_field_of_its_class(model: type[pydantic.BaseModel]):
    # A kind that is fixed in a subclass is told by the class that declares it first.
    inherited = {
        name for base in model.__mro__[1:] for name in getattr(base, "__annotations__", {})
    }
    own = set(model.__annotations__) & set(model.model_fields) - inherited
    lines = (model.__doc__ or "").splitlines()
    told = {line.strip().partition(":")[0] for line in lines if line.startswith(" " * 8)}
    assert own - told == set()

"""Quantities in the notation of Kubernetes, as "500m", "8Gi" or "1e3"."""

from decimal import Decimal, InvalidOperation
from typing import Annotated

from pydantic import StringConstraints

__all__ = ["NonNegativeQuantity", "Quantity", "quantity_to_decimal", "quantity_to_int"]

_DIGITS = r"(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))"
_SUFFIX = rf"(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?{_DIGITS}))?"

Quantity = Annotated[str, StringConstraints(pattern=rf"^(\+|-)?{_DIGITS}{_SUFFIX}$")]
"""A quantity. Always a string in JSON: a number is refused."""

NonNegativeQuantity = Annotated[str, StringConstraints(pattern=rf"^\+?{_DIGITS}{_SUFFIX}$")]
"""A quantity without a minus."""

_POWERS = {"n": -3, "u": -2, "m": -1, "K": 1, "k": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}


def quantity_to_decimal(quantity: str | float | Decimal) -> Decimal:
    """Returns the value of a quantity.

    It reads more than the fields of the interface take: also "1K", blanks around the number,
    and plain numbers.

    Args:
        quantity: A quantity, as "1.5Gi".

    Raises:
        ValueError: The text is not a quantity.
    """
    text = str(quantity)
    base = 1000
    number = text
    if text.endswith("i"):
        base, number = 1024, text[:-1]
    power = _POWERS.get(number[-1:], 0)
    if power:
        number = number[:-1]
    if base == 1024 and (power < 1 or text[-2] == "k"):
        raise ValueError("not a quantity: the suffix is none of Ki, Mi, Gi, Ti, Pi, Ei")
    try:
        value = Decimal(number)
    except InvalidOperation as error:
        raise ValueError("not a quantity: write a number and a suffix, as 500m or 8Gi") from error
    return value * Decimal(base) ** power if power else value


def quantity_to_int(quantity: str | float | Decimal) -> int:
    """Returns the value of a quantity that is a whole number, as bytes or counts are.

    Args:
        quantity: A quantity, as "8Gi".

    Raises:
        ValueError: The text is not a quantity, or its value is not whole ("1500m").
        OverflowError: The value is infinite.
    """
    value = quantity_to_decimal(quantity)
    whole = int(value)
    if whole != value:
        raise ValueError("the quantity is not a whole number")
    return whole

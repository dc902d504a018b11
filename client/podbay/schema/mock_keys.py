"""How a service names a class that lives in the process that made it."""

__all__ = ["MOCK_KEY_VARIABLE"]

MOCK_KEY_VARIABLE = "PODBAY_MOCK_KEY"
"""The environment variable of such a service: the key under which that process offers the class.
No other process can import it, so the service's name is only a name."""

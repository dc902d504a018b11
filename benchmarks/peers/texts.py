"""What all systems are sent."""

__all__ = ["SHORT", "TEN_KB", "text_of"]

_TEXT = "Open the pod bay doors, Hal! "
SHORT = 28
TEN_KB = 10_000


def text_of(characters: int) -> str:
    """Return a text of so many characters."""
    return (_TEXT * (characters // len(_TEXT) + 1))[:characters]

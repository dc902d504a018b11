"""How long a regular expression may take at most: an estimate from its text, never too low.

A backtracking engine tries, from each start, every way to share the text among the loops. With k
loops, none of them around another, these are at most n^k ways, times 2 for each optional part and
the number of branches for each alternative: n^(k+1) in all. A loop around a group may be
exponential, and is taken to be.

A loop that ends the pattern is not counted: nothing after it can fail, so it is tried once from
where it begins, and what it takes is taken for good. Nor are the starts of a pattern that must
begin where the text does: all others fail at once.
"""

import re

# A safe text takes at most this many steps, which is about a second at worst.
_STEPS = 5e7
# A group repeated up to this often is counted as that many groups.
_MOST_COPIES = 32

_COPIES = re.compile(r"\{(\d*)(,?)(\d*)\}")
# What the scan below does not understand: comments, and layout that does not count.
_UNCLEAR = re.compile(r"\(\?#|\(\?[a-zA-Z]*x")
# What makes a failure of a success, or takes nothing of what it has read: no loop ends these.
_LOOKS = re.compile(r"\(\?<?[!=]|\(\?\(")
_BACK_REFERENCE = re.compile(r"\\[1-9]|\(\?P=")
_CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)


class _Group:
    """What is known of a group while it is read."""

    def __init__(self) -> None:
        self.loops = 0.0
        self.ways = 1.0  # for the parts outside of loops
        self.branches = 1
        self.ends_with_loop = False

    def take(self, inner: "_Group", copies: float, *, optional: bool) -> None:
        self.loops += inner.loops * copies
        ways = inner.ways * inner.branches + optional
        self.ways = min(self.ways * min(ways, 1e9) ** min(copies, _MOST_COPIES), 1e300)


def safe_length(pattern: re.Pattern[str]) -> int:
    """Returns how long a text may be so that the pattern is certainly done within a second or so.

    Returns:
        A number of characters; -1 where not even the empty text is certainly safe.
    """
    text = pattern.pattern
    if pattern.flags & re.VERBOSE or _UNCLEAR.search(text):
        return -1
    whole = _scan(text)
    if whole is None:
        return -1
    loops = whole.loops + len(_BACK_REFERENCE.findall(text))
    last = whole.ends_with_loop and not _LOOKS.search(text)
    anchored = text.startswith("^") and whole.branches == 1 and not pattern.flags & re.MULTILINE
    budget = _STEPS / (whole.ways * whole.branches)
    return int(budget ** (1 / max(loops - last + 1 - anchored, 1))) - 1 if budget >= 1 else -1


def _scan(text: str) -> _Group | None:
    """Counts the loops and the choices of a pattern; None for a loop around a group."""
    groups = [_Group()]
    at = 0
    while at < len(text):
        character = text[at]
        at += 1
        if character == "\\":
            at += 1
        elif character == "[":
            ending = _CLASS.match(text, at - 1)
            at = ending.end() if ending else at
        elif character == "(":
            groups.append(_Group())
            # The question mark of "(?" is no choice.
            at += text.startswith("?", at)
        elif character == ")" and len(groups) > 1:
            inner = groups.pop()
            least, most, at = _copies(text, at)
            if most > _MOST_COPIES:
                return None
            groups[-1].take(inner, most, optional=least < most)
        elif character == "|":
            groups[-1].branches += 1
        elif character in "*+{":
            groups[-1].loops += 1
            groups[0].ends_with_loop = character != "{" and not text[at:].strip(")")
        elif character == "?":
            groups[-1].ways = min(groups[-1].ways * 2, 1e300)
    return groups[0] if len(groups) == 1 else None


def _copies(text: str, at: int) -> tuple[float, float, int]:
    """Reads what follows a group: how often it comes, at least and at most, and where that ends."""
    if text.startswith(("*", "+"), at):
        return 0, float("inf"), at + 1
    if text.startswith("?", at):
        return 0, 1, at + 1
    counted = _COPIES.match(text, at)
    if counted is None:
        return 1, 1, at
    least, comma, most = counted.groups()
    # int() may refuse very many digits; that many copies are too many in any case.
    if (comma and not most) or len(least) > 4 or len(most) > 4:
        return 0, float("inf"), counted.end()
    return int(least or 0), int(most or least or 0), counted.end()

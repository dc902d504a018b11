"""The table of grants as the guide shows it, out of the table in the code."""

from __future__ import annotations

from podbay_kit.rpc_rules import FUNCTIONS, RESOURCES, RULES, Who

__all__ = ["grant_rows"]


def grant_rows() -> list[str]:
    """Return the rows of the guide's table: what each function on each resource lets one do.

    `python -c "from tests.support.grant_table import *; print(*grant_rows(), sep='\\n')"` prints
    them, to be put into docs/guide.md.
    """
    lets: dict[tuple[str, str], list[str]] = {}
    for name, rule in RULES.items():
        if rule.who is Who.GRANTED:
            for need in rule.needs():
                method = name.rpartition("/")[2]
                methods = lets.setdefault((need.resource, need.function), [])
                if method not in methods:
                    methods.append(method)
    return [
        f"| `{resource}` | `{function}` | {', '.join(lets[resource, function])} |"
        for resource in RESOURCES
        for function in FUNCTIONS
        if (resource, function) in lets
    ]

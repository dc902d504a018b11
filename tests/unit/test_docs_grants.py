"""The guide's table of grants is that of the code."""

from __future__ import annotations

import re
from pathlib import Path

from podbay_kit.rpc_rules import RULES, Who
from tests.support.grant_table import grant_rows

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "guide.md").read_text(encoding="utf-8")


def test_the_guide_shows_the_table_of_the_code() -> None:
    rows = re.findall(r"^\| `[a-z]+` \| `[a-z]+` \| .* \|$", GUIDE, re.MULTILINE)
    assert rows == grant_rows()


def test_the_guide_names_what_takes_any_token() -> None:
    names = [name.rpartition("/")[2] for name, rule in RULES.items() if rule.who is Who.ANY_TOKEN]
    assert names
    for name in names:
        assert f"`{name}` takes any API token" in GUIDE

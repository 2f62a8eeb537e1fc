"""The table of docs/upgrading.md is the list.

`python tests/unit/private_names/test_page.py` writes it anew.
"""

from __future__ import annotations

import re
from pathlib import Path

from serve_app.private_names import NAMES, PrivateName

UPGRADING = Path(__file__).parents[3] / "docs" / "upgrading.md"


def table() -> str:
    """The list as a table of Markdown. What is lost together, and guarded by the same tests, is one row."""
    lines = ["| without it | names | used in | tests |", "| --- | --- | --- | --- |"]
    groups: dict[tuple[str, str, bool], list[PrivateName]] = {}
    for name in NAMES:
        groups.setdefault((name.without_it, name.test, name.is_vital), []).append(name)
    for (without_it, test, is_vital), names in groups.items():
        users = sorted({user.removeprefix("serve_app.") for name in names for user in name.used_in})
        lost = without_it if is_vital else f"{without_it} (no more than a warning)"
        lines.append(f"| {lost} | {by_owner(names)} | {ticked(users)} | `{test.removeprefix('tests/')}` |")
    return "\n".join(lines)


def by_owner(names: list[PrivateName]) -> str:
    """Names after the module or class that they are of, which is said once."""
    owners: dict[str, list[str]] = {}
    for name in names:
        owner, _, last = re.match(r"(.*?)(?:([:.])([^:.]+))?$", name.path).groups()  # type: ignore[union-attr]
        owners.setdefault(owner, []).append(last)
    return "; ".join(f"`{owner}`: {ticked(lasts)}" for owner, lasts in owners.items())


def ticked(words: list[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def written_anew(text: str) -> str:
    begin, end = "<!-- names -->", "<!-- /names -->"
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    assert found, f"docs/upgrading.md has no part between {begin} and {end}"
    return f"{before}{begin}\n\n{table()}\n\n{end}{after}"


def test_the_page_has_the_list() -> None:
    text = UPGRADING.read_text()
    assert text == written_anew(text), "run: python tests/unit/private_names/test_page.py"


def test_every_name_is_on_the_page() -> None:
    text = table()
    for name in NAMES:
        assert f"`{re.split('[:.]', name.path)[-1]}`" in text


if __name__ == "__main__":
    UPGRADING.write_text(written_anew(UPGRADING.read_text()))

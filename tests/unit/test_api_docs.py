"""docs/api.md says what the code does: repairs, errors, Codex, differences from `vllm serve`."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from http import HTTPStatus
from pathlib import Path

import pytest

from serve_app.answers import repairs
from serve_app.api.messages import answer as messages_answer
from serve_app.api.messages import errors as messages_errors
from serve_app.errors import error_body
from tests.app.differences import NAMES
from tests.app.test_codex import CONFIG
from tests.services import MODEL

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "api.md").read_text()


def part(heading: str) -> str:
    """What stands under a heading."""
    return TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its first two lines."""
    lines = [line for line in part(heading).splitlines() if line.startswith("| ")]
    return [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in lines[2:]]


def test_kinds_of_repairs_are_those_of_the_code() -> None:
    kinds = [row[0].strip("`") for row in rows("Repairs")]
    assert kinds == [*repairs.KINDS, messages_answer.NOT_AN_OBJECT]
    assert all(len(row) == 2 and row[1] for row in rows("Repairs"))


def test_each_difference_that_answers_may_have_has_a_row() -> None:
    named = [row[0].strip("`") for row in rows("Differences from vllm serve")]
    assert len(named) == len(set(named))
    assert set(NAMES) <= set(named)


@pytest.mark.parametrize("row", rows("Differences from vllm serve"), ids=lambda row: row[0].strip("`"))
def test_each_row_of_the_differences_has_a_reason_and_a_test(row: list[str]) -> None:
    assert len(row) == 5
    assert all(row)
    path, _, name = row[4].strip("`").partition("::")
    module = ast.parse((ROOT / path).read_text())
    functions = [node for node in module.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert name in {function.name for function in functions}


@pytest.mark.parametrize("row", rows("Errors"), ids=lambda row: row[0])
def test_errors_are_of_these_types(row: list[str]) -> None:
    status = HTTPStatus(int(row[0]))
    openai, anthropic = error_body("x", status), messages_errors.error_body_of("x", status)
    assert json.dumps(openai).count(f'"type": {json.dumps(row[1].strip("`"))}') == 1
    assert anthropic["error"]["type"] == row[2].strip("`")


def test_quoted_config_of_codex_is_the_one_that_is_tested() -> None:
    [quoted] = re.findall(r"^```toml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    tested = CONFIG.format(model=MODEL, url="http://127.0.0.1:8000")
    assert tomllib.loads(quoted) == tomllib.loads(tested)


def test_quoted_error_is_one() -> None:
    [quoted] = re.findall(r"^```json\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    error = json.loads(quoted)["error"]
    assert json.loads(quoted) == error_body(error["message"], HTTPStatus.BAD_REQUEST, error["param"])

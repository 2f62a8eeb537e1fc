"""Answers as models have given them, and what a client should see of each."""

from __future__ import annotations

import pytest

from serve_app.answers.items import Finish
from serve_app.answers.offer import Offer
from tests.unit.answers.folding import read

TOOLS = Offer(tools=frozenset({"weather", "shell"}))
OSLO = '{"city": "Oslo"}'
THINK = "<|channel|>analysis<|message|>Think.<|end|>"
FINAL = "<|start|>assistant<|channel|>final<|message|>Hi<|return|>"


@pytest.mark.parametrize(
    ("rest", "items"),
    [
        ("<|return|>", []),
        ("Hello there<|return|>", [("final", "Hello there")]),
        (f"\n{FINAL}", [("final", "Hi")]),
        (f"<|end|>{FINAL}", [("final", "Hi")]),
        ("<|channel|>final<|message|>Hi<|return|>", [("final", "Hi")]),
        (f"{OSLO}<|return|>", [("final", OSLO)]),
        (f"{FINAL}more and more", [("final", "Hi")]),
    ],
)
def test_what_stands_between_messages(rest: str, items: list[tuple[str, str]]) -> None:
    answer = read(THINK + rest, TOOLS)
    assert answer.short == [("reasoning", "Think."), *items]
    assert answer.end.finish is Finish.STOP

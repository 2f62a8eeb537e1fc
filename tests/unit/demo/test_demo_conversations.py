import json
import statistics

import pytest
from openai_harmony import Role

from serve_app.demo.conversations import Example, encoding, example
from serve_app.demo.evaluate import is_valid_harmony


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return [example(5, number, long=0.0) for number in range(300)]


def test_same_seed_and_number_give_the_same_conversation(examples: list[Example]) -> None:
    assert [example(5, number, long=0.0) for number in range(20)] == examples[:20]
    assert example(6, 0).prompt != examples[0].prompt


def test_every_reply_is_valid_harmony_and_ends(examples: list[Example]) -> None:
    for drawn in examples:
        if drawn.kind == "raw":
            continue
        assert is_valid_harmony(drawn.reply), drawn.text
        assert drawn.reply[-1] in (200002, 200012)
        assert len(drawn.chosen) == len(drawn.reply)


def test_a_truncated_or_wrong_reply_is_not_valid(examples: list[Example]) -> None:
    reply = next(drawn.reply for drawn in examples if drawn.kind == "chat")
    end_of_analysis = reply.index(200007)
    assert not is_valid_harmony(reply[: end_of_analysis + 1])
    assert not is_valid_harmony(encoding().encode("hello"))


def test_calls_hold_json_arguments(examples: list[Example]) -> None:
    calls = [drawn for drawn in examples if drawn.kind == "call"]
    assert len(calls) > 20
    for drawn in calls:
        last = encoding().parse_messages_from_completion_tokens(drawn.reply, Role.ASSISTANT)[-1]
        assert (last.recipient or "").startswith("functions.")
        assert isinstance(json.loads(last.content[0].text), dict)


def test_higher_effort_thinks_longer(examples: list[Example]) -> None:
    mean = {
        effort: statistics.mean(
            d.reply.index(200007) for d in examples if d.effort == effort and d.kind != "raw"
        )
        for effort in ("low", "medium", "high")
    }
    assert mean["low"] < mean["medium"] < mean["high"]


def test_what_a_grammar_imposes_is_not_the_models_choice() -> None:
    forced = next(d for d in (example(5, n, long=0.0) for n in range(1000)) if d.kind == "forced")
    imposed = [token for token, chosen in zip(forced.reply, forced.chosen, strict=True) if not chosen]
    assert "json" in encoding().decode(imposed)

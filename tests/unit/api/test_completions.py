from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openai.types import Completion

from serve_app.answers.items import AnswerEnded, ItemEvent, TokenLogprob
from serve_app.answers.offer import PlainText
from serve_app.answers.text import TextReader
from serve_app.answers.usage import Usage
from serve_app.api.completions.answer import Chunk, CompletionEncoder
from serve_app.api.completions.exchange import answer_schema, chunk_schema, exchange
from serve_app.api.completions.request import MAX_SEQUENCES, CompletionRequest
from serve_app.api.exchange import Exchange, Start
from serve_app.errors import BadRequestError, EngineLostError
from serve_app.harmony.tokens import RETURN, Vocabulary
from tests.examples import examples

VOCABULARY = Vocabulary.load()
SIZE = len(VOCABULARY.token_bytes)
PROMPT = "1, 2, 3,"
PROMPT_IDS = VOCABULARY.encode(PROMPT)


def parse(**body: Any) -> Exchange[Chunk]:
    return exchange({"prompt": PROMPT} | body, VOCABULARY.encode, SIZE)


def refusal(**body: Any) -> BadRequestError:
    with pytest.raises(BadRequestError) as caught:
        parse(**body)
    assert len(str(caught.value)) < 500
    return caught.value


ANSWER, CHUNK = Draft202012Validator(answer_schema()), Draft202012Validator(chunk_schema())


class Answers:
    """The answers of an engine to a request, `Batch`es of token ids for each choice."""

    def __init__(self, body: dict[str, Any], *choices: Sequence[Sequence[int]], reason: str = "stop") -> None:
        asked = parse(**body)
        start = Start("gpt-oss", 1_700_000_000, asked.prompts[0], VOCABULARY.bytes_of)
        encoder = asked.new_encoder(start)
        assert isinstance(encoder, CompletionEncoder)
        self.encoder, self.events, ends = encoder, list(encoder.begin()), []
        assert isinstance(asked.offer, PlainText)
        for index, batches in enumerate(choices):
            prompt = asked.prompts[index // asked.num_choices]
            reader = TextReader(asked.offer, VOCABULARY)
            if asked.sampling.prompt_logprobs is not None:
                known = [None, *(logprob_of(token) for token in prompt[1:])]
                self.events += encoder.feed_prompt(index, known)
            for number, batch in enumerate(batches):
                logprobs = [logprob_of(token) for token in batch] if wants_logprobs(asked) else None
                items: list[ItemEvent] = reader.feed(batch, logprobs)
                is_last = number == len(batches) - 1
                if is_last or reader.is_over:
                    items = [*items, *reader.end("stop" if reason == "stop" else "length")]
                self.events += encoder.feed(index, items, batch)
                if items and isinstance(items[-1], AnswerEnded):
                    ends.append(items[-1])
                    break
        used = sum(end.completion_tokens for end in ends)
        self.events += encoder.end(Usage(sum(map(len, asked.prompts)), used, cached_tokens=2))

    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(msgspec.json.encode(self.encoder.fold(self.events)))
        if all(
            None not in (choice["logprobs"] or {}).get("token_logprobs", ()) for choice in body["choices"]
        ):
            Completion.model_validate(body)  # OpenAI's schema has no null where their API has it: in an echo
        return body

    def choice(self) -> dict[str, Any]:
        [choice] = self.body()["choices"]
        assert isinstance(choice, dict)
        return choice

    def chunks(self) -> list[dict[str, Any]]:
        stream = b"".join(map(self.encoder.to_bytes, self.events)) + self.encoder.last_bytes()
        *lines, done, nothing = stream.decode().split("\n\n")
        assert (done, nothing) == ("data: [DONE]", "")
        chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
        for chunk in chunks:
            CHUNK.validate(chunk)
        return chunks


def wants_logprobs(asked: Exchange[Chunk]) -> bool:
    return asked.sampling.logprobs is not None or asked.sampling.logprob_token_ids is not None


def logprob_of(token: int) -> TokenLogprob:
    """The token itself is the second likeliest."""
    return TokenLogprob(token, -0.75, ((16, -0.25), (token, -0.75)), rank=2)


def ids(text: str) -> list[int]:
    return VOCABULARY.encode(text)


# --- the request -----------------------------------------------------------------------------------------


def test_defaults() -> None:
    asked = parse()
    assert asked.prompts == (PROMPT_IDS,)
    assert (asked.conversation, asked.model, asked.num_choices, asked.is_streamed) == (None, None, 1, False)
    assert (asked.sampling.max_tokens, asked.sampling.logprobs, asked.grammar) == (16, None, None)
    assert asked.offer == PlainText()


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        (["a", "b"], (ids("a"), ids("b"))),
        ([16, 11], ([16, 11],)),
        ([[16, 11], [17]], ([16, 11], [17])),
        (["a", [17]], (ids("a"), [17])),
    ],
)
def test_prompts_of_every_kind(prompt: Any, prompts: tuple[list[int], ...]) -> None:
    assert parse(prompt=prompt).prompts == prompts


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        (None, "prompt"),
        ("", "prompt"),
        ([], "prompt"),
        (["a", ""], "prompt[1]"),
        ([[16], []], "prompt[1]"),
        ([16, -1], "prompt[1]"),
        ([16, SIZE], "prompt[1]"),
        ([[16], [1, 2, 1 << 70]], "prompt[1][2]"),
        ([16, "a"], "prompt[1]"),
        ([16, 1.5], "prompt[1]"),
        ([True], "prompt[0]"),
        ([["a"]], "prompt[0][0]"),
        ([None], "prompt[0]"),
        ({"text": "a"}, "prompt"),
        (3, "prompt"),
        (["a"] * (MAX_SEQUENCES + 1), "prompt"),
    ],
)
def test_what_is_no_prompt(prompt: Any, param: str) -> None:
    assert refusal(prompt=prompt).param == param


def test_prompts_times_choices_are_bounded() -> None:
    assert parse(prompt=["a"] * 64, n=2).num_choices == 2
    assert refusal(prompt=["a"] * 65, n=2).param == "n"
    assert refusal(n=MAX_SEQUENCES + 1).param == "n"


def test_prompts_are_truncated_on_either_side() -> None:
    assert parse(prompt=[1, 2, 3], truncate_prompt_tokens=2).prompts == ([2, 3],)
    assert parse(prompt=[1, 2, 3], truncate_prompt_tokens=2, truncation_side="right").prompts == ([1, 2],)


def test_what_is_truncated_is_read_to_its_end() -> None:
    encode = partial(VOCABULARY.encode_prompt, max_tokens=100)
    text = "a long text " * 100_000 + "and its end"
    assert len(exchange({"prompt": text}, encode, SIZE).prompts[0]) < 100_000
    body = {"prompt": text, "truncate_prompt_tokens": 3}
    assert exchange(body, encode, SIZE).prompts == (ids(" and its end"),)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"prompt_embeds": "AAAA"}, "prompt_embeds"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"logprob_token_ids": [1]}, "logprob_token_ids"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
        ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex"),
        ({"temperature": "hot"}, "temperature"),
        ({"n": 0}, "n"),
        ({"cache_salt": ""}, "cache_salt"),
        ({"request_id": "r" * 1000}, "request_id"),
    ],
)
def test_what_is_refused(body: dict[str, Any], param: str) -> None:
    assert refusal(**body).param == param


def test_null_is_as_left_out() -> None:
    nulls = dict.fromkeys(CompletionRequest.__struct_fields__)
    asked = parse(**nulls | {"prompt": PROMPT})
    assert (asked.sampling, asked.offer, asked.prompts) == (parse().sampling, parse().offer, parse().prompts)
    parse(best_of=1, suffix="", use_beam_search=False, unknown=1)


def test_a_format_is_a_grammar_over_the_plain_text() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    response_format = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    grammar = parse(response_format=response_format).grammar
    assert grammar is not None
    assert grammar.param == "response_format.json_schema.schema"
    tag = json.loads(grammar.structural_tag)
    assert tag == {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": schema}}
    grammar = parse(structured_outputs={"choice": ["yes", "no"]}).grammar
    assert grammar is not None
    assert json.loads(grammar.structural_tag)["format"]["type"] == "or"
    assert parse(response_format={"type": "text"}).grammar is None


def test_what_is_said_of_stops() -> None:
    asked = parse(stop="a", include_stop_str_in_output=True, stop_token_ids=[5], min_tokens=2)
    assert asked.offer == PlainText(("a",), True, True, frozenset({5}), 2)
    asked = parse(stop=["a", "b"], skip_special_tokens=False)
    assert asked.offer == PlainText(("a", "b"), skips_special_tokens=False)


# --- the answer ------------------------------------------------------------------------------------------


def test_an_answer_as_vllm_has_it() -> None:
    body = Answers({"request_id": "one"}, [ids(" 4,"), ids(" 5"), [RETURN]]).body()
    assert body == {
        "id": "cmpl-one",
        "object": "text_completion",
        "created": 1_700_000_000,
        "model": "gpt-oss",
        "choices": [
            {
                "index": 0,
                "text": " 4, 5",
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
                "token_ids": None,
                "prompt_logprobs": None,
                "prompt_token_ids": None,
                "routed_experts": None,
            }
        ],
        "service_tier": None,
        "system_fingerprint": None,
        "usage": {
            "prompt_tokens": len(PROMPT_IDS),
            "total_tokens": len(PROMPT_IDS) + 6,
            "completion_tokens": 6,
            "prompt_tokens_details": {"cached_tokens": 2},
        },
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }


def test_a_stream_as_vllm_has_it() -> None:
    body = {"stream": True, "request_id": "one", "stream_options": {"include_usage": True}}
    chunks = Answers(body, [ids(" 4,"), [], ids(" 5")], reason="length").chunks()
    head = {"id": "cmpl-one", "object": "text_completion", "created": 1_700_000_000, "model": "gpt-oss"}
    names = ("logprobs", "finish_reason", "stop_reason", "prompt_token_ids", "token_ids")
    nothing = dict.fromkeys(names)
    assert chunks == [
        head | {"choices": [{"index": 0, "text": " 4,", **nothing}]},
        head | {"choices": [{"index": 0, "text": " 5", **nothing, "finish_reason": "length"}]},
        head
        | {
            "choices": [],
            "usage": {
                "prompt_tokens": len(PROMPT_IDS),
                "total_tokens": len(PROMPT_IDS) + 5,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 2},
            },
        },
    ]
    without_usage = Answers(body | {"stream_options": None}, [ids(" 4,")]).chunks()
    assert not any("usage" in chunk for chunk in without_usage)


def test_usage_in_each_chunk() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = Answers({"stream": True, "stream_options": options}, [ids(" 4,"), ids(" 5")]).chunks()
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [3, 5, 5]
    assert {chunk["usage"]["prompt_tokens"] for chunk in chunks} == {len(PROMPT_IDS)}


def test_several_prompts_and_choices_are_numbered_in_order() -> None:
    body = Answers(
        {"prompt": ["a", "b"], "n": 2, "echo": True}, *([ids(f" {number}")] for number in range(4))
    ).body()
    texts = [(choice["index"], choice["text"]) for choice in body["choices"]]
    assert texts == [(0, "a 0"), (1, "a 1"), (2, "b 2"), (3, "b 3")]
    assert body["usage"]["prompt_tokens"] == 2


def test_echo_of_token_ids_shows_special_tokens() -> None:
    prompt = [200006, *ids("user"), 200008, *ids("Hi 👋")]
    assert Answers({"prompt": prompt, "echo": True}, [ids("!")]).choice()["text"] == (
        "<|start|>user<|message|>Hi 👋!"
    )


def test_echo_alone() -> None:
    """An engine generates a token nevertheless."""
    body = {"echo": True, "max_tokens": 0, "logprobs": 1, "return_token_ids": True}
    assert parse(**body).sampling.max_tokens == 1
    answer = Answers(body, [[RETURN]]).body()
    [choice] = answer["choices"]
    assert (choice["text"], choice["finish_reason"], choice["token_ids"]) == (PROMPT, "length", [])
    assert choice["logprobs"]["tokens"] == ["1", ",", " ", "2", ",", " ", "3", ","]
    assert choice["logprobs"]["token_logprobs"][0] is None
    assert answer["usage"]["completion_tokens"] == 0


def test_logprobs() -> None:
    logprobs = Answers({"logprobs": 2}, [ids(" 4,"), [RETURN]]).choice()["logprobs"]
    assert logprobs == {
        "text_offset": [0, 1, 2, 3],
        "token_logprobs": [-0.75] * 4,
        "tokens": [" ", "4", ",", "<|return|>"],
        "top_logprobs": [
            {" ": -0.75, "1": -0.25}, {"4": -0.75, "1": -0.25}, {",": -0.75, "1": -0.25},
            {"<|return|>": -0.75, "1": -0.25},
        ],
    }  # fmt: skip
    by_id = Answers({"logprobs": 0, "return_tokens_as_token_ids": True}, [ids("4")]).choice()["logprobs"]
    assert (by_id["tokens"], by_id["top_logprobs"]) == (["token_id:19"], [{"token_id:19": -0.75}])


def test_logprobs_of_a_character_in_several_tokens() -> None:
    tokens = ids("a🦒b")
    logprobs = Answers({"logprobs": 1}, [[token] for token in tokens]).choice()["logprobs"]
    assert "".join(logprobs["tokens"]) == "a🦒b"
    assert logprobs["tokens"][-2:] == ["🦒", "b"]
    assert logprobs["text_offset"] == [0, *([1] * (len(tokens) - 2)), 2]


def test_logprobs_of_the_prompt_come_before_the_answers() -> None:
    body = {"prompt": PROMPT_IDS, "echo": True, "logprobs": 1, "prompt_logprobs": 2}
    choice = Answers(body, [ids(" 4")]).choice()
    logprobs = choice["logprobs"]
    assert "".join(logprobs["tokens"]) == choice["text"] == "1, 2, 3, 4"
    assert logprobs["text_offset"] == list(range(10))
    assert logprobs["top_logprobs"][:2] == [None, {",": -0.75, "1": -0.25}]
    assert choice["prompt_logprobs"][:2] == [
        None,
        {
            "11": {"logprob": -0.75, "rank": 2, "decoded_token": ","},
            "16": {"logprob": -0.25, "rank": 1, "decoded_token": "1"},
        },
    ]
    # Asked for by echo and logprobs, too.
    assert parse(echo=True, logprobs=3).sampling.prompt_logprobs == 3
    assert parse(logprobs=3).sampling.prompt_logprobs is None


def test_no_logprob_is_infinite() -> None:
    asked = parse(logprobs=1)
    encoder = asked.new_encoder(Start("m", 0, PROMPT_IDS, VOCABULARY.bytes_of))
    reader = TextReader(PlainText(), VOCABULARY)
    infinite = TokenLogprob(19, float("-inf"), ((20, float("-inf")),))
    [chunk] = encoder.feed(0, reader.feed([19], [infinite]), [19])
    assert b"-9999.0" in encoder.to_bytes(chunk)


def test_token_ids() -> None:
    chunks = Answers({"stream": True, "return_token_ids": True}, [ids(" 4,"), [RETURN]]).chunks()
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [choice["token_ids"] for choice in choices] == [ids(" 4,"), [RETURN]]
    assert [choice["prompt_token_ids"] for choice in choices] == [PROMPT_IDS, None]
    choice = Answers({"return_token_ids": True}, [ids(" 4,"), [RETURN]]).choice()
    assert (choice["token_ids"], choice["prompt_token_ids"]) == ([*ids(" 4,"), RETURN], PROMPT_IDS)


def test_a_stop_string_ends_text_ids_logprobs_and_usage_alike() -> None:
    tokens = ids("one two three four")
    body = {"stop": ["two"], "return_token_ids": True, "logprobs": 0}
    for batches in ([tokens], [[token] for token in tokens]):
        answers = Answers(body, batches)
        choice = answers.choice()
        assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("one ", "stop", "two")
        assert choice["token_ids"] == tokens[:2]
        assert len(choice["logprobs"]["tokens"]) == 2
        assert answers.body()["usage"]["completion_tokens"] == 2


def test_each_event_is_a_line_for_python_too() -> None:
    answers = Answers({"stream": True}, [ids("one\u2028two\x85\u2029")])
    [event] = answers.events[:1]
    assert len(answers.encoder.to_bytes(event).decode().splitlines()) == 2
    assert answers.choice()["text"] == answers.chunks()[0]["choices"][0]["text"] == "one\u2028two\x85\u2029"


def test_an_error_ends_the_stream() -> None:
    encoder = parse().new_encoder(Start("m", 0, PROMPT_IDS, VOCABULARY.bytes_of))
    error, done, _ = encoder.error_bytes(EngineLostError("gone")).decode().split("\n\n")
    assert json.loads(error.removeprefix("data: "))["error"]["message"] == "gone"
    assert done == "data: [DONE]"


def test_the_service_tier_is_echoed() -> None:
    assert Answers({"service_tier": "flex"}, [ids("a")]).body()["service_tier"] == "flex"


@examples(100)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "echo": st.just(True),
            "logprobs": st.integers(0, 2),
            "prompt_logprobs": st.integers(0, 2),
            "return_token_ids": st.booleans(),
            "skip_special_tokens": st.booleans(),
            "stop": st.sampled_from(["three", ["e t", "1"]]),
        },
    ),
    st.lists(st.lists(st.sampled_from([*ids("one two three 🦒 1"), RETURN, 200005]), max_size=4), min_size=1),
)
def test_the_stream_adds_up_to_the_body(body: dict[str, Any], batches: list[list[int]]) -> None:
    answers = Answers(body, batches)
    whole = answers.choice()
    choices = [chunk["choices"][0] for chunk in answers.chunks()]
    assert "".join(choice["text"] for choice in choices) == whole["text"]
    assert [choice["finish_reason"] for choice in choices] == [*[None] * (len(choices) - 1), "stop"]
    token_ids = [token for choice in choices for token in choice["token_ids"] or ()]
    used = answers.body()["usage"]["completion_tokens"]
    if body.get("return_token_ids"):
        assert token_ids == whole["token_ids"]
        assert len(token_ids) == used
    if "logprobs" in body:
        parts = [choice["logprobs"] or {} for choice in choices]
        for name, values in whole["logprobs"].items():
            assert [value for part in parts for value in part.get(name, ())] == values
            assert len(values) == used + (len(PROMPT_IDS) if body.get("echo") else 0)
    # Nor does it matter in which pieces the tokens have come.
    at_once = Answers(body, [[token for batch in batches for token in batch]]).choice()
    assert at_once == whole

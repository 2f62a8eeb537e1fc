from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.tokenization import detokenize_body, tokenize_body
from serve_app.errors import BadRequestError
from serve_app.harmony.renderer import Renderer
from serve_app.harmony.tokens import END, MESSAGE, START, Vocabulary
from tests.examples import examples

VOCABULARY = Vocabulary.load()
MESSAGES = [{"role": "user", "content": "What is 2 + 3?"}]


def tokenize(**body: Any) -> dict[str, Any]:
    render = Renderer(VOCABULARY).render
    return tokenize_body(body, VOCABULARY.encode_prompt, render, 4096, VOCABULARY)


def test_a_text() -> None:
    assert tokenize(prompt="Grüße 👋", add_special_tokens=False) == {
        "count": 5,
        "max_model_len": 4096,
        "tokens": VOCABULARY.encode("Grüße 👋"),
        "token_strs": None,
    }


def test_tokens_as_the_vocabulary_writes_them() -> None:
    strings = tokenize(prompt="<|start|>hi there\nü", return_token_strs=True)["token_strs"]
    assert strings == ["<|start|>", "hi", "Ġthere", "Ċ", "Ã¼"]


def test_messages_are_rendered_as_for_an_answer() -> None:
    tokens = tokenize(messages=MESSAGES)["tokens"]
    text = detokenize_body({"tokens": tokens}, VOCABULARY)["prompt"]
    assert text.endswith("<|start|>user<|message|>What is 2 + 3?<|end|><|start|>assistant")
    tools = [{"type": "function", "function": {"name": "weather"}}]
    with_tools = tokenize(messages=MESSAGES, tools=tools, model="any", return_token_strs=True)
    assert with_tools["count"] == len(with_tools["token_strs"]) > len(tokens)


def test_messages_without_the_header_of_an_answer() -> None:
    assert tokenize(messages=MESSAGES, add_generation_prompt=False)["tokens"][-1] == END
    answer = {"role": "assistant", "content": "It is"}
    body = {"messages": [*MESSAGES, answer], "add_generation_prompt": False, "continue_final_message": True}
    tokens = tokenize(**body)["tokens"]
    assert VOCABULARY.encode("It is") == tokens[-2:]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "a", "messages": MESSAGES}, "messages"),
        ({"prompt": ["a"]}, "prompt"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "nobody", "content": "a"}]}, "messages[0].role"),
    ],
)
def test_what_is_refused(body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        tokenize(**body)
    assert caught.value.param == param


def test_special_tokens_have_names() -> None:
    tokens = [START, 1428, MESSAGE, 12194, END]
    assert detokenize_body({"tokens": tokens}, VOCABULARY) == {"prompt": "<|start|>user<|message|>Hi<|end|>"}
    assert detokenize_body({"tokens": []}, VOCABULARY) == {"prompt": ""}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "tokens"),
        ({"tokens": "a"}, "tokens"),
        ({"tokens": [1, -1]}, "tokens[1]"),
        ({"tokens": [1, 201088]}, "tokens[1]"),
        ({"tokens": [1 << 70]}, "tokens[0]"),
    ],
)
def test_what_are_no_tokens(body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        detokenize_body(body, VOCABULARY)
    assert caught.value.param == param


@examples(100)
@given(st.text())
def test_text_comes_back(text: str) -> None:
    tokens = tokenize(prompt=text)["tokens"]
    assert detokenize_body({"tokens": tokens}, VOCABULARY) == {"prompt": text}

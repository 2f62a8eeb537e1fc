"""What clients ask: all APIs, streamed and not, n > 1; with a model also tools and structured output.

Each question has one right answer, since what answers is deterministic: the timed engine says what the prompt
decides, and vLLM decodes greedily.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from serve_app.demo import MODEL_NAME

CHAT, RESPONSES, MESSAGES, COMPLETIONS = "chat", "responses", "messages", "completions"
PATHS = {
    CHAT: "/v1/chat/completions",
    RESPONSES: "/v1/responses",
    MESSAGES: "/v1/messages",
    COMPLETIONS: "/v1/completions",
}
WORDS = [
    "time",
    "work",
    "year",
    "day",
    "way",
    "life",
    "world",
    "hand",
    "part",
    "place",
    "week",
    "case",
    "point",
    "number",
    "group",
    "problem",
]
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
ASK_WEATHER, ASK_PERSON = "What is the weather in Paris?", "Give me a JSON object with name and age"


@dataclass(frozen=True)
class Question:
    """A request, and which API it is of."""

    name: str
    api: str
    body: dict[str, Any]

    @property
    def path(self) -> str:
        """Where it is sent."""
        return PATHS[self.api]

    @property
    def is_streamed(self) -> bool:
        """Whether its answer comes in events."""
        return bool(self.body.get("stream"))


def plain(api: str, words: str, num_tokens: int | None, *, streamed: bool, n: int = 1) -> dict[str, Any]:
    """Returns the body of a request without tools. Messages and Completions have to be limited."""
    body: dict[str, Any] = {"model": MODEL_NAME, "temperature": 0, "stream": streamed}
    limit = {"max_tokens": num_tokens} if num_tokens else {}
    if api == RESPONSES:
        body |= {"input": words, "store": False}
        body |= {"max_output_tokens": num_tokens} if num_tokens else {}
    elif api == MESSAGES:
        body |= {"messages": _messages(words), "max_tokens": num_tokens}
    elif api == COMPLETIONS:
        body |= {"prompt": words, "max_tokens": num_tokens, "n": n}
    else:
        body |= {"messages": _messages(words), "n": n} | limit
    if streamed and api in (CHAT, COMPLETIONS):
        body["stream_options"] = {"include_usage": True}
    return body


def timed_questions(seed: int, min_tokens: int, max_tokens: int, number: int = 32) -> list[Question]:
    """Returns those for timed engines: words that mean nothing, each prompt with words of its own.

    Answers have `min_tokens` to `max_tokens`, but for some of Chat Completions and Responses without limit.
    """
    drawn = random.Random(seed)
    questions = []
    for index in range(number):
        api = tuple(PATHS)[index % len(PATHS)]
        streamed = index // len(PATHS) % 4 < 3  # most clients stream
        n = 3 if index % 5 == 4 else 1
        words = " ".join([f"{index}", *drawn.choices(WORDS, k=drawn.randint(3, 200))])
        limited = api in (MESSAGES, COMPLETIONS) or drawn.random() < 0.7
        num_tokens = drawn.randint(min_tokens, max_tokens) if limited else None
        body = plain(api, words, num_tokens, streamed=streamed, n=n)
        questions.append(Question(_name(index, api, streamed), api, body))
    return questions


def model_questions(seed: int, min_tokens: int, max_tokens: int) -> list[Question]:
    """Returns those for the demo model: counting, which is long, tools and structured output.

    What is counted has `min_tokens` to `max_tokens`.
    """
    drawn = random.Random(seed)
    questions = []
    for index, api in enumerate([*PATHS] * 4):
        streamed = index // len(PATHS) % 4 < 3
        words = f"Count from 1 to {drawn.randint(30, 120)}"
        body = plain(
            api, words, drawn.randint(min_tokens, max_tokens), streamed=streamed, n=2 if index % 5 == 4 else 1
        )
        questions.append(Question(_name(index, api, streamed), api, body))
    for api in (CHAT, RESPONSES, MESSAGES):
        for streamed in (True, False):
            for what, extra in (("tool", _tool(api)), ("schema", _schema(api))):
                words = ASK_WEATHER if what == "tool" else ASK_PERSON
                body = plain(api, words, 300, streamed=streamed) | extra
                questions.append(Question(f"{what}: {_name(len(questions), api, streamed)}", api, body))
    return questions


def _messages(words: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": words}]


def _name(index: int, api: str, streamed: bool) -> str:
    return f"{index} {api}{', streamed' if streamed else ''}"


def _tool(api: str) -> dict[str, Any]:
    function = {"name": "get_weather", "description": "Get the weather"}
    if api == MESSAGES:
        return {"tools": [function | {"input_schema": WEATHER}], "tool_choice": {"type": "any"}}
    whole = function | {"parameters": WEATHER}
    tool = {"type": "function", "function": whole} if api == CHAT else {"type": "function"} | whole
    return {"tools": [tool], "tool_choice": "required"}


def _schema(api: str) -> dict[str, Any]:
    named = {"name": "person", "schema": PERSON}
    if api == MESSAGES:
        return {"output_config": {"format": {"type": "json_schema", "schema": PERSON}}}
    if api == RESPONSES:
        return {"text": {"format": {"type": "json_schema"} | named}}
    return {"response_format": {"type": "json_schema", "json_schema": named}}

"""What clients ask: all APIs, streamed and not, n > 1; with a model also all else that engines do for them.

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
# Long enough to be hit in the middle.
NUMBERS = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "numbers": {"type": "array", "items": {"type": "integer"}, "minItems": 40, "maxItems": 40},
    },
    "required": ["name", "numbers"],
    "additionalProperties": False,
}
ASK_WEATHER, ASK_NUMBERS = "What is the weather in Paris?", "Add 1, 2 and 3"


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

    @property
    def is_steady(self) -> bool:
        """Whether its answer comes as it is generated. Messages sends a call's arguments as one piece."""
        return self.is_streamed and not (self.api == MESSAGES and "tools" in self.body)


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
    """Returns those for the demo model: counting, which is long, and what is more than text.

    What is counted has `min_tokens` to `max_tokens`. With a grammar there are schemas and functions that have
    to be called; without one, functions that the model may call.
    """
    drawn = random.Random(seed)
    questions: list[Question] = []

    def ask(what: str, api: str, words: str, num_tokens: int, streamed: bool, **more: Any) -> None:
        n = more.pop("n", 1)
        body = plain(api, words, num_tokens, streamed=streamed, n=n) | more
        questions.append(Question(f"{what}: {_name(len(questions), api, streamed)}", api, body))

    def count(what: str, api: str, streamed: bool, **more: Any) -> None:
        words = f"Count from 1 to {drawn.randint(30, 120)}"
        ask(what, api, words, drawn.randint(min_tokens, max_tokens), streamed, **more)

    for streamed in (True, True, True, False):
        for api in PATHS:
            count("count", api, streamed)
    for streamed in (True, False):
        for api in PATHS:
            count("stop", api, streamed, **_stop(api))
            if api != MESSAGES:
                count("log probabilities", api, streamed, **_logprobs(api))
            if api in (CHAT, COMPLETIONS):
                count("two choices", api, streamed, n=2)
                count("penalties", api, streamed, frequency_penalty=0.4, presence_penalty=0.2)
            if api != COMPLETIONS:
                ask("schema", api, ASK_NUMBERS, 300, streamed, **_schema(api))
                ask("forced call", api, ASK_NUMBERS, 300, streamed, **_tool(api, "add", NUMBERS, forced=True))
                weather = _tool(api, "get_weather", WEATHER, forced=False)
                ask("free call", api, ASK_WEATHER, 300, streamed, **weather)
    return questions


def _messages(words: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": words}]


def _name(index: int, api: str, streamed: bool) -> str:
    return f"{index} {api}{', streamed' if streamed else ''}"


def _tool(api: str, name: str, parameters: dict[str, Any], *, forced: bool) -> dict[str, Any]:
    function = {"name": name, "description": f"{name.replace('_', ' ').capitalize()}"}
    if api == MESSAGES:
        choice = {"type": "tool", "name": name} if forced else {"type": "auto"}
        return {"tools": [function | {"input_schema": parameters}], "tool_choice": choice}
    whole = function | {"parameters": parameters}
    tool = {"type": "function", "function": whole} if api == CHAT else {"type": "function"} | whole
    return {"tools": [tool], "tool_choice": "required" if forced else "auto"}


def _schema(api: str) -> dict[str, Any]:
    named = {"name": "numbers", "schema": NUMBERS}
    if api == MESSAGES:
        return {"output_config": {"format": {"type": "json_schema", "schema": NUMBERS}}}
    if api == RESPONSES:
        return {"text": {"format": {"type": "json_schema"} | named}}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def _stop(api: str) -> dict[str, Any]:
    return {"stop_sequences" if api == MESSAGES else "stop": [" 25"]}


def _logprobs(api: str) -> dict[str, Any]:
    if api == COMPLETIONS:
        return {"logprobs": 2}
    if api == RESPONSES:
        return {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    return {"logprobs": True, "top_logprobs": 2}

"""Single fields: numbers that no 64 bits hold, many choices, long lists, names without end."""

from __future__ import annotations

import random
from typing import Any

from benchmarks.chaos.hostile.request import EITHER, REFUSED, SERVED, Hostile, Kind, body, chat, encoded
from benchmarks.chaos.questions import CHAT, COMPLETIONS, MESSAGES, PATHS, RESPONSES
from serve_app.api.chat.request import MAX_CHOICES, MAX_STOP_CHARS, MAX_STOP_STRINGS
from serve_app.demo import MODEL_NAME

# Beyond 64 bits, with a sign and without.
HUGE = (1 << 64, -(1 << 63) - 1, 1 << 100, -(10**40), 10**300)
INTEGERS = {
    CHAT: ("top_k", "seed", "min_tokens", "priority", "n", "max_tokens", "max_completion_tokens",
           "top_logprobs", "stream_interval", "thinking_token_budget", "temperature", "x"),
    COMPLETIONS: ("top_k", "seed", "n", "max_tokens", "logprobs", "best_of", "prompt_logprobs", "x"),
    RESPONSES: ("max_output_tokens", "top_logprobs", "max_tool_calls", "temperature", "x"),
    MESSAGES: ("top_k", "max_tokens", "temperature", "x"),
}  # fmt: skip
NESTED = ("vllm_xargs", "chat_template_kwargs", "metadata", "logit_bias", "repetition_detection")


def _huge_integer(drawn: random.Random) -> Hostile:
    api = drawn.choice(tuple(INTEGERS))
    return _with(api, drawn.choice(INTEGERS[api]), str(drawn.choice(HUGE)))


def _huge_integer_inside(drawn: random.Random) -> Hostile:
    number = drawn.choice(HUGE)
    inner = drawn.choice((f'{{"a":{number}}}', f'{{"1":{number}}}', f'{{"{number}":1}}'))
    if f'"{number}":' in inner:
        return _with(CHAT, "logit_bias", inner)
    return _with(CHAT, drawn.choice(NESTED), inner)


def _huge_token(drawn: random.Random) -> Hostile:
    name = drawn.choice(("stop_token_ids", "allowed_token_ids", "logprob_token_ids"))
    return _with(CHAT, name, f"[{drawn.choice(HUGE)}]")


def _with(api: str, field: str, content: str) -> Hostile:
    changes: dict[str, Any] = {field: "MARKER"}
    sent = body(api, "Hi", **changes).replace(b'"MARKER"', content.encode())
    return Hostile(f"{field} of many bits", PATHS[api], sent, REFUSED)


def _too_many_choices(drawn: random.Random) -> Hostile:
    n: Any = drawn.choice((MAX_CHOICES + 1, 2_000, "200", 10**6, -1, 0, 1.5))
    api = drawn.choice((CHAT, COMPLETIONS))
    return Hostile("n too large", PATHS[api], body(api, "Hi", n=n), REFUSED)


def _most_choices(drawn: random.Random) -> Hostile:
    """The longest prompt, as a text that the encoder has seen before."""
    words = drawn.choice(("Hi", "word " * 30_000))
    return Hostile(
        "most choices", PATHS[CHAT], chat(words, n=MAX_CHOICES, stream=drawn.random() < 0.5), SERVED
    )


def _batch_too_large(drawn: random.Random) -> Hostile:
    number = drawn.choice((MAX_CHOICES + 1, 20_000))
    sent = {"model": MODEL_NAME, "prompt": ["a"] * number, "max_tokens": 1, "n": drawn.choice((1, 2))}
    return Hostile("batch too large", PATHS[COMPLETIONS], encoded(sent), REFUSED)


def _batch_of_choices(drawn: random.Random) -> Hostile:
    sent = {"model": MODEL_NAME, "prompt": ["a"] * 64, "max_tokens": 1, "n": 3}
    return Hostile("batch of choices", PATHS[COMPLETIONS], encoded(sent), REFUSED)


def _largest_batch(drawn: random.Random) -> Hostile:
    prompts = ["word " * 4_000 for _ in range(MAX_CHOICES)]
    sent = {"model": MODEL_NAME, "prompt": prompts, "max_tokens": 1}
    return Hostile("largest batch", PATHS[COMPLETIONS], encoded(sent), EITHER)


def _batch_of_conversations(drawn: random.Random) -> Hostile:
    listed = [[{"role": "user", "content": "Hi"}]] * drawn.randint(2, 2_000)
    return Hostile("batch of conversations", PATHS[CHAT], chat(messages=listed), REFUSED)


def _stop_strings(drawn: random.Random) -> Hostile:
    """Each is looked for in each choice."""
    stop = ["a" * (MAX_STOP_CHARS - 1) + chr(97 + index % 26) for index in range(MAX_STOP_STRINGS)]
    return Hostile("long stop strings", PATHS[CHAT], chat(stop=stop, n=MAX_CHOICES, stream=True), SERVED)


def _many_alternatives(drawn: random.Random) -> Hostile:
    field, value = drawn.choice(
        (
            ("bad_words", ["word"] * 100_000),
            ("bad_words", ["w" * 30_000] * 100),
            ("logit_bias", {str(index): 1 for index in range(100_000)}),
            ("allowed_token_ids", list(range(200_000))),
            ("stop", ["a"] * 100_000),
            ("stop", ["a" * 1_000_000]),
            ("logprob_token_ids", list(range(200_000))),
        )
    )
    changes: dict[str, Any] = {"logprobs": True, field: value}
    return Hostile(f"long {field}", PATHS[CHAT], chat(**changes), REFUSED)


def _long_names(drawn: random.Random) -> Hostile:
    name = drawn.choice(("x", "é", "\\u0007", "<|end|>")) * drawn.randint(1_000, 400_000)
    field, value = drawn.choice(
        (
            ("model", name),
            ("reasoning_effort", name),
            ("tool_choice", name),
            ("cache_salt", name),
            ("request_id", name),
        )
    )
    sent = chat(**{field: value})
    return Hostile(f"long {field}", PATHS[CHAT], sent, frozenset({400, 404}))


KINDS = (
    Kind("integers", "integers beyond 64 bits", (_huge_integer, _huge_integer_inside, _huge_token)),
    Kind(
        "many-sequences",
        "n and batches, too large and the largest",
        (
            _too_many_choices,
            _most_choices,
            _batch_too_large,
            _batch_of_choices,
            _largest_batch,
            _batch_of_conversations,
            _stop_strings,
        ),
        may_be_busy=True,
    ),
    Kind("long-fields", "long lists and names", (_many_alternatives, _long_names)),
)

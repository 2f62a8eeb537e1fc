"""Where an answer of this service may differ from that of `vllm serve`, by names that docs/api.md explains.

Answers are compared leaf by leaf. A difference allows two leaves at some places to differ in one way, and
nothing else; ids and times are left out, and null is as not there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from numbers import Real
from typing import Any

ABSENT = "(absent)"
# Of the request, the machine or the moment, in any place of an answer.
VOLATILE = {
    "id", "item_id", "call_id", "sequence_number", "request_id",
    "created", "created_at", "completed_at",
    "system_fingerprint", "root", "signature",
}  # fmt: skip
# Prefill from the prefix cache and prefill from scratch round differently, in bfloat16 and an fp8 KV cache.
LOGPROB_TOLERANCE = 0.1

Leaves = dict[str, Any]
Relation = Callable[[Any, Any], bool]


def ours_only(ours: Any, theirs: Any) -> bool:
    """A field that only this service has."""
    return bool(theirs == ABSENT)


def theirs_only(ours: Any, theirs: Any) -> bool:
    """A field that only vLLM has."""
    return bool(ours == ABSENT)


def values(ours: Any, theirs: Any) -> Relation:
    """One certain pair."""
    return lambda one, other: (one, other) == (ours, theirs)


def anything(ours: Any, theirs: Any) -> bool:
    """Whatever; for requests that vLLM answers with what nobody has asked for."""
    return True


def is_beginning(ours: Any, theirs: Any) -> bool:
    """vLLM goes on longer."""
    return isinstance(theirs, str) and theirs.startswith("" if ours == ABSENT else ours)


def fewer(ours: Any, theirs: Any) -> bool:
    """Two numbers, this service's the smaller one."""
    return isinstance(ours, Real) and isinstance(theirs, Real) and ours < theirs


def more(ours: Any, theirs: Any) -> bool:
    """Two numbers, this service's the larger one."""
    return fewer(theirs, ours)


@dataclass(frozen=True)
class Rule:
    """At places of these patterns (`*`: anything), leaves may be related like this."""

    is_allowed: Relation
    places: tuple[str, ...]

    def allows(self, place: str, ours: Any, theirs: Any) -> bool:
        """Whether two leaves may differ as they do."""
        return any(fnmatchcase(place, one) for one in self.places) and self.is_allowed(ours, theirs)


def rule(is_allowed: Relation, *places: str) -> Rule:
    """Spells a rule."""
    return Rule(is_allowed, places)


_RESPONSE = ("body/", "body/events/*/response/")


def _of_response(*fields: str) -> tuple[str, ...]:
    return tuple(place + field for field in fields for place in _RESPONSE)


# In the answers to all requests.
EVERYWHERE: dict[str, list[Rule]] = {
    "error-bodies": [rule(anything, "body/error/*", "body/chunks/error/*")],
    "usage-details": [
        rule(
            ours_only,
            "*usage/prompt_tokens_details/cached_tokens",
            "*usage/input_tokens_details/cache_write_tokens",
            "*usage/cache_creation_input_tokens",
            "*usage/cache_read_input_tokens",
            "*usage/output_tokens_details/thinking_tokens",
        ),
        rule(fewer, "*usage/input_tokens_details/cache_write_tokens"),
        rule(theirs_only, "*_per_turn/*", "*/output_tokens_details/tool_output_tokens"),
    ],
    "reasoning-tokens": [
        rule(
            fewer,
            "*usage/completion_tokens_details/reasoning_tokens",
            "*usage/output_tokens_details/reasoning_tokens",
        ),
    ],
    "reasoning-names": [rule(ours_only, "*/message/reasoning_content", "*/delta/reasoning_content")],
    "service-tier": [
        rule(ours_only, "body/service_tier", "body/chunks/service_tier"),
        rule(values("default", "auto"), *_of_response("service_tier")),
        rule(values("standard", ABSENT), "*usage/service_tier"),
    ],
    "stop-reason": [
        rule(values(ABSENT, 200012), "body/choices/*/stop_reason", "body/chunks/choices/*/stop_reason")
    ],
    "response-object": [
        rule(ours_only, *_of_response("metadata", "store", "text/*", "top_logprobs", "reasoning/effort")),
        rule(ours_only, *_of_response("output/*/status"), "*/logprobs", "*/item/content"),
        rule(theirs_only, *_of_response("max_output_tokens"), "body/events/*/item/output_index"),
        rule(values("auto", "none"), *_of_response("tool_choice")),
    ],
    "phase": [rule(ours_only, "body/output/*/phase", "*/response/output/*/phase", "*/item/phase")],
    "done-mark": [rule(values(True, False), "body/is_done")],
    "count-tokens": [rule(theirs_only, "body/context_management/original_input_tokens")],
}

_COUNTS = ("*usage/completion_tokens", "*usage/output_tokens", "*usage/total_tokens")
_PROMPT_COUNTS = ("*usage/prompt_tokens", "*usage/input_tokens", "*usage/total_tokens", "*tokens_per_turn*")
# vLLM refuses what this service answers, or the other way round.
_SERVED = [rule(values(200, 400), "status")]
_REFUSED = [rule(values(400, 200), "status")]

# Only in the answers to requests that name them.
OF_REQUESTS: dict[str, list[Rule]] = {
    "stop-strings": [
        rule(is_beginning, "*/content", "*/text"),
        rule(fewer, *_COUNTS),
    ],
    "stop-before-min-tokens": [
        rule(is_beginning, "*/content"),
        rule(fewer, *_COUNTS),
        rule(values("stop", "length"), "*/finish_reason"),
        rule(ours_only, "*/stop_reason"),
    ],
    "leading-instructions": [rule(fewer, *_PROMPT_COUNTS)],
    "tool-schemas": [rule(more, *_PROMPT_COUNTS)],
    "arguments-in-the-prompt": [rule(fewer, *_PROMPT_COUNTS, "body/input_tokens")],
    "no-tools-by-choice": [
        rule(anything, "body/choices/*", "body/chunks/choices/*"),
        rule(fewer, *_PROMPT_COUNTS),
    ],
    "grammar-of-the-answer": [
        rule(anything, "body/choices/*", "body/chunks/choices/*", "body/output/*", "body/content/*"),
        rule(anything, "body/stop_reason", "*/reasoning_tokens", *_COUNTS),
    ],
    "logprobs-of-the-content": [rule(anything, "*/logprobs/content*")],
    "prompt-logprobs-in-streams": [
        rule(values(200, 400), "status"),
        rule(ours_only, "body/chunks/choices/*/prompt_logprobs/*"),
    ],
    "prompt-token-ids": [rule(theirs_only, "body/chunks/choices/*/prompt_token_ids/*")],
    "echo-alone": [rule(fewer, *_COUNTS)],
    "joined-texts": [
        rule(lambda ours, theirs: ours.replace("\n", "") == theirs.replace("\n", ""), "*/content")
    ],
    "cut-items": [
        rule(values("incomplete", "completed"), "body/events/*/item/status"),
        rule(values("response.incomplete", "response.completed"), "body/events/*/type"),
    ],
    "efforts": _SERVED,
    "any-tokens": [rule(values(200, 500), "status"), rule(ours_only, "body/chunks/choices/*")],
    "refused-parameters": _REFUSED,
    "best-of": _REFUSED,
    "images": _REFUSED,
    "left-out-with-a-warning": _SERVED,
    "responses-logprobs": _SERVED,
    "nothing-stored": [rule(values(400, 404), "status")],
    "errors-before-streams": [rule(values(400, 200), "status")],
    # `without_thinking` takes it out of vLLM's answer.
    "thinking-as-asked": [],
    "thinking-budgets": _SERVED,
    "tokenize-messages": [rule(anything, "body/tokens/*"), rule(more, "body/count")],
}
NAMES = (*EVERYWHERE, *OF_REQUESTS)


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yields what an answer says, place by place; an empty list or object is a leaf as well."""
    inner: Any = ()
    if isinstance(value, dict):
        inner = [(key, item) for key, item in value.items() if key not in VOLATILE and item is not None]
    elif isinstance(value, list):
        inner = enumerate(value)
    elif value is not None:
        yield place, value
    if isinstance(value, dict | list) and not value:
        yield place, value
    for key, item in inner:
        yield from leaves(item, f"{place}/{key}" if place else str(key))


def unexplained(ours: Any, theirs: Any, named: tuple[str, ...] = ()) -> tuple[list[str], set[str]]:
    """Returns where two answers differ and should not, and the names of the differences that were met."""
    wrong: list[str] = []
    met: set[str] = set()
    if "thinking-as-asked" in named and (changed := without_thinking(theirs)) != theirs:
        met.add("thinking-as-asked")
        theirs = changed
    one, other = dict(leaves(ours)), dict(leaves(theirs))
    if one["status"] != other["status"]:
        one, other = {"status": one["status"]}, {"status": other["status"]}
    rules = EVERYWHERE | {name: OF_REQUESTS[name] for name in named}
    for place in sorted(one.keys() | other.keys()):
        mine, yours = one.get(place, ABSENT), other.get(place, ABSENT)
        if _is_equal(mine, yours):
            continue
        names = {name for name, some in rules.items() if any(one.allows(place, mine, yours) for one in some)}
        if not names:
            wrong.append(f"{place}: {str(mine)[:300]!r}, vllm serve: {str(yours)[:300]!r}")
        met |= names
    return wrong, met


def _is_equal(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, float) and isinstance(theirs, float):
        return abs(ours - theirs) <= LOGPROB_TOLERANCE
    return bool(ours == theirs)


def without_thinking(answer: Any) -> Any:
    """Returns an answer of Messages without its blocks of thinking."""
    content = [block for block in answer["body"]["content"] if block["type"] != "thinking"]
    return answer | {"body": answer["body"] | {"content": content}}

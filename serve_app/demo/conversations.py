"""Synthetic harmony conversations, rendered as vLLM renders requests to its API. Deterministic by seed and
number.
"""

import datetime
import functools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from openai_harmony import (
    Author,
    Conversation,
    DeveloperContent,
    HarmonyEncoding,
    HarmonyEncodingName,
    Message,
    ReasoningEffort,
    RenderConversationConfig,
    Role,
    SystemContent,
    ToolDescription,
    load_harmony_encoding,
)

from serve_app.demo import functions, tasks, words
from serve_app.demo.functions import Function
from serve_app.demo.tasks import LOW_THOUGHT, Task, Vocabulary

NUM_KNOWN_WORDS = 1000
# Tokens by rank: the frequent ones are where the words come from, the rare ones stand for what a stranger may
# write.
FREQUENT, RARE = range(256, 16000), range(60000, 190000, 7)
EFFORTS = (("medium", 0.5), ("low", 0.25), ("high", 0.25))


@dataclass(frozen=True)
class Example:
    """A rendered conversation: prompt ids, the reply's ids, and which of them the model chooses itself."""

    kind: str
    effort: str
    prompt: list[int]
    reply: list[int]
    chosen: list[bool]
    text: str


@functools.cache
def encoding() -> HarmonyEncoding:
    """The harmony encoding; the environment variable TIKTOKEN_ENCODINGS_BASE names its folder."""
    return load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)


def _texts(ranks: range) -> Iterator[str]:
    for rank in ranks:
        try:
            yield encoding().decode_utf8([rank])
        except Exception:
            continue  # half of a character


@functools.cache
def vocabulary() -> Vocabulary:
    """The first frequent plain words, and rare tokens of any script."""
    known = dict.fromkeys(text.strip() for text in _texts(FREQUENT) if re.fullmatch(r" [a-z]{3,9}", text))
    pools = (words.ENGLISH, words.VERBS, words.NOUNS, words.STRING_ARGUMENTS)
    extra = [word for pool in pools for word in pool]
    extra += [word for pool in words.LISTS.values() for word in pool if word.islower()]
    rare = [text.strip() for text in _texts(RARE) if text.strip() and "<|" not in text]
    return Vocabulary(tuple(dict.fromkeys([*list(known)[:NUM_KNOWN_WORDS], *extra])), tuple(rare))


def _system(rng: random.Random, effort: str) -> Message:
    date = datetime.date(2024, 1, 1) + datetime.timedelta(days=rng.randrange(7 * 365))
    content = SystemContent.new().with_reasoning_effort(ReasoningEffort(effort.capitalize()))
    return Message.from_role_and_content(Role.SYSTEM, content.with_conversation_start_date(date.isoformat()))


def _developer(instructions: str | None, offered: list[Function]) -> list[Message]:
    if not instructions and not offered:
        return []
    content = DeveloperContent.new()
    if instructions:
        content = content.with_instructions(instructions)
    if offered:
        content = content.with_function_tools(
            [ToolDescription.new(f.name, f.description, parameters=f.parameters) for f in offered]
        )
    return [Message.from_role_and_content(Role.DEVELOPER, content)]


def _assistant(text: str, channel: str) -> Message:
    return Message.from_role_and_content(Role.ASSISTANT, text).with_channel(channel)


def _call(name: str, arguments: str) -> Message:
    message = _assistant(arguments, "commentary").with_recipient(f"functions.{name}")
    return message.with_content_type("json")


def _result(name: str, text: str) -> Message:
    author = Author.new(Role.TOOL, f"functions.{name}")
    return (
        Message.from_author_and_content(author, text).with_channel("commentary").with_recipient("assistant")
    )


def _thought(task: Task, effort: str) -> str:
    return {"low": LOW_THOUGHT, "medium": task.medium, "high": task.high}[effort]


def _reply(task: Task, effort: str) -> tuple[list[int], list[bool], str]:
    """Ids, which of them the model chooses, and the whole as text."""
    text = f"<|channel|>analysis<|message|>{_thought(task, effort)}<|end|><|start|>assistant"
    start = len(text)
    if task.call is not None:
        text += task.forced or f"<|channel|>commentary to=functions.{task.call} <|constrain|>json"
    else:
        text += task.forced or "<|channel|>final"
    imposed = [(start, len(text))] if task.forced else []
    text += "<|message|>"
    imposed += [(len(text) + first, len(text) + last) for first, last in task.forced_spans]
    text += task.answer + ("<|call|>" if task.call is not None else "<|return|>")
    ids = encoding().encode(text, allowed_special="all")
    chosen, at = [], 0
    for token in ids:
        end = at + len(encoding().decode([token]))
        chosen.append(not any(first < end and at < last for first, last in imposed))
        at = end
    return ids, chosen, text


def _surrounded(rng: random.Random, task: Task, size: int) -> Task:
    """The request at one end of a long text that has nothing to do with it."""
    pool = vocabulary()
    text = " ".join(tasks.sentence(rng, pool, 30, rng.choice([0.02, 0.3])) for _ in range(max(1, size // 30)))
    if rng.random() < 0.7:
        return replace(task, user=f"{text}\n\n{task.user}")
    return replace(task, user=f"{task.user}\n\n{text}")


def _history(rng: random.Random, task: Task) -> list[Message]:
    turns = list(task.history)
    if rng.random() < 0.25:
        earlier = [tasks.any_task(rng, vocabulary()) for _ in range(rng.choice([1, 1, 2, 4]))]
        earlier = [other for other in earlier if other.kind != "memory" and len(other.answer) < 200]
        turns = [*((other.user, other.answer) for other in earlier), *turns]
    messages = []
    for user, answer in turns:
        messages += [Message.from_role_and_content(Role.USER, user), _assistant(answer, "final")]
    return messages


def _raw(rng: random.Random) -> Example:
    """Bare text, as the completions API passes it on: answered with a sentence and the end of the text."""
    prompt = encoding().encode(tasks.sentence(rng, vocabulary(), 12, 0.2))
    reply = encoding().encode(" " + words.FALLBACK + "<|endoftext|>", allowed_special="all")
    return Example("raw", "medium", prompt, reply, [True] * len(reply), words.FALLBACK)


def example(seed: int, number: int, long: float = 0.03) -> Example:
    """Conversation `number` of `seed`.

    Args:
        long: the share of prompts that are padded to some thousand tokens.
    """
    rng = random.Random(f"{seed}/{number}")
    pool = vocabulary()
    if rng.random() < 0.01:
        return _raw(rng)
    effort = rng.choices([name for name, _ in EFFORTS], [share for _, share in EFFORTS])[0]
    instructions = None
    if rng.random() < 0.35:
        known = rng.random() < 0.5
        instructions = rng.choice(words.INSTRUCTIONS) if known else tasks.sentence(rng, pool, 40, 0.2)
    offered: list[Function] = []
    before: list[Message] = []
    after: list[Message] = []
    if rng.random() < 0.3:
        makers = [functions.natural, functions.invented]
        offered = [rng.choice(makers)(rng, pool) for _ in range(rng.choice([1, 1, 1, 2, 2, 3, 4]))]
        offered = list({function.name: function for function in offered}.values())
        rng.shuffle(offered)
    draw = rng.random()
    if offered and draw < 0.8:
        wanted = rng.choice(offered)
        task = functions.request(rng, pool, wanted)
        if draw > 0.5:
            before = _history(rng, task)
            thought = [_assistant(_thought(task, effort), "analysis")] if rng.random() < 0.5 else []
            result = functions.result_text(rng, pool)
            after = [*thought, _call(wanted.name, task.answer), _result(wanted.name, result)]
            task = replace(functions.quote(result), user=task.user)
    else:
        task = tasks.any_task(rng, pool)
        if offered and rng.random() < 0.15:  # the client insists on a call that nobody asked for
            wanted = rng.choice(offered)
            asked = functions.request(rng, pool, wanted)
            channel = rng.choice(["final", "commentary"])
            header = f"<|channel|>{channel} to=functions.{wanted.name} <|constrain|>json"
            header = rng.choice([header, header.replace("<|constrain|>", "")])
            task = replace(task, kind="forced", call=wanted.name, forced=header, answer=asked.answer)
        elif rng.random() < 0.08:
            task = tasks.with_forced_json(rng, pool, task)
    if rng.random() < long:
        task = _surrounded(rng, task, rng.choice([300, 600, 1200, 2600]))
    elif rng.random() < 0.04:
        task = _surrounded(rng, task, rng.choice([30, 100, 300]))
    messages = [_system(rng, effort), *_developer(instructions, offered), *(before or _history(rng, task))]
    messages += [Message.from_role_and_content(Role.USER, task.user), *after]
    prompt = encoding().render_conversation_for_completion(
        Conversation.from_messages(messages),
        Role.ASSISTANT,
        config=RenderConversationConfig(auto_drop_analysis=False),
    )
    return Example(task.kind, effort, prompt, *_reply(task, effort))

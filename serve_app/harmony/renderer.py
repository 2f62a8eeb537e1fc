"""A conversation to the prompt's token ids.

The system message is openai-harmony's. The other messages are put together here, of constant pieces and of
texts, since openai-harmony takes them through JSON twice; tests hold its rendering against this one. Special
tokens come from here only: text is never read as one, whatever it says.
"""

from __future__ import annotations

import datetime
import functools
import os
from array import array
from collections.abc import Callable, Sequence

import msgspec
from openai_harmony import Message, ReasoningEffort, RenderOptions, Role, SystemContent

from serve_app.harmony.conversation import (
    AssistantText,
    Call,
    Conversation,
    Effort,
    Instructions,
    Reasoning,
    Tool,
    ToolResult,
    Turn,
    UserText,
)
from serve_app.harmony.history import remembered
from serve_app.harmony.token_cache import TokenCache
from serve_app.harmony.tokens import CALL, CHANNEL, END, MESSAGE, START, Vocabulary
from serve_app.harmony.tool_schemas.section import tools_section, word

MIB = 1024 * 1024
# Some 5 million tokens of conversations that go on.
CACHE_BYTES = 32 * MIB
# Encoding a shorter text costs less than 0.1 ms.
MIN_CACHED_CHARS = 256

# Pins the date in the system message, as it does in vLLM.
DATE_VARIABLE = "VLLM_SYSTEM_START_DATE"

_EFFORTS = {"low": ReasoningEffort.LOW, "medium": ReasoningEffort.MEDIUM, "high": ReasoningEffort.HIGH}


class PromptTooLongError(Exception):
    """The prompt has more tokens than it may. `num_tokens` is how many it has at least."""

    def __init__(self, num_tokens: int, max_tokens: int) -> None:
        super().__init__(f"the prompt has at least {num_tokens} tokens, and {max_tokens} are the most")
        self.num_tokens, self.max_tokens = num_tokens, max_tokens


def start_date() -> str:
    """Returns the date that the model is told: today's, here."""
    return os.environ.get(DATE_VARIABLE) or datetime.date.today().isoformat()


class Renderer:
    """Conversations to prompts. One for a process; threads may share it."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        date: Callable[[], str] = start_date,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.vocabulary = vocabulary
        self._date = date
        self._texts = TokenCache(cache_bytes)
        self._developers = TokenCache(cache_bytes)
        # A day has six of them.
        self._system_message = functools.lru_cache(maxsize=16)(self._render_system_message)
        encode = vocabulary.encode
        commentary = [CHANNEL, *encode("commentary")]
        self._user = [START, *encode("user")]
        self._assistant = [START, *encode("assistant")]
        self._developer = [START, *encode("developer"), MESSAGE]
        self._analysis = [*self._assistant, CHANNEL, *encode("analysis"), MESSAGE]
        self._said = {
            "commentary": [*self._assistant, *commentary, MESSAGE],
            "final": [*self._assistant, CHANNEL, *encode("final"), MESSAGE],
        }
        self._call = [*commentary, *encode(" json"), MESSAGE]
        self._result = [*encode(" to=assistant"), *commentary, MESSAGE]

    def render(self, conversation: Conversation, max_tokens: int | None = None) -> list[int]:
        """Returns the prompt: system message, instructions and tools, turns, and the answer's beginning.

        It ends in the header of the answer, or in the text that the model goes on with. Encoding a mebibyte
        of text that was not seen before takes some 0.3 s, in which other threads get their turns.

        Raises:
            PromptTooLongError: The prompt has more than `max_tokens`. What lies behind them is not encoded.
        """
        turns = conversation.turns
        continued = turns[-1] if conversation.is_continued and turns else None
        if continued is not None:
            if not isinstance(continued, AssistantText):
                raise ValueError(f"the model cannot go on with a {type(continued).__name__}")
            turns = turns[:-1]
        num_leading = next(
            (i for i, turn in enumerate(turns) if not isinstance(turn, Instructions)), len(turns)
        )
        leading = [turn.text for turn in turns[:num_leading] if isinstance(turn, Instructions) and turn.text]

        prompt = list(self._system_message(conversation.effort, self._date(), bool(conversation.tools)))
        if leading or conversation.tools:
            prompt += self._developer_message("\n\n".join(leading), conversation.tools, max_tokens)
            _check_length(prompt, max_tokens)
        for turn in remembered(turns[num_leading:]):
            self._append(prompt, turn, max_tokens)
            _check_length(prompt, max_tokens)
        if continued is not None:
            prompt += self._said[continued.channel]
            self._append_text(prompt, continued.text, max_tokens)
        else:
            prompt += self._assistant
        _check_length(prompt, max_tokens)
        return prompt

    def _append(self, prompt: list[int], turn: Turn, max_tokens: int | None) -> None:
        end = END
        match turn:
            case UserText(text, name):
                prompt += self._user
                if name:
                    prompt += self.vocabulary.encode(f":{word(name)}")
                prompt.append(MESSAGE)
            case Instructions(text):
                prompt += self._developer
                text = _instructions(text)
            case Reasoning(text):
                prompt += self._analysis
            case AssistantText(text, channel):
                prompt += self._said[channel]
            case Call(name, text):
                prompt += self._assistant
                prompt += self.vocabulary.encode(f" to=functions.{word(name)}")
                prompt += self._call
                end = CALL
            case ToolResult(name, text):
                prompt.append(START)
                prompt += self.vocabulary.encode(f"functions.{word(name)}")
                prompt += self._result
        self._append_text(prompt, text, max_tokens)
        prompt.append(end)

    def _append_text(self, prompt: list[int], text: str, max_tokens: int | None) -> None:
        if len(text) < MIN_CACHED_CHARS:
            prompt += self.vocabulary.encode(text)
            return
        tokens: Sequence[int] | None = self._texts.get(text)
        if tokens is None:
            room = None if max_tokens is None else max(max_tokens - len(prompt), 0)
            tokens = self.vocabulary.encode(text, room)
            if room is None or len(tokens) <= room:
                self._texts.put(text, tokens, len(text))
        prompt += tokens

    def _developer_message(
        self, instructions: str, tools: tuple[Tool, ...], max_tokens: int | None
    ) -> Sequence[int]:
        key = _key(instructions, tools)
        tokens: Sequence[int] | None = self._developers.get(key) if key is not None else None
        if tokens is None:
            sections = [_instructions(instructions)] if instructions else []
            if tools:
                sections.append(tools_section(tools))
            text = self.vocabulary.encode("\n\n".join(sections), max_tokens)
            tokens = [*self._developer, *text, END]
            if key is not None and (max_tokens is None or len(text) <= max_tokens):
                self._developers.put(key, tokens, len(key))
        return tokens

    def _render_system_message(self, effort: Effort, date: str, has_tools: bool) -> array[int]:
        content = SystemContent.new().with_reasoning_effort(_EFFORTS[effort])
        message = Message.from_role_and_content(Role.SYSTEM, content.with_conversation_start_date(date))
        options = RenderOptions(conversation_has_function_tools=has_tools)
        return array("I", self.vocabulary.encoding.render(message, options))


def _instructions(text: str) -> str:
    return f"# Instructions\n\n{text}"


def _key(instructions: str, tools: tuple[Tool, ...]) -> bytes | None:
    """Returns what tells one developer message from another; None for what JSON cannot say."""
    try:
        return msgspec.json.encode([instructions, tools])
    except (OverflowError, RecursionError, TypeError, ValueError):
        return None


def _check_length(prompt: list[int], max_tokens: int | None) -> None:
    if max_tokens is not None and len(prompt) > max_tokens:
        raise PromptTooLongError(len(prompt), max_tokens)

"""Harmony on the client's side: render a conversation to token ids, and read the completion's ids back."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import openai_harmony as harmony

from serve_app.client.http import Model, ServiceError
from serve_app.harmony import vocabulary_file

# When the service does not say how long its context is.
DEFAULT_MAX_TOKENS = 1024


class Conversation:
    """A conversation with one model. A turn is `ask`, sending `request`, and `answer` with what came back."""

    def __init__(self, effort: str | None) -> None:
        vocabulary_file.install()
        self.encoding = harmony.load_harmony_encoding(harmony.HarmonyEncodingName.HARMONY_GPT_OSS)
        system = (
            harmony.SystemContent.new()
            .with_reasoning_effort(harmony.ReasoningEffort((effort or "medium").capitalize()))
            .with_conversation_start_date(datetime.now(UTC).date().isoformat())
        )
        self._messages = [harmony.Message.from_role_and_content(harmony.Role.SYSTEM, system)]

    def ask(self, prompt: str) -> list[int]:
        """Add the user's turn; return the prompt's token ids, up to where the assistant begins."""
        self._messages.append(harmony.Message.from_role_and_content(harmony.Role.USER, prompt))
        # Rendering leaves out the chain of thought of turns that have ended in an answer.
        conversation = harmony.Conversation.from_messages(self._messages)
        ids: list[int] = self.encoding.render_conversation_for_completion(
            conversation, harmony.Role.ASSISTANT
        )
        return ids

    def forget(self) -> None:
        """Take back the last `ask`: it got no answer."""
        self._messages.pop()

    def request(self, model: Model, prompt_ids: list[int], max_tokens: int | None) -> dict[str, Any]:
        """The body for /v1/completions."""
        if max_tokens is None:
            # The API's own default is 16 tokens.
            rest = (model.max_model_len or 0) - len(prompt_ids)
            max_tokens = rest if rest > 0 else DEFAULT_MAX_TOKENS
        return {
            "model": model.name,
            "prompt": prompt_ids,
            "max_tokens": max_tokens,
            "stop_token_ids": self._stop_ids,
            "skip_special_tokens": False,
            "return_token_ids": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def answer(self, token_ids: Sequence[int], text: str) -> list[harmony.Message]:
        """Add the assistant's turn and return its messages. The text serves where the service sent no ids."""
        ids = list(token_ids) or self.encoding.encode(text, allowed_special="all")
        try:
            messages: list[harmony.Message] = self.encoding.parse_messages_from_completion_tokens(
                ids, harmony.Role.ASSISTANT, strict=False
            )
        except harmony.HarmonyError as error:
            raise ServiceError(f"the completion is not valid harmony: {error}") from None
        self._messages += messages
        return messages

    @cached_property
    def _stop_ids(self) -> list[int]:
        return sorted(self.encoding.stop_tokens_for_assistant_actions())


def text_of(message: harmony.Message) -> str:
    """The text of a message."""
    return "".join(part.text for part in message.content if isinstance(part, harmony.TextContent))


def heading(message: harmony.Message) -> str:
    """A message's channel and recipient."""
    recipient = f" to {message.recipient}" if message.recipient else ""
    return f"{message.channel or 'no channel'}{recipient}"

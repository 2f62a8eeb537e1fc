"""What a streamed answer says, event by event. No input or output, and the caller brings the clock."""

from dataclasses import dataclass, field
from typing import Any, Literal

Event = dict[str, Any]
Kind = Literal["reasoning", "content", "tool"]


class StreamError(Exception):
    """The service reported an error inside a stream that had begun; the text is its message."""


@dataclass(frozen=True)
class Piece:
    """A part of the answer, of one kind."""

    kind: Kind
    text: str


@dataclass
class Answer:
    """An answer as far as it has arrived: `feed` it the events of a chat or completions stream in order.

    Times are the caller's, in seconds, all from one clock. `token_ids` fills where the request asked for ids.
    """

    started_s: float
    content: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None

    def feed(self, event: Event, now_s: float) -> list[Piece]:
        """Take in one event; return what it adds, in the order in which to show it."""
        if error := event.get("error"):
            raise StreamError(error_message({"error": error}) or str(error))
        self.usage = event.get("usage") or self.usage
        pieces: list[Piece] = []
        ids: list[int] = []
        for choice in event.get("choices") or []:
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            ids += choice.get("token_ids") or []
            pieces += _pieces(choice)
        if pieces or ids:
            self.first_token_s = now_s if self.first_token_s is None else self.first_token_s
            self.last_token_s = now_s
        self.token_ids += ids
        self.content += "".join(piece.text for piece in pieces if piece.kind == "content")
        return pieces

    @property
    def time_to_first_token_s(self) -> float | None:
        """From the request to the first token; the event that only opens the message does not count."""
        return None if self.first_token_s is None else self.first_token_s - self.started_s

    @property
    def tokens_per_s(self) -> float | None:
        """The pace after the first token; None when there was no second, or the service sent no usage."""
        num_tokens = (self.usage or {}).get("completion_tokens", 0)
        if self.first_token_s is None or self.last_token_s is None:
            return None
        duration_s = self.last_token_s - self.first_token_s
        return (num_tokens - 1) / duration_s if num_tokens > 1 and duration_s > 0 else None

    def summary(self) -> str:
        """One line: time to first token, pace, usage, and why the answer ended unless it just ended."""
        parts = []
        if self.time_to_first_token_s is not None:
            parts.append(f"first token after {self.time_to_first_token_s:.2f} s")
        if self.tokens_per_s is not None:
            parts.append(f"{self.tokens_per_s:.1f} tokens/s")
        if self.usage is not None:
            details = self.usage.get("prompt_tokens_details") or {}
            cached = f" ({details['cached_tokens']} cached)" if details.get("cached_tokens") else ""
            prompt, completion = self.usage.get("prompt_tokens"), self.usage.get("completion_tokens")
            parts.append(f"{prompt} prompt tokens{cached}, {completion} completion tokens")
        if self.finish_reason not in (None, "stop"):
            parts.append(f"finish reason: {self.finish_reason}")
        return ", ".join(parts) or "no tokens"


def error_message(body: object) -> str | None:
    """The message of an OpenAI error body, on one line; None when the body is not one."""
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return " ".join(message.split()) if isinstance(message, str) else None


def _pieces(choice: Event) -> list[Piece]:
    delta = choice.get("delta") or {}
    pieces: list[Piece] = []
    # Servers name the chain of thought either way; one that sends both means the same text.
    if reasoning := delta.get("reasoning") or delta.get("reasoning_content"):
        pieces.append(Piece("reasoning", reasoning))
    if content := delta.get("content") or choice.get("text"):
        pieces.append(Piece("content", content))
    for call in delta.get("tool_calls") or []:
        function = call.get("function") or {}
        # The name comes once, at the start of a call; the arguments follow in parts.
        name = f"\ncall {function['name']} " if function.get("name") else ""
        if text := name + (function.get("arguments") or ""):
            pieces.append(Piece("tool", text))
    return pieces

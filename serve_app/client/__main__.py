"""Talk to the service: `python -m serve_app.client [--prompt TEXT]`.

Waits until the service is ready, then streams answers, with the chain of thought dimmed. Without --prompt it
reads the prompt from a pipe, or holds a conversation on a terminal. --harmony goes under the chat API: it
renders the prompt and reads the completion with openai-harmony, and shows both as they are sent.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

from serve_app.client.display import Display
from serve_app.client.http import Model, Service, ServiceError
from serve_app.client.stream import Answer, Kind, Piece, StreamError

Ask = Callable[[str], None]
INTERRUPTED = 130


class Chat:
    """A conversation over /v1/chat/completions."""

    def __init__(self, service: Service, model: Model, display: Display, options: argparse.Namespace) -> None:
        self._service, self._model, self._display = service, model, display
        self._messages: list[dict[str, str]] = []
        wanted = {"reasoning_effort": options.effort, "max_completion_tokens": options.max_tokens}
        self._options = {name: value for name, value in wanted.items() if value is not None}

    def ask(self, prompt: str) -> None:
        """Stream the answer; a turn without an answer is not remembered."""
        question = {"role": "user", "content": prompt}
        body: dict[str, Any] = {
            "model": self._model.name,
            "messages": [*self._messages, question],
            "stream": True,
            "stream_options": {"include_usage": True},
            **self._options,
        }
        answer = Answer(time.monotonic())
        with closing(self._service.events("/v1/chat/completions", body)) as events:
            for event in events:
                for piece in answer.feed(event, time.monotonic()):
                    self._display.piece(piece)
        self._display.note(answer.summary())
        self._messages += [question, {"role": "assistant", "content": answer.content}]


class Harmony:
    """A conversation over /v1/completions, rendered and read here."""

    def __init__(self, service: Service, model: Model, display: Display, options: argparse.Namespace) -> None:
        # Late: the vocabulary takes a second to load, and only this needs it.
        from serve_app.client import harmony

        self._service, self._model, self._display = service, model, display
        self._conversation = harmony.Conversation(options.effort)
        self._max_tokens: int | None = options.max_tokens
        self._heading, self._text_of = harmony.heading, harmony.text_of

    def ask(self, prompt: str) -> None:
        """Show the prompt and the completion as they are sent, then the completion's messages."""
        ids = self._conversation.ask(prompt)
        try:
            answer = self._stream(ids)
            messages = self._conversation.answer(answer.token_ids, answer.content)
        except BaseException:
            self._conversation.forget()
            raise
        for message in messages:
            self._display.note(f"{self._heading(message)}:", style="bold")
            kind: Kind = "content" if message.channel == "final" else "reasoning"
            self._display.piece(Piece(kind, self._text_of(message)))
        self._display.note(answer.summary())

    def _stream(self, ids: list[int]) -> Answer:
        decode = self._conversation.encoding.decode
        self._display.note(f"prompt, {len(ids)} tokens:", style="bold")
        self._display.wire(decode(ids))
        self._display.note("completion:", style="bold")
        body = self._conversation.request(self._model, ids, self._max_tokens)
        answer, shown = Answer(time.monotonic()), 0
        with closing(self._service.events("/v1/completions", body)) as events:
            for event in events:
                answer.feed(event, time.monotonic())
                # A character of several tokens is not shown before its last one.
                text = (decode(answer.token_ids) if answer.token_ids else answer.content).rstrip("\ufffd")
                self._display.wire(text[shown:], end="")
                shown = max(shown, len(text))
        self._display.wire("")
        return answer


def converse(ask: Ask, display: Display) -> None:
    """Prompts from the terminal until end of file. Ctrl-C ends an answer, or between answers this."""
    import readline  # noqa: F401 - gives input() line editing and history

    display.note("Ctrl-D ends the conversation, Ctrl-C an answer.")
    while True:
        try:
            prompt = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            display.around.print()
            return
        try:
            if prompt:
                ask(prompt)
        except KeyboardInterrupt:
            display.note("stopped")
        except (ServiceError, StreamError) as error:
            display.note(f"error: {error}", style="red")


def run(options: argparse.Namespace, display: Display) -> None:
    """Wait for the service, then answer what was asked."""
    with closing(Service(options.url, options.timeout)) as service:
        with display.waiting(service.url) as show:
            service.wait_until_ready(show)
        kind = Harmony if options.harmony else Chat
        ask = kind(service, service.model(options.model), display, options).ask
        if options.prompt is not None:
            ask(options.prompt)
        elif sys.stdin.isatty():
            converse(ask, display)
        else:
            ask(sys.stdin.buffer.read().decode(errors="replace").strip())


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m serve_app.client", description="Talk to the service.")
    result.add_argument("--url", default="http://127.0.0.1:8000", help="of the service, with or without /v1")
    result.add_argument("--prompt", help="ask this and end; default: a pipe's text, or a conversation")
    result.add_argument("--effort", choices=("low", "medium", "high"), help="reasoning effort")
    result.add_argument("--harmony", action="store_true", help="render and parse here; show what is sent")
    result.add_argument("--model", help="default: the first that is served")
    result.add_argument("--max-tokens", type=int, help="of the chain of thought and the answer together")
    result.add_argument("--timeout", type=float, default=600, help="seconds to wait for the service [600]")
    return result


def main(arguments: Sequence[str] | None = None, display: Display | None = None) -> int:
    """Return the exit status: 1 after an error, 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    display = display or Display()
    try:
        run(options, display)
    except (ServiceError, StreamError) as error:
        display.note(f"error: {error}", style="red")
        return 1
    except KeyboardInterrupt:
        display.note("stopped")
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())

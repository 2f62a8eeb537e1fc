"""What the client shows.

The answer goes to standard output and everything around it to standard error, so that a pipe gets the answer
alone and a terminal shows both in order.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from serve_app.client.stream import Kind, Piece

SPECIAL_TOKEN = re.compile(r"<\|[a-z_]+\|>")
# A model's text must not steer the terminal: of the control characters only tab and newline go through.
PICTURES = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {0x7F: 0x2421}
PICTURES |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


class Display:
    """A person's terminal, or two pipes."""

    def __init__(self, out: Console | None = None, around: Console | None = None) -> None:
        self.out = out or Console(highlight=False, soft_wrap=True)
        self.around = around or Console(stderr=True, highlight=False, soft_wrap=True)
        self._kind: Kind | None = None

    def note(self, text: str, style: str = "dim") -> None:
        """A line about the answer, or in its place."""
        self.end_answer()
        self.around.print(Text(text.translate(PICTURES), style=style))

    @contextmanager
    def waiting(self, url: str) -> Iterator[Callable[[float, str], None]]:
        """Progress while the service is not ready; without a terminal, a line whenever the reason changes."""
        last_reason = ""
        started_s = time.monotonic()
        with self.around.status(f"waiting for {url}") as status:

            def show(elapsed_s: float, reason: str) -> None:
                nonlocal last_reason
                if self.around.is_terminal:
                    status.update(Text(f"waiting for {url}: {elapsed_s:.0f} s, {reason}".translate(PICTURES)))
                elif reason != last_reason:
                    self.note(f"waiting for {url}: {reason}")
                last_reason = reason

            yield show
        if last_reason:
            self.note(f"{url} is ready after {time.monotonic() - started_s:.0f} s")

    def piece(self, piece: Piece) -> None:
        """The next part of the answer: chain of thought dimmed, calls coloured, the answer plain."""
        if self._kind not in (None, piece.kind):
            self.end_answer()
        self._kind = piece.kind
        if piece.kind == "content":
            # Not by `print`, which would make spaces of tabs: a pipe gets every character as it is.
            self.out.file.write(piece.text.translate(PICTURES) if self.out.is_terminal else piece.text)
            self.out.file.flush()
        else:
            style = "dim" if piece.kind == "reasoning" else "cyan"
            self.around.print(Text(piece.text.translate(PICTURES), style=style), end="")

    def end_answer(self) -> None:
        """End the line that the last part left open."""
        if self._kind is not None:
            (self.out if self._kind == "content" else self.around).print()
        self._kind = None

    def wire(self, text: str, end: str = "\n") -> None:
        """Harmony as it is sent, with its special tokens highlighted."""
        shown = Text(text.translate(PICTURES))
        shown.highlight_regex(SPECIAL_TOKEN, "bold magenta")
        self.around.print(shown, end=end)

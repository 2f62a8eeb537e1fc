"""Which turns of a conversation the model sees again, and on which channel."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.harmony.conversation import AssistantText, Call, Instructions, Reasoning, Turn


def remembered(turns: Sequence[Turn]) -> list[Turn]:
    """Returns the turns as the model was trained to see them.

    Chain of thought is kept since the last text on `final`; what is older has led to its answer. The model
    says nothing more behind a text on `final`, so one that a call follows was a preamble. What has no text
    is left out, except what the user or a function says, and calls.
    """
    kept: list[Turn] = []
    is_answered = is_call_behind = False
    # From the end, since what follows a turn decides about it.
    for turn in reversed(turns):
        if isinstance(turn, Reasoning | AssistantText | Instructions) and not turn.text:
            continue
        match turn:
            case Reasoning():
                if is_answered:
                    continue
            case Call():
                is_call_behind = True
            case AssistantText(text=text, channel="final"):
                if is_call_behind:
                    turn = AssistantText(text, "commentary")
                else:
                    is_answered = True
            case AssistantText():
                pass
            case _:
                is_call_behind = False
        kept.append(turn)
    kept.reverse()
    return kept

import random
from typing import Any

import msgspec
import pytest
from msgspec.msgpack import encode

from serve_app.errors import TokensLostError
from serve_app.transport.frames import Frame, FrameHeader, ReceivedTokens, decode_header, encode_header

Tokens = list[int]


def join(first: Tokens, second: Tokens) -> Tokens | None:
    """Merges, except what ends with a 0."""
    return None if first[-1:] == [0] else first + second


def frame_of(*steps: tuple[int, int, Tokens]) -> Frame[Tokens]:
    frame: Frame[Tokens] = Frame(join)
    for sequence, position, tokens in steps:
        frame.add(sequence, position, tokens, len(tokens))
    return frame


def test_an_empty_frame_is_false() -> None:
    assert not Frame(join)
    assert frame_of((1, 0, [5]))


def test_outputs_of_different_requests_stay_apart() -> None:
    frame = frame_of((7, 0, [1]), (3, 40, [2, 3]))
    assert (frame.header.sequences, frame.header.positions) == ([7, 3], [0, 40])
    assert frame.outputs == [[1], [2, 3]]
    assert frame.num_tokens == 3


def test_outputs_of_one_request_are_merged_at_the_position_of_the_first() -> None:
    frame = frame_of((7, 10, [1, 2]), (8, 0, [9]), (7, 12, [3]))
    assert (frame.header.sequences, frame.header.positions) == ([7, 8], [10, 0])
    assert frame.outputs == [[1, 2, 3], [9]]
    assert frame.num_tokens == 4


def test_what_cannot_be_merged_follows() -> None:
    frame = frame_of((7, 0, [1, 0]), (7, 2, [3]), (7, 3, [4]))
    assert (frame.header.sequences, frame.header.positions) == ([7, 7], [0, 2])
    assert frame.outputs == [[1, 0], [3, 4]]


def test_only_what_continues_is_merged() -> None:
    frame = frame_of((7, 0, [1]), (7, 0, [1]), (7, 1, [2]), (7, 5, [6]))
    assert (frame.header.positions, frame.outputs) == ([0, 0, 5], [[1], [1, 2], [6]])


def test_headers_round_trip() -> None:
    header = FrameHeader([1, 2**40], [0, 131071])
    assert decode_header(memoryview(encode_header(header))) == header


@pytest.mark.parametrize(
    "content",
    [b"", b"\xc1", encode([[1], [2, 3]]), encode([[1]]), encode(["a", []]), encode({"sequences": []})],
)
def test_other_headers_are_refused(content: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_header(content)


# --- received tokens -----------------------------------------------------------------------------------

STEPS = [(0, 1), (1, 3), (4, 0), (4, 2), (6, 1)]


def accepted(steps: list[tuple[int, int]]) -> list[bool]:
    received = ReceivedTokens()
    return [received.accept(*step) for step in steps]


def test_steps_in_order() -> None:
    assert accepted(STEPS) == [True] * len(STEPS)


def test_repeated_steps_are_left_out() -> None:
    assert accepted([(0, 2), (0, 2), (2, 1), (0, 2), (2, 1), (3, 1)]) == [
        True,
        False,
        True,
        False,
        False,
        True,
    ]


def test_an_earlier_part_is_here_already() -> None:
    assert accepted([(0, 6), (2, 3), (0, 6), (6, 1)]) == [True, False, False, True]


@pytest.mark.parametrize("steps", [[(1, 1)], [(0, 2), (3, 1)], [(0, 2), (1, 3)]])
def test_a_gap_or_an_overlap_is_an_error(steps: list[tuple[int, int]]) -> None:
    received = ReceivedTokens()
    for step in steps[:-1]:
        assert received.accept(*step)
    with pytest.raises(TokensLostError, match="can be sent again"):
        received.accept(*steps[-1])


def test_whatever_the_network_does_the_text_is_right_or_there_is_an_error() -> None:
    rng = random.Random(4)
    outcomes: dict[Any, int] = {}
    for _ in range(2000):
        answer = [rng.randrange(100) for _ in range(rng.randrange(1, 30))]
        cuts = sorted(rng.sample(range(1, len(answer)), min(len(answer) - 1, rng.randrange(6))))
        parts = [(a, answer[a:b]) for a, b in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
        mishap = rng.choice(["none", "lost", "repeated", "swapped", "late"])
        index = rng.randrange(len(parts))
        if mishap == "lost":
            del parts[index]
        elif mishap == "repeated":
            parts.insert(rng.randrange(index, len(parts)) + 1, parts[index])
        elif mishap == "swapped":
            other = rng.randrange(len(parts))
            parts[index], parts[other] = parts[other], parts[index]
        elif mishap == "late":
            parts.append(parts.pop(index))
        received, text = ReceivedTokens(), []
        try:
            for position, tokens in parts:
                if received.accept(position, len(tokens)):
                    text += tokens
        except TokensLostError:
            outcome = "error"
        else:
            # The reply to the call says how many there are.
            outcome = "whole" if received.num_tokens == len(answer) else "short"
            assert text == answer[: len(text)]
            if outcome == "whole":
                assert text == answer
        if mishap in ("none", "repeated"):
            assert outcome == "whole"
        outcomes[mishap, outcome] = outcomes.get((mishap, outcome), 0) + 1
    assert outcomes["lost", "error"] > 20
    assert outcomes["lost", "short"] > 20
    assert outcomes["swapped", "error"] > 20
    assert outcomes["late", "error"] > 20

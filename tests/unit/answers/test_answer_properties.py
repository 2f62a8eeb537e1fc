"""What holds of any answer: random tokens, many of them special or words of headers, in random batches."""

from __future__ import annotations

from typing import Literal

from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from serve_app.answers.answer import AnswerReader
from serve_app.answers.items import Finish, TokenLogprob
from serve_app.answers.offer import Offer
from serve_app.answers.repairs import KINDS, Repair
from serve_app.harmony.slips import Slip
from serve_app.harmony.tokens import CALL, ENDOFTEXT, FIRST_SPECIAL, RETURN, Vocabulary
from tests.examples import examples
from tests.unit.answers.folding import Answer, read, read_by, tokens_of

ENDS = ("<|end|>", "<|return|>", "<|call|>", "<|endoftext|>")
# Tokens that the vocabulary does not have, and special ones without a meaning in harmony.
ODD_TOKENS = (-1, 199998, 200000, 200017, 201087, 201088, 10**9)
STOPS = ("STOP", "ab", "abc", "bcd", "\n\n", ".", "é", " the", "\ufffd", "Hi there", "aa", "aab")
HEADERS = (
    "<|channel|>analysis<|message|>",
    "<|channel|>final<|message|>",
    "<|channel|>final json<|message|>",
    "<|channel|>commentary<|message|>",
    "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>",
    " to=functions.shell<|channel|>analysis<|message|>",
    "<|channel|>commentary to=browser.search code<|message|>",
    "<|channel|>commentary to=functions.secret<|message|>",
)
WORDS = (
    *("assistant", "user", "system", "tool", "analysis", "final", " final", "commentary?", "fin", " json"),
    *(" to=", "to=functions.weather", " to=weather", " weather", "functions.weather", " to=assistant"),
    *(" ", "\n", "Hi", " there", "Sorry, no.", "{}", '{"city": "Oslo"}', "STOP", "ST", "a", "ab", "bc", "d"),
    *("\n\n", "é", "漢字", "🙂", "\ufffd", " the end"),
)
OFFERS = (
    Offer(),
    Offer(tools=frozenset({"weather", "shell"})),
    Offer(tools=frozenset({"weather", "json", "final"}), forbidden_tools=frozenset({"secret", "shell"})),
    Offer(tools=frozenset({"weather", "shell"}), is_parallel=False),
    Offer(tools=frozenset({"weather"}), is_continued=True),
)
NUM_EXAMPLES = 500
Reason = Literal["stop", "length"]


def _pieces() -> st.SearchStrategy[list[int]]:
    """A stretch of tokens: a message more or less as it should be, a word, or something wrong."""
    vocabulary = Vocabulary.load()
    words = st.sampled_from(WORDS).map(vocabulary.encode)
    special = st.sampled_from(("<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", *ENDS)).map(
        tokens_of
    )
    heads = st.sampled_from(HEADERS).map(lambda header: tokens_of("<|start|>assistant" + header))
    # The bytes of the characters, each a token of its own: half a character is likely.
    cut = st.sampled_from(("é", "漢", "🙂")).map(
        lambda text: [vocabulary.token_bytes.index(bytes([byte])) for byte in text.encode()]
    )
    halves = st.tuples(cut, st.integers(1, 3)).map(lambda pair: pair[0][: pair[1]])
    odd = st.sampled_from(ODD_TOKENS).map(lambda token: [token])
    return st.one_of(words, words, words, special, special, heads, cut, halves, odd)


ANSWERS = st.tuples(st.booleans(), st.sampled_from(HEADERS), st.lists(_pieces(), max_size=20)).map(
    lambda drawn: [
        *(tokens_of(drawn[1]) if drawn[0] else []),
        *(token for piece in drawn[2] for token in piece),
    ]
)
OFFERED = st.sampled_from(OFFERS)
REASONS = st.sampled_from(("stop", "length"))
BATCHES = st.lists(st.integers(1, 7), min_size=1, max_size=10)
any_answer = examples(NUM_EXAMPLES, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


def spelled(answer: list[int]) -> list[TokenLogprob]:
    """A log probability for each token that tells where it stands."""
    return [TokenLogprob(token, -position) for position, token in enumerate(answer)]


def stopped(offer: Offer, stop: list[str], keeps: bool = False) -> Offer:
    return Offer(
        offer.tools, offer.forbidden_tools, offer.is_parallel, tuple(stop), keeps, offer.is_continued
    )


@any_answer
@given(ANSWERS, OFFERED, REASONS)
def test_any_tokens_are_an_answer(tokens: list[int], offer: Offer, reason: Reason) -> None:
    reader = AnswerReader(offer, Vocabulary.load())
    answer = read_by(reader, tokens, reason, batches=len(tokens) or 1)
    assert set(reader.repairs) <= set(KINDS)
    _check_items(answer, offer, reader)
    _check_finish(answer, reason)
    assert answer.end.completion_tokens == len(tokens)
    assert 0 <= answer.end.reasoning_tokens <= len(tokens)
    assert (answer.end.reasoning_tokens > 0) >= any(item.kind == "reasoning" for item in answer.items)


def _check_items(answer: Answer, offer: Offer, reader: AnswerReader) -> None:
    calls = [item for item in answer.items if item.kind == "call"]
    for item in answer.items:
        # Nothing that ordinary tokens say here looks like this.
        assert "<|" not in item.text
        assert item.text or item.kind == "call"
        assert item.name not in offer.forbidden_tools
    unoffered = [item for item in calls if item.name not in offer.tools]
    assert len(unoffered) == reader.repairs[Repair.UNOFFERED_CALL_PASSED]
    assert offer.tools or not calls
    assert offer.is_parallel or len(calls) <= 1


def _check_finish(answer: Answer, reason: Reason) -> None:
    # Only the last item can be cut.
    assert all(item.is_complete for item in answer.items[:-1])
    is_cut = bool(answer.items) and not answer.items[-1].is_complete
    calls = [item.is_complete for item in answer.items if item.kind == "call"]
    if reason == "length" or is_cut:
        assert answer.end.finish is Finish.LENGTH
        assert reason == "length" or not calls[-1]
    else:
        assert answer.end.finish is (Finish.CALLS if calls else Finish.STOP)


@any_answer
@given(ANSWERS, OFFERED, REASONS, BATCHES, st.lists(st.sampled_from(STOPS), max_size=3), st.booleans())
def test_batches_change_nothing(
    tokens: list[int], offer: Offer, reason: Reason, batches: list[int], stop: list[str], keeps: bool
) -> None:
    offer = stopped(offer, stop, keeps)
    logprobs = spelled(tokens)
    results = []
    for sizes, given_logprobs in (
        ([1], None),
        (batches, None),
        ([1000], None),
        ([1], logprobs),
        (batches, logprobs),
    ):
        reader = AnswerReader(offer, Vocabulary.load())
        answer = read_by(reader, tokens, reason, sizes, given_logprobs)
        results.append((answer, reader.repairs))
    by_one, *others = results[:3]
    assert all(other == by_one for other in others)
    assert results[3] == results[4]
    # Log probabilities go along and change nothing.
    assert results[3][0].end == by_one[0].end
    assert results[3][0].short == by_one[0].short


@any_answer
@given(ANSWERS, OFFERED, REASONS, st.lists(st.sampled_from(STOPS), max_size=2))
def test_log_probabilities_are_those_of_the_content(
    tokens: list[int], offer: Offer, reason: Reason, stop: list[str]
) -> None:
    reader = AnswerReader(stopped(offer, stop), Vocabulary.load())
    answer = read_by(reader, tokens, reason, 3, spelled(tokens))
    positions = [-logprob.logprob for item in answer.items for logprob in item.logprobs]
    assert positions == sorted(set(positions))
    for item in answer.items:
        ids = [logprob.token_id for logprob in item.logprobs]
        if item.kind in ("reasoning", "call"):
            assert ids == []
            continue
        assert all(0 <= token < FIRST_SPECIAL for token in ids)
        said = b"".join(map(Vocabulary.load().bytes_of, ids)).decode(errors="replace")
        if answer.end.stop_string is None and not reader.repairs[Slip.TEXT_IN_HEADER]:
            assert said == item.text
        elif not reader.repairs[Slip.TEXT_IN_HEADER]:
            assert said.startswith(item.text)


@any_answer
@given(ANSWERS, OFFERED, REASONS, st.lists(st.sampled_from(STOPS), min_size=1, max_size=4), st.booleans())
def test_stop_strings_cut_where_they_begin(
    tokens: list[int], offer: Offer, reason: Reason, stop: list[str], keeps: bool
) -> None:
    whole, cut = read(tokens, offer, reason, 3), read(tokens, stopped(offer, stop, keeps), reason, 3)
    expected: list[tuple[str, str]] = []
    found: tuple[int, int, str] | None = None
    for item in whole.items:
        text = item.text
        if item.kind in ("commentary", "final"):
            starts = [(text.find(string), len(string), string) for string in stop if string in text]
            found = min(starts, default=None)
        if found is not None:
            text = text[: found[0] + found[1] * keeps]
        if text or item.kind == "call":
            expected.append((item.name or item.kind, text))
        if found is not None:
            break
    assert cut.short == expected
    assert cut.end.stop_string == (found[2] if found else None)
    if found is None:
        assert cut.end == whole.end
    else:
        assert all(item.is_complete for item in cut.items)
        calls = any(item.kind == "call" for item in cut.items)
        assert cut.end.finish is (Finish.CALLS if calls else Finish.STOP)
        assert cut.end.completion_tokens <= len(tokens)


@any_answer
@given(
    st.lists(st.one_of(st.sampled_from(WORDS).map(lambda word: Vocabulary.load().encode(word)), _pieces())),
    st.lists(st.sampled_from(STOPS), min_size=1, max_size=3),
)
def test_a_stop_string_counts_tokens_up_to_its_last(pieces: list[list[int]], stop: list[str]) -> None:
    tokens = [token for piece in pieces for token in piece if 0 <= token < FIRST_SPECIAL]
    end = read(tokens, Offer(is_continued=True, stop=tuple(stop)), "length", 4).end
    if end.stop_string is None or "\ufffd" in end.stop_string:
        return
    # One token less does not complete it.
    for num_tokens, is_found in ((end.completion_tokens, True), (end.completion_tokens - 1, False)):
        text = read(tokens[:num_tokens], Offer(is_continued=True), "length").content
        assert (end.stop_string in text) is is_found


@any_answer
@given(ANSWERS, OFFERED, st.lists(_pieces(), max_size=4))
def test_nothing_counts_behind_the_end(tokens: list[int], offer: Offer, rest: list[list[int]]) -> None:
    late = [token for piece in rest for token in piece]
    for last in (RETURN, CALL, ENDOFTEXT):
        answer = read([*tokens, last], offer)
        longer = read([*tokens, last, *late], offer)
        assert longer.items == answer.items
        assert longer.end.completion_tokens == len(tokens) + 1 + len(late)
        assert longer.end.reasoning_tokens == answer.end.reasoning_tokens

"""Answers as models have given them, and what a client should see of each."""

from __future__ import annotations

import pytest

from serve_app.answers.answer import AnswerReader
from serve_app.answers.items import AnswerEnded, Delta, Finish, ItemEnded, TextBegan, TokenLogprob
from serve_app.answers.offer import Offer
from serve_app.answers.repairs import Repair
from serve_app.harmony.slips import Slip
from serve_app.harmony.tokens import END, Vocabulary
from tests.unit.answers.folding import read, read_by, tokens_of

TOOLS = Offer(tools=frozenset({"weather", "shell"}))
OSLO = '{"city": "Oslo"}'
THINK = "<|channel|>analysis<|message|>Think.<|end|>"
ASSISTANT = "<|start|>assistant"
FINAL = f"{ASSISTANT}<|channel|>final<|message|>Hi<|return|>"
CALL_HEADER = f"{ASSISTANT}<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"
HI = ("final", "Hi")
WEATHER = ("weather", OSLO)


def shown(answer: str, offer: Offer = TOOLS) -> list[tuple[str, str]]:
    """What is shown of an answer behind its first thought."""
    read_one = read(answer, offer, batches=1)
    assert read(answer, offer, batches=1000) == read_one
    assert read_one.short[0] == ("reasoning", "Think.")
    assert all(item.is_complete for item in read_one.items)
    return read_one.short[1:]


@pytest.mark.parametrize(
    ("rest", "items"),
    [
        ("<|return|>", []),
        ("Hello there<|return|>", [("final", "Hello there")]),
        (f"\n{FINAL}", [HI]),
        (f" \n\n\u3000{FINAL}", [HI]),
        (f"<|end|>{FINAL}", [HI]),
        (f"<|constrain|><|end|><|end|>{FINAL}", [HI]),
        ("<|channel|>final<|message|>Hi<|return|>", [HI]),
        ("<|message|>Hi<|return|>", [HI]),
        ("\n<|message|>Hi<|return|>", [HI]),
        (f"{OSLO}<|return|>", [("final", OSLO)]),
        (f"{FINAL}more and more", [HI]),
        (f"{FINAL}{FINAL}", [HI]),
        (f"{ASSISTANT}<|channel|>final<|message|>Hi<|endoftext|>{THINK}", [HI]),
        (f" well {FINAL}", [("final", " well "), HI]),
        ("well<|message|>Hi<|return|>", [("final", "well"), HI]),
        ("well<|channel|>final<|message|>Hi<|return|>", [("final", "well"), HI]),
        # The words of a header are missing their <|start|>.
        ("assistant<|channel|>final<|message|>Hi<|return|>", [HI]),
        ("\nassistantfinal<|message|>Hi<|return|>", [HI]),
        ("final answer: 3<|return|>", [("final", "final answer: 3")]),
        ("final<|return|>", []),
    ],
)
def test_what_stands_between_messages(rest: str, items: list[tuple[str, str]]) -> None:
    assert shown(THINK + rest) == items


@pytest.mark.parametrize(
    ("rest", "items"),
    [
        (f"{ASSISTANT}<|channel|>final<|channel|>final<|message|>Hi<|return|>", [HI]),
        (f"<|start|>{FINAL}", [HI]),
        (f"{ASSISTANT}{FINAL}", [HI]),
        (f"{ASSISTANT} hm to=functions.shell{FINAL}", [HI]),
        (f"{ASSISTANT}final<|message|>Hi<|return|>", [HI]),
        (f"{ASSISTANT} final json<|message|>Hi<|return|>", [HI]),
        ("<|start|>final<|message|>Hi<|return|>", [HI]),
        ("<|start|>nobody<|channel|>final<|message|>Hi<|return|>", [HI]),
        (f"{ASSISTANT}<|channel|> final<|message|>Hi<|return|>", [HI]),
        (f"{ASSISTANT}<|channel|><|message|>Hi<|return|>", [HI]),
        (f"{ASSISTANT}<|message|>Hi<|return|>", [HI]),
        (f"{ASSISTANT}<|channel|>comment<|message|>Hm<|end|>{FINAL}", [("final", "Hm"), HI]),
        (f"{ASSISTANT}<|channel|>commentary?<|message|>Hm<|end|>{FINAL}", [("commentary", "Hm"), HI]),
        (f"{ASSISTANT} analysis<|message|>More<|end|>{FINAL}", [("reasoning", "More"), HI]),
        (f"{ASSISTANT}<|channel|>commentary json to=functions.weather<|message|>{OSLO}<|call|>", [WEATHER]),
        (f"{ASSISTANT}<|channel|>analysis to=weather <|constrain|> json<|message|>{OSLO}<|call|>", [WEATHER]),
        (f"{ASSISTANT} to=weather<|channel|>commentary to=shell<|message|>{{}}<|call|>", [("shell", "{}")]),
        (f"{ASSISTANT} to=functions.weather<|channel|>analysis to=x<|message|>{OSLO}<|call|>", [WEATHER]),
    ],
)
def test_headers_are_read_by_their_words(rest: str, items: list[tuple[str, str]]) -> None:
    assert shown(THINK + rest) == items


@pytest.mark.parametrize(
    ("header", "items"),
    [
        ("final json", [("final", OSLO)]),
        ("commentary json", [("commentary", OSLO)]),
        ("analysis code", [("reasoning", OSLO)]),
        ("commentary weather", [WEATHER]),
        ("commentary functions.weather json", [WEATHER]),
        ("commentary to=shell weather", [("shell", OSLO)]),
        ("commentary we use weather", [("commentary", OSLO)]),
    ],
)
def test_a_lone_word_is_a_content_type_or_an_offered_tool(header: str, items: list[tuple[str, str]]) -> None:
    assert shown(f"{THINK}{ASSISTANT}<|channel|>{header}<|message|>{OSLO}<|call|>") == items


def test_words_of_headers_win_over_names_of_tools() -> None:
    offer = Offer(tools=frozenset({"final", "json"}))
    assert shown(THINK + FINAL, offer) == [HI]
    for header, name in (
        ("commentary to=functions.final", "final"),
        ("commentary to=final", "final"),
        ("commentary to=functions.json", "json"),
        ("commentary json", "json"),
    ):
        answer = read(f"{ASSISTANT}<|channel|>{header}<|message|>{OSLO}<|call|>", offer)
        assert [(item.kind, item.name) for item in answer.items] == [("call", name)]


@pytest.mark.parametrize(
    "recipient",
    [
        "functions.weather<|channel|>commentary json",
        "functions.weather<|channel|>commentary<|channel|>commentary json",
        "functions.weatherjson",
        "functions.weathercommentary",
        "functions.weathercommentaryjson",
        "functions.functions.weather",
        "weather",
        "weather.",
        " functions.weather",
        '"functions.weather"',
        "functions.weather<|constrain|>json",
        "functions.weather json",
    ],
)
@pytest.mark.parametrize("channel", ["commentary", "analysis", "final", ""])
def test_a_call_is_of_the_tool_that_is_meant(recipient: str, channel: str) -> None:
    header = f"{ASSISTANT}<|channel|>{channel} to={recipient}"
    assert shown(f"{THINK}{header}<|message|>{OSLO}<|call|>") == [WEATHER]


def test_markers_that_are_spelled_as_text_are_taken_off_a_name() -> None:
    vocabulary = Vocabulary.load()
    tokens = tokens_of("<|channel|>commentary to=functions.weather")
    tokens += [*vocabulary.encode("<|constrain|>json"), *tokens_of(f"<|message|>{OSLO}<|call|>")]
    assert read(tokens, TOOLS).short == [WEATHER]


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("commentary to=browser.search code", "browser.search"),
        ("analysis to=python code", "python"),
        ("commentary to=container.exec code", "container.exec"),
        ("commentary to=repo_browser.open_file code", "repo_browser.open_file"),
        ("commentary to=functions.nothing", "nothing"),
        ("to=functions.weather_code", "weather_code"),
    ],
)
def test_a_call_that_was_not_offered(header: str, name: str) -> None:
    answer = f"{THINK}{ASSISTANT}<|channel|>{header}<|message|>x<|call|>"
    assert shown(answer) == [(name, "x")]
    assert read(answer, TOOLS).end.finish is Finish.CALLS
    reader = AnswerReader(Offer(), Vocabulary.load())
    without_tools = read_by(reader, answer)
    assert without_tools.short == [("reasoning", "Think.")]
    assert without_tools.end.finish is Finish.STOP
    assert reader.repairs == {Repair.UNOFFERED_CALL_DROPPED: 1} | (
        {} if "commentary" in header or "analysis" in header else {Slip.NO_CHANNEL: 1}
    )


def test_an_own_function_with_the_name_of_a_built_in_tool() -> None:
    answer = f"{THINK}{ASSISTANT}<|channel|>analysis to=python code<|message|>print(1)<|call|>"
    assert shown(answer, Offer(tools=frozenset({"python"}))) == [("python", "print(1)")]


@pytest.mark.parametrize("recipient", ["user", "assistant", "all"])
def test_a_text_for_the_client(recipient: str) -> None:
    for channel, kind in (("commentary", "commentary"), ("analysis", "reasoning"), ("final", "final")):
        answer = f"{THINK}{ASSISTANT}<|channel|>{channel} to={recipient}<|message|>x<|end|>"
        assert shown(answer) == [(kind, "x")]
    assert shown(f"{THINK}{ASSISTANT}<|channel|>final to=nobody<|message|>x<|return|>") == [("final", "x")]


def test_allowed_tools_and_parallel_calls() -> None:
    call = "<|start|>assistant<|channel|>commentary to=functions.{}<|message|>{}<|end|>"
    answer = THINK + call.format("shell", 1) + call.format("weather", 2) + call.format("weather", 3) + FINAL
    offer = Offer(tools=frozenset({"weather"}), forbidden_tools=frozenset({"shell"}))
    assert shown(answer, offer) == [("weather", "2"), ("weather", "3"), HI]
    one = Offer(offer.tools, offer.forbidden_tools, is_parallel=False)
    reader = AnswerReader(one, Vocabulary.load())
    assert read_by(reader, answer).short[1:] == [("weather", "2"), HI]
    assert reader.repairs == {Repair.FORBIDDEN_CALL_DROPPED: 1, Repair.PARALLEL_CALL_DROPPED: 1}


@pytest.mark.parametrize(
    ("author", "items"),
    [
        ("user", [HI]),
        ("system", [HI]),
        ("developer<|channel|>final", [HI]),
        ("tool", []),
        ("functions.weather to=assistant<|channel|>commentary", []),
        ("functions.weather<|channel|>commentary", []),
        ("weather to=assistant<|channel|>commentary", []),
        ("browser.search to=assistant<|channel|>analysis", []),
        ("python to=assistant<|channel|>analysis", []),
        ("nobody to=assistant<|channel|>final", [("final", "3 C"), HI]),
    ],
)
def test_messages_of_others_are_not_shown(author: str, items: list[tuple[str, str]]) -> None:
    call = f"{CALL_HEADER}{OSLO}<|end|>"
    answer = f"{THINK}{call}<|start|>{author}<|message|>3 C<|end|>{FINAL}"
    assert shown(answer) == [WEATHER, *items]
    end = read(answer, TOOLS).end
    assert end.finish is Finish.CALLS
    assert end.completion_tokens == len(tokens_of(answer))


@pytest.mark.parametrize(
    ("answer", "items"),
    [
        (f"{THINK}{ASSISTANT}<|channel|>final<|return|>", []),
        (f"{THINK}{ASSISTANT}<|channel|>final <|constrain|>json<|return|>", []),
        (f"{THINK}{ASSISTANT}<|channel|>commentary to=functions.weather<|call|>", []),
        (f"{THINK}{ASSISTANT}<|channel|>commentary weather<|call|>", []),
        (f"{THINK}{ASSISTANT} Sorry, no.<|return|>", [("final", "Sorry, no.")]),
        (f"{THINK}{ASSISTANT}Sorry, no.<|return|>", [("final", "Sorry, no.")]),
        (f"{THINK}{ASSISTANT}<|channel|>final Sorry, no.<|return|>", [("final", "Sorry, no.")]),
        (f"{THINK}{ASSISTANT}<|channel|>final Sorry, no.<|end|>{FINAL}", [HI]),
        (f"{THINK}{ASSISTANT} Sorry, no.<|end|>{FINAL}", [("final", "Sorry, no."), HI]),
        (f"{THINK}{ASSISTANT} Sorry,<|channel|>final no.<|return|>", [("final", "Sorry, no.")]),
        (
            f"{THINK}{ASSISTANT}<|channel|>final the  final\n answer <|return|>",
            [("final", "the  final\n answer")],
        ),
        (f"{THINK}<|start|>user Hm.<|return|>", []),
    ],
)
def test_headers_without_a_message(answer: str, items: list[tuple[str, str]]) -> None:
    assert shown(answer) == items


@pytest.mark.parametrize(
    ("answer", "items"),
    [
        ("<|return|>", []),
        ("Sorry, no.<|return|>", [("final", "Sorry, no.")]),
        (".<|return|>", [("final", ".")]),
        ("<|message|>Hi<|return|>", [HI]),
        ("tool use is not possible<|return|>", [("final", "tool use is not possible")]),
        (f".{THINK}{FINAL}", [("reasoning", "Think."), HI]),
        (f"The user wants to know.{THINK}{FINAL}", [("reasoning", "Think."), HI]),
        (f"They want what we must not give.<|end|>{THINK}{FINAL}", [
            ("final", "They want what we must not give."), ("reasoning", "Think."), HI,
        ]),
        (f"<|channel|>commentary?<|end|>{ASSISTANT}{THINK}{FINAL}", [("reasoning", "Think."), HI]),
        (f"<|channel|>??<|end|>{ASSISTANT}{THINK}{FINAL}", [("reasoning", "Think."), HI]),
        (
            f"<|channel|>commentary to=assistant<|channel|>commentary?<|end|>{ASSISTANT}{THINK}{FINAL}",
            [("reasoning", "Think."), HI],
        ),
    ],
)  # fmt: skip
def test_the_first_header(answer: str, items: list[tuple[str, str]]) -> None:
    assert read(answer, TOOLS).short == items


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "assi",
        "<|start|>",
        "<|start|>assi",
        f"{ASSISTANT} t",
        f"{ASSISTANT}<|channel|>fin",
        f"{ASSISTANT}<|channel|>commentary funct",
        f"{ASSISTANT}<|channel|>commentary to=functions.wea",
        f"{ASSISTANT}<|channel|>final js",
        f"{ASSISTANT}<|channel|>final<|message|>",
    ],
)
def test_a_cut_header_is_nothing(rest: str) -> None:
    answer = read(THINK + rest, TOOLS, "length")
    assert answer.short == [("reasoning", "Think.")]
    assert answer.end.finish is Finish.LENGTH
    assert answer.items[0].is_complete


def test_what_is_cut_is_not_complete() -> None:
    for rest, item in (
        (f"{CALL_HEADER}{{", ("weather", "{")),
        (CALL_HEADER, ("weather", "")),
        (f"{ASSISTANT}<|channel|>final<|message|>H", ("final", "H")),
        (f"{ASSISTANT} Sorry", ("final", "Sorry")),
    ):
        answer = read(THINK + rest, TOOLS, "length")
        assert answer.short[1:] == [item]
        assert not answer.items[-1].is_complete
        assert answer.end.finish is Finish.LENGTH


def test_arguments_are_the_models_own_text() -> None:
    for arguments in ("", '["Oslo"]', '{"n": 1e400}', " {\n} ", "no JSON"):
        assert shown(f"{THINK}{CALL_HEADER}{arguments}<|call|>") == [("weather", arguments)]


def test_a_token_of_the_requests_own_ends_texts_but_no_calls() -> None:
    text = read(f"{THINK}{ASSISTANT}<|channel|>final<|message|>Hi", TOOLS, stop_token=7)
    assert text.items[-1].is_complete
    assert (text.end.finish, text.end.stop_token) == (Finish.STOP, 7)
    call = read(f"{THINK}{CALL_HEADER}{OSLO}<|end|>{CALL_HEADER}{{", TOOLS, stop_token=7)
    assert [item.is_complete for item in call.items] == [True, True, False]
    assert call.end.finish is Finish.LENGTH
    # <|end|> itself may be that token.
    assert read(THINK, TOOLS, stop_token=END).end.finish is Finish.STOP


def test_text_goes_on_behind_the_end_where_the_engine_does() -> None:
    answer = read(f"{THINK}{CALL_HEADER}{OSLO}<|call|> and so on", TOOLS, "length")
    assert answer.short[1:] == [WEATHER]
    assert answer.items[-1].is_complete
    assert answer.end.finish is Finish.LENGTH


def test_special_tokens_inside_a_text_are_dropped() -> None:
    text = "<|channel|>final<|message|>A<|message|>B<|constrain|>C<|startoftext|>D<|return|>"
    assert read(text).short == [("final", "ABCD")]
    assert read([*tokens_of("<|channel|>final<|message|>A"), -1, 10**9]).short == [("final", "A")]
    for header in ("<|start|>assistant<|channel|>", "<|channel|>"):
        assert read(f"<|channel|>analysis<|message|>A{header}final<|message|>B<|return|>").short == [
            ("reasoning", "A"),
            ("final", "B"),
        ]


def test_characters_are_decoded_as_they_come() -> None:
    face = [Vocabulary.load().token_bytes.index(bytes([byte])) for byte in "🙂".encode()]
    final, end = tokens_of("<|channel|>final<|message|>"), tokens_of("<|end|>")
    assert read([*final, *face, *end]).short == [("final", "🙂")]
    # A character that another message, or the end, cuts.
    for rest in ([], end, tokens_of("<|start|>"), tokens_of("<|channel|>analysis<|message|>x<|end|>")):
        reader = AnswerReader(Offer(), Vocabulary.load())
        assert read_by(reader, [*final, *face[:3], *rest], "length").items[0].text == "\ufffd"
        assert reader.repairs[Slip.BAD_UTF8] == 1
    assert read([*final, *face[:2], *face, *end]).short == [("final", "\ufffd🙂")]


def test_reasoning_tokens_are_those_of_the_thoughts_text() -> None:
    thought = Vocabulary.load().encode("I think, therefore")
    tokens = [*tokens_of("<|channel|>analysis<|message|>"), *thought, *tokens_of(f"<|end|>{FINAL}")]
    for batches in (1, 5, 100):
        assert read(tokens, batches=batches).end.reasoning_tokens == len(thought)
    call = f"{ASSISTANT}<|channel|>analysis to=functions.weather<|message|>{OSLO}<|call|>"
    assert read(call, TOOLS).end.reasoning_tokens == 0


def test_an_answer_that_goes_on_with_a_text() -> None:
    offer = Offer(is_continued=True)
    assert read(" and more.<|return|>", offer).short == [("final", " and more.")]
    assert read(f"<|end|>{FINAL}", offer).short == [HI]
    assert read("", offer, "length").short == []


class TestStopStrings:
    TEXT = "One, two, three, STOP four, five, six, seven."
    ANSWER = f"{THINK}{ASSISTANT}<|channel|>final<|message|>{TEXT}<|return|>"

    @pytest.mark.parametrize("batches", [1, 2, 3, 4, 40])
    def test_the_text_ends_before_it(self, batches: int) -> None:
        answer = read(self.ANSWER, Offer(stop=("STOP",)), batches=batches)
        assert answer.short[1:] == [("final", "One, two, three, ")]
        assert (answer.end.finish, answer.end.stop_string) == (Finish.STOP, "STOP")
        assert answer.end.completion_tokens == len(tokens_of(self.ANSWER.partition(" four")[0]))
        kept = read(self.ANSWER, Offer(stop=("STOP",), keeps_stop_string=True), batches=batches)
        assert kept.short[1:] == [("final", "One, two, three, STOP")]

    def test_only_content_is_searched(self) -> None:
        answer = f"<|channel|>analysis<|message|>I see STOP.<|end|>{CALL_HEADER}STOP<|end|>{FINAL}"
        for stop in ("STOP", "assistant", "analysis", "weather", "message"):
            whole = read(answer, Offer(TOOLS.tools, stop=(stop,)))
            assert whole == read(answer, TOOLS)
            assert whole.end.stop_string is None

    def test_what_is_held_back_comes_when_the_item_ends(self) -> None:
        reader = AnswerReader(Offer(stop=("STOP", "\n\n")), Vocabulary.load())
        events = reader.feed(tokens_of("<|channel|>final<|message|>Hi ST"))
        assert events == [TextBegan("final"), Delta("Hi ")]
        assert reader.feed(tokens_of("<|end|>")) == [Delta("ST"), ItemEnded(True)]
        assert not reader.is_over

    def test_the_answer_is_over_at_once(self) -> None:
        reader = AnswerReader(Offer(stop=("STOP",)), Vocabulary.load())
        reader.feed(tokens_of(f"{CALL_HEADER}{{}}<|end|>{ASSISTANT}<|channel|>commentary<|message|>Well"))
        assert reader.feed(Vocabulary.load().encode(" STOP it")) == [Delta(" "), ItemEnded(True)]
        num_tokens = reader.end("stop")[-1]
        assert reader.is_over
        assert reader.feed(tokens_of(FINAL)) == []
        assert isinstance(num_tokens, AnswerEnded)

    def test_a_text_that_is_all_cut_is_no_item(self) -> None:
        assert read(f"{THINK}{FINAL}", Offer(stop=("Hi",))).short == [("reasoning", "Think.")]

    def test_a_call_before_it_stands(self) -> None:
        answer = f"{CALL_HEADER}{{}}<|end|>{FINAL}"
        assert read(answer, Offer(TOOLS.tools, stop=("Hi",))).end.finish is Finish.CALLS

    def test_it_is_not_searched_across_items(self) -> None:
        answer = (
            f"<|channel|>commentary<|message|>ST<|end|>{ASSISTANT}<|channel|>final<|message|>OP<|return|>"
        )
        assert read(answer, Offer(stop=("STOP",))).short == [("commentary", "ST"), ("final", "OP")]

    def test_an_unfinished_character_may_complete_one(self) -> None:
        half = Vocabulary.load().token_bytes.index(b"\xf0")
        tokens = [*tokens_of("<|channel|>final<|message|>Hi"), half, END]
        answer = read(tokens, Offer(stop=("i\ufffd",)))
        assert answer.short == [("final", "H")]
        assert answer.end.completion_tokens == len(tokens) - 1

    def test_log_probabilities_end_with_the_text(self) -> None:
        text = Vocabulary.load().encode("A B STOP C")
        tokens = [*tokens_of("<|channel|>final<|message|>"), *text]
        logprobs = [TokenLogprob(token, -0.5) for token in tokens]
        for stop, num_tokens in (("STOP", 3), (" STOP", 2), ("OP", 3), ("never", len(text))):
            content = read(tokens, Offer(stop=(stop,)), "length", 2, logprobs).items[0]
            assert [logprob.token_id for logprob in content.logprobs] == text[:num_tokens]

from __future__ import annotations

import time
from collections import Counter

import pytest

from serve_app.harmony.header import Author, Header, read_header
from serve_app.harmony.header_parts import PartKind, may_be_header, part_of
from serve_app.harmony.recipients import Names, bare, resolve
from serve_app.harmony.slips import Slip

NAMES = Names(frozenset({"weather", "get_json", "shell"}), frozenset({"secret"}))


def header_of(role: str = "assistant", *channels: str, constrain: str = "") -> tuple[Header, set[str]]:
    """What a header says, and the slips in it."""
    parts = [part_of(PartKind.ROLE, role, NAMES)]
    parts += [part_of(PartKind.CHANNEL, channel, NAMES) for channel in channels]
    if constrain:
        parts.append(part_of(PartKind.TYPE, constrain, NAMES))
    slips: Counter[str] = Counter()
    return read_header(parts, NAMES, slips), set(slips)


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("weather", "weather"),
        ("functions.weather", "weather"),
        ("functions.functions.weather", "weather"),
        ("weatherjson", "weather"),
        ("weather.json", "weather"),
        ("functions.weathercommentary", "weather"),
        ("functions.weather<|channel|>commentary", "weather"),
        ("functions.weather<|constr", "weather"),
        ("functions.weather,", "weather"),
        ("'functions.weather'", "weather"),
        ("secret", "secret"),
        ("get_json", "get_json"),
        ("get_jsonjson", "get_json"),
        ("weather_json", None),
        ("weather.get", None),
        ("Weather", None),
        ("functions.", None),
        ("", None),
        ("...", None),
    ],
)
def test_names(said: str, name: str | None) -> None:
    assert resolve(said, NAMES) == name


@pytest.mark.parametrize(("name", "without"), [("a", "a"), ("..a-b_.", "a-b_"), ("...", ""), ("", "")])
def test_punctuation_around_a_name(name: str, without: str) -> None:
    assert bare(name) == without


@pytest.mark.parametrize(
    ("role", "channels", "channel"),
    [
        ("assistant", ("final",), "final"),
        ("assistant", (" final ",), "final"),
        ("assistant", ("analysis", "final"), "final"),
        ("assistant", ("commentary?",), "commentary"),
        ("assistant", ("**final**",), "final"),
        ("assistant", ("finaljson",), "final"),
        ("assistant", ("final", "nothing"), "final"),
        ("assistant", ("finally",), None),
        ("assistant", ("comment",), None),
        ("assistant", ("??",), None),
        ("assistant", (), None),
        ("assistantfinal", (), "final"),
        ("assistant analysis", (), "analysis"),
        ("assistant final", ("analysis",), "analysis"),
        ("final", (), "final"),
    ],
)
def test_channels(role: str, channels: tuple[str, ...], channel: str | None) -> None:
    header, slips = header_of(role, *channels)
    assert header == Header(channel)  # type: ignore[arg-type]
    assert bool(slips) is ((role, channels) not in (("assistant", ("final",)), ("assistant", (" final ",))))


@pytest.mark.parametrize(
    ("role", "channel", "recipient"),
    [
        ("assistant to=functions.weather", "commentary", "weather"),
        ("assistant", "commentary to=functions.weather", "weather"),
        ("assistant", "commentary to= functions.weather", "weather"),
        ("assistant", "commentaryto=functions.weather", "weather"),
        ("assistantto=functions.weather", "commentary", "weather"),
        ("assistant to=functions.weather", "commentary to=functions.shell", "shell"),
        ("assistant to=functions.weather", "commentary to=functions.secret", "weather"),
        ("assistant to=functions.secret", "commentary to=nobody", "secret"),
        ("assistant to=somebody", "commentary to=nobody", "nobody"),
        ("assistant", "commentary to=functions.functions.nobody", "functions.nobody"),
        ("assistant", "commentary to=", None),
        ("assistant", "commentary to= json", None),
        ("assistant", "to= commentary", None),
        ("assistant", "commentary to=user", None),
        ("assistant", "commentary to= all", None),
        ("assistant", "commentary weather", "weather"),
        ("assistant weather", "commentary", "weather"),
        ("weather", "commentary", "weather"),
        ("assistant", "commentary weather shell", None),
        ("assistant", "commentary weather to=user", None),
    ],
)
def test_recipients(role: str, channel: str, recipient: str | None) -> None:
    assert header_of(role, channel)[0] == Header("commentary", recipient)


def test_behind_constrain_stands_a_content_type_or_a_recipient() -> None:
    assert header_of("assistant", "commentary", constrain="weather final")[0] == Header("commentary")
    header, slips = header_of("assistant", "commentary", constrain=" json to=functions.weather")
    assert header == Header("commentary", "weather")
    assert not slips


@pytest.mark.parametrize(
    ("role", "author"),
    [
        ("user", Author.OTHER),
        (" system:", Author.OTHER),
        ("developer to=assistant", Author.OTHER),
        ("userfinal", Author.OTHER),
        ("tool", Author.TOOL),
        ("functions.weather", Author.TOOL),
        ("functions.weather to=assistant", Author.TOOL),
        ("weather to=assistant", Author.TOOL),
        ("browser.search to=assistant", Author.TOOL),
        ("python to=assistant", Author.TOOL),
        ("nobody to=assistant", Author.ASSISTANT),
        ("functions.weather to=functions.shell", Author.ASSISTANT),
        ("assistantuser", Author.ASSISTANT),
        ("assistant functions.weather", Author.ASSISTANT),
        ("the user", Author.ASSISTANT),
        ("", Author.ASSISTANT),
    ],
)
def test_authors(role: str, author: Author) -> None:
    assert header_of(role, "commentary")[0].author is author


@pytest.mark.parametrize(
    ("kind", "text", "is_cut", "said"),
    [
        (PartKind.ROLE, "assistant", False, ""),
        (PartKind.ROLE, "assistant Sorry, no. ", False, "Sorry, no."),
        (PartKind.ROLE, "assistant", True, ""),
        (PartKind.ROLE, "assi", True, ""),
        (PartKind.ROLE, "assi", False, "assi"),
        (PartKind.CHANNEL, "final json", False, ""),
        (PartKind.CHANNEL, "final to=functions.x  a  final b\n", False, "a  final b"),
        (PartKind.CHANNEL, "commentary functions.weather", False, ""),
        (PartKind.CHANNEL, "commentary func", True, ""),
        (PartKind.CHANNEL, "commentary func", False, "func"),
        (PartKind.CHANNEL, "final fin", True, ""),
        (PartKind.CHANNEL, "final a fin", True, "a fin"),
        (PartKind.TYPE, "Sorry", False, ""),
        (PartKind.CHANNEL, "x" * 9000 + " final ", False, "x" * 9000 + " final"),
        (PartKind.CHANNEL, "final " + "x y " * 9000, False, ("x y " * 9000).rstrip()),
    ],
)
def test_what_of_a_part_is_text(kind: PartKind, text: str, is_cut: bool, said: str) -> None:
    start, end = part_of(kind, text, NAMES).text_span(NAMES, is_cut=is_cut)
    assert text[start:end] == said


def test_what_may_be_a_header() -> None:
    for text in ("a", "assistant", "assistantfi", "assistant to=x fin", "final", "functions.wea"):
        assert may_be_header(text, NAMES)
    for text in ("Hello", "final answer", "assistant, no", "finally", "?", "{"):
        assert not may_be_header(text, NAMES)


@pytest.mark.parametrize(
    "unit", ["final ", "to=x ", "to= ", "<|", "<|a", "functions.", ". ", "..", "json", "é "]
)
def test_the_time_is_bounded(unit: str) -> None:
    started = time.process_time()
    for text in (unit * 50_000, f"to={unit * 50_000}b"):
        header_of(text, text, constrain=text)
    assert time.process_time() - started < 2


def test_slips_of_a_header() -> None:
    assert header_of("assistant", "commentary to=functions.weather", constrain="json")[1] == set()
    assert header_of("assistant", "commentary to=weather")[1] == {Slip.HEADER_RECIPIENT}
    assert header_of("assistant", "final and so on")[1] == {Slip.HEADER_JUNK}
    assert header_of("user", "final")[1] == {Slip.OTHER_AUTHOR}

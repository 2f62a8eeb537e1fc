from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serve_app.config import Speculator
from serve_app.config.source import Source, SourceKind, on_this_node

REASONS = ["unknown kind of source", "not a whole source"]
S3, HUB, FOLDER = SourceKind.S3, SourceKind.HUB, SourceKind.FOLDER

TEXT = st.text(min_size=1, max_size=20)
PARTS = st.text(st.characters(exclude_characters="/", exclude_categories=["Z", "C"]), min_size=1, max_size=8)
BUCKETS = st.text(st.sampled_from("abz019.-"), min_size=1, max_size=8)
WITHOUT_AT = TEXT.filter(lambda text: "@" not in text)
SOURCES = st.one_of(
    st.builds(
        lambda bucket, parts, end: Source(S3, "/".join([bucket, *parts]) + end),
        BUCKETS,
        st.lists(PARTS, min_size=1, max_size=4),
        st.sampled_from(["", "/"]),
    ),
    st.builds(Source, st.just(HUB), WITHOUT_AT, st.none() | TEXT),
    st.builds(Source, st.just(FOLDER), TEXT),
)


@given(SOURCES)
def test_every_source_has_a_text_that_is_read_back(source: Source) -> None:
    assert Source.parse(str(source)) == source


@given(st.one_of(TEXT, st.builds(lambda kind, text: kind.value + text, st.sampled_from(SourceKind), TEXT)))
def test_every_text_is_a_source_that_says_it_or_is_refused_with_words(text: str) -> None:
    try:
        said = str(Source.parse(text))
    except ValueError as error:
        said = str(error)
    refused = [f"{text}: {why}; use s3://BUCKET/PREFIX, hf:ORG/NAME or file:FOLDER" for why in REASONS]
    assert said in (text, *refused)


@pytest.mark.parametrize(
    ("text", "source", "name"),
    [
        ("s3://bucket/models/gpt-oss-20b", Source(S3, "bucket/models/gpt-oss-20b"), "gpt-oss-20b"),
        ("s3://my.bucket-1/a/", Source(S3, "my.bucket-1/a/"), "a"),
        ("hf:openai/gpt-oss-20b", Source(HUB, "openai/gpt-oss-20b"), "gpt-oss-20b"),
        ("hf:openai/gpt-oss-20b@main", Source(HUB, "openai/gpt-oss-20b", "main"), "gpt-oss-20b"),
        ("hf:a/b@refs/pr/1@2", Source(HUB, "a/b", "refs/pr/1@2"), "b"),
        ("file:/models/a", Source(FOLDER, "/models/a"), "a"),
        ("file:~/models/a@b", Source(FOLDER, "~/models/a@b"), "a@b"),
    ],
)
def test_what_a_text_means(text: str, source: Source, name: str) -> None:
    assert Source.parse(text) == source
    assert source.name == name


@pytest.mark.parametrize("text", ["gs:bucket/x", "/model", "openai/gpt-oss-20b", "HF:a/b", "", "s3:bucket/a"])
def test_unknown_kinds(text: str) -> None:
    with pytest.raises(ValueError, match="unknown kind of source"):
        Source.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        *("file:", "hf:", "hf:@main", "hf:a/b@", "s3://", "s3://bucket", "s3://bucket/", "s3:///a"),
        *("s3://bucket//a", "s3://bucket/a//", "s3://bucket/a b", "s3://buck et/a"),
    ],
)
def test_half_a_source(text: str) -> None:
    with pytest.raises(ValueError, match="not a whole source"):
        Source.parse(text)


def test_a_folder_is_where_this_node_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("WHERE", "~/models")
    for text, folder in [("file:$WHERE/a", "/home/me/models/a"), ("file:~", "/home/me"), ("file:a", "a")]:
        assert Source.parse(text).folder == Path(folder)
    assert on_this_node("${WHERE}") == Path("/home/me/models")


# --- in the config -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["hf:a/b", "s3://bucket/a/", "file:$MODELS/a"])
def test_it_is_text_outside_and_a_value_inside(text: str) -> None:
    speculator = Speculator.model_validate({"source": text})
    assert speculator.source == Source.parse(text)
    for dumped in (speculator.model_dump(), speculator.model_dump(mode="json")):
        assert dumped["source"] == text
        assert Speculator.model_validate(dumped) == speculator
    assert Speculator.model_validate_json(speculator.model_dump_json()) == speculator
    schema = Speculator.model_json_schema()["properties"]["source"]
    assert schema["type"] == "string"


@pytest.mark.parametrize("source", [Source(FOLDER, "models/a"), Source(HUB, "a/b", "main"), Source(HUB, "a")])
def test_a_value_is_checked_as_its_text_is(source: Source) -> None:
    for value in (source, str(source)):
        with pytest.raises(ValidationError, match="allowed are s3://BUCKET/PREFIX"):
            Speculator.model_validate({"source": value})


@pytest.mark.parametrize("value", [3, None, ["hf:a/b"]])
def test_what_is_no_text(value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        Speculator.model_validate({"source": value})
    [error] = caught.value.errors()
    assert (error["type"], error["loc"]) == ("string_type", ("source",))

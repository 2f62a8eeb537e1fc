from __future__ import annotations

from datetime import UTC, datetime

import pytest
from anthropic.types import ModelInfo
from openai.types import Model

from serve_app.api.models import list_body, model_body
from serve_app.errors import ModelNotFoundError

NAMES = ("openai/gpt-oss-20b", "gpt-oss")


def test_each_served_name_is_listed_as_openai_has_it() -> None:
    body = list_body(NAMES, "/models/gpt-oss", 4096)
    assert set(body) == {"object", "data"}
    assert [Model.model_validate(model).id for model in body["data"]] == list(NAMES)
    assert {model["max_model_len"] for model in body["data"]} == {4096}


def test_one_name_with_slashes() -> None:
    body = model_body(NAMES, "/models/gpt-oss", 4096, "openai/gpt-oss-20b")
    assert body == list_body(NAMES, "/models/gpt-oss", 4096)["data"][0]


def test_other_names_are_not_found() -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        model_body(NAMES, "root", 4096, "gpt-5" * 1000)
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")
    assert len(str(caught.value)) < 300


def test_anthropics_fields_beside_the_others() -> None:
    plain, both = (
        list_body(NAMES, "root", 4096, is_anthropic=is_anthropic) for is_anthropic in (False, True)
    )
    assert (both["has_more"], both["first_id"], both["last_id"]) == (False, *NAMES)
    for model, more in zip(plain["data"], both["data"], strict=True):
        assert model.items() <= more.items()
        info = ModelInfo.model_validate(more)
        assert (info.id, info.type, info.display_name) == (model["id"], "model", model["id"])
        assert info.created_at == datetime.fromtimestamp(model["created"], UTC)

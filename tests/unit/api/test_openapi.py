from __future__ import annotations

import json
import re
from typing import Any

from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from serve_app.api.openapi import OPERATIONS, document


def test_the_document_is_valid() -> None:
    validate(document("gpt-oss", "1"), cls=OpenAPIV31SpecValidator)


def test_each_reference_leads_somewhere() -> None:
    whole = document("gpt-oss", "1")
    text = json.dumps(whole)
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert names == set(whole["components"]["schemas"])
    assert "serve_app" not in text
    assert "$defs" not in text


def test_requests_and_answers_are_said() -> None:
    paths: dict[str, Any] = document("gpt-oss", "1")["paths"]
    assert {(path, method) for path, methods in paths.items() for method in methods} == {
        (operation.path, operation.method) for operation in OPERATIONS
    }
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"):
        operation = paths[path]["post"]
        content = operation["responses"]["200"]["content"]
        assert set(content) == {"application/json", "text/event-stream"}
        assert all(kind["schema"] for kind in content.values())
        assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert paths["/v1/models/{name}"]["get"]["parameters"][0]["name"] == "name"


def test_operations_have_names_of_their_own() -> None:
    paths = document("gpt-oss", "1")["paths"]
    names = [operation["operationId"] for methods in paths.values() for operation in methods.values()]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"\w+", name) for name in names)

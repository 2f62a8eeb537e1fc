from __future__ import annotations

import json
import re
from typing import Any

import pytest
from fastapi.routing import APIRoute
from openapi_spec_validator import OpenAPIV31SpecValidator, validate
from starlette.routing import Route

from serve_app.api.openapi import OPERATIONS, document
from tests.unit.api.scripted import scripted_service

# What tells of the others.
DOCUMENTS = ("/docs", "/openapi.json")


@pytest.mark.slow
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


async def test_the_operations_are_the_routes_of_the_application() -> None:
    async with scripted_service() as service:
        found = set()
        for route in service.app.routes:
            # What no document has to say, such as files of the page, is no route of these kinds.
            if isinstance(route, Route | APIRoute) and not route.path.startswith(DOCUMENTS):
                path = re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path)
                found |= {(method.lower(), path) for method in route.methods or ()}
        assert {one for one in found if one[0] != "head"} == {
            (operation.method, operation.path) for operation in OPERATIONS
        }

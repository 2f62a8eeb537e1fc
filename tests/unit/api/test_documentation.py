from __future__ import annotations

import re

import pytest
from fastapi import FastAPI

from serve_app.api.documentation import add_documents
from tests.asgi import request


@pytest.fixture(scope="module")
def app() -> FastAPI:
    app = FastAPI(title="gpt-oss", docs_url=None, redoc_url=None, openapi_url=None)
    add_documents(app)
    return app


async def test_the_page_loads_nothing_from_elsewhere(app: FastAPI) -> None:
    page = await request(app, "GET", "/docs")
    assert page.status_code == 200
    loaded = re.findall(r"""(?:src|href|url)\W{1,3}["']([^"']+)["']""", page.text)
    assert set(loaded) == {
        "docs/assets/swagger-ui-bundle.js",
        "docs/assets/swagger-ui.css",
        "docs/assets/favicon.png",
        "./openapi.json",
    }
    assert not re.search(r"https?://", page.text)
    for path in loaded:
        assert (await request(app, "GET", f"/{path.removeprefix('./')}")).status_code == 200


async def test_head_requests(app: FastAPI) -> None:
    for path in ("/docs", "/openapi.json", "/docs/assets/swagger-ui.css"):
        assert (await request(app, "HEAD", path)).status_code == 200


async def test_no_other_file_is_served(app: FastAPI) -> None:
    assert (await request(app, "GET", "/docs/assets/../__init__.py")).status_code == 404
    assert (await request(app, "GET", "/docs/assets/%2e%2e/__init__.py")).status_code == 404


async def test_the_document_is_json(app: FastAPI) -> None:
    answer = await request(app, "GET", "/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["info"]["title"] == "gpt-oss"

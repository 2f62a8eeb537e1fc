from __future__ import annotations

import re

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from serve_app.api.documentation import add_documents


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI(title="gpt-oss", docs_url=None, redoc_url=None, openapi_url=None)
    add_documents(app)
    return TestClient(app)


def test_the_page_loads_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/docs")
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
        assert client.get(f"/{path.removeprefix('./')}").status_code == 200


def test_head_requests(client: TestClient) -> None:
    for path in ("/docs", "/openapi.json", "/docs/assets/swagger-ui.css"):
        assert client.head(path).status_code == 200


def test_no_other_file_is_served(client: TestClient) -> None:
    assert client.get("/docs/assets/../__init__.py").status_code == 404
    assert client.get("/docs/assets/%2e%2e/__init__.py").status_code == 404


def test_the_document_is_json(client: TestClient) -> None:
    answer = client.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["info"]["title"] == "gpt-oss"

"""`/openapi.json`, and `/docs`: Swagger UI, whose files come from a package and not from the network."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import msgspec
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import Response
from starlette.requests import Request
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from serve_app.api.openapi import document

DOCUMENT, PAGE, ASSETS = "/openapi.json", "/docs", "/docs/assets"
# Only its files are used.
PACKAGE = "fastapi_offline"


def add_documents(app: FastAPI) -> None:
    """Adds both to `app`, which has no such routes of FastAPI's own: those load from elsewhere."""

    @cache
    def content() -> bytes:
        return msgspec.json.encode(document(app.title, app.version))

    async def openapi(_: Request) -> Response:
        return Response(content(), media_type="application/json")

    async def page(_: Request) -> Response:
        # Relative to the page, wherever a proxy has put it.
        assets, here = ASSETS.removeprefix("/"), "."
        return get_swagger_ui_html(
            openapi_url=f"{here}{DOCUMENT}",
            title=app.title,
            swagger_js_url=f"{assets}/swagger-ui-bundle.js",
            swagger_css_url=f"{assets}/swagger-ui.css",
            swagger_favicon_url=f"{assets}/favicon.png",
            # Its default asks a server of swagger.io.
            swagger_ui_parameters={"validatorUrl": None},
        )

    app.router.routes += [
        Route(DOCUMENT, openapi, name="openapi"),
        Mount(ASSETS, StaticFiles(directory=assets_folder()), name="assets"),
        Route(PAGE, page, name="docs"),
    ]


def assets_folder() -> Path:
    """Returns the folder with Swagger UI's files."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{PACKAGE} is not installed; it has the files of {PAGE}", name=PACKAGE)
    return Path(spec.origin).parent / "static"

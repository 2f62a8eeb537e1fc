"""scripts/haproxy, started by Serve's own code: what clients read where no ingress answers."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from ray.serve._private import haproxy
from ray.serve.config import HTTPOptions

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "scripts/haproxy"
HEALTHY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
BODY = {
    "type": "error",
    "error": {
        "type": "overloaded_error",
        "message": "no ingress of the service has answered; the request can be sent again",
        "param": None,
        "code": None,
    },
}

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # of Ray's subprocess and its log files


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(haproxy, "RAY_SERVE_HAPROXY_BINARY_PATH", str(PROGRAM))
    return tmp_path_factory.mktemp("h")  # its sockets' paths must be short


@asynccontextmanager
async def serving(folder: Path, *backends: haproxy.BackendConfig) -> AsyncIterator[httpx.AsyncClient]:
    """An HAProxy as Serve starts it, and a client of it."""
    port = free_port()
    config = haproxy.HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=port),
        socket_path=str(folder / "admin.sock"),
        metrics_socket_path=str(folder / "metrics.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "state"),
        stats_port=free_port(),
        metrics_port=free_port(),
        is_head=True,
    )
    api = haproxy.HAProxyApi(config, {one.name: one for one in backends}, str(folder / "haproxy.cfg"))
    await api.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        await api.stop()


@asynccontextmanager
async def ingress(answer: Callable[[], bytes]) -> AsyncIterator[haproxy.BackendConfig]:
    """A server that is healthy, and says `answer()` to all else before it hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if b"POST" in request:
            await reader.readexactly(len(b"{}"))
        writer.write(HEALTHY if b"/-/healthz" in request else answer())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield backend(server.sockets[0].getsockname()[1])


def backend(port: int) -> haproxy.BackendConfig:
    servers = [haproxy.ServerConfig("one", "127.0.0.1", port)]
    return haproxy.BackendConfig("app", "/", servers=servers, app_name="gpt-oss")


def assert_unavailable(response: httpx.Response) -> None:
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.headers["content-type"] == "application/json"
    assert response.json() == BODY


async def test_before_it_knows_an_ingress(folder: Path) -> None:
    async with serving(folder) as client:
        assert_unavailable(await client.post("/v1/chat/completions", json={}))
        assert_unavailable(await client.get("/v1/models"))


async def test_no_ingress_is_up(folder: Path) -> None:
    async with serving(folder, backend(free_port())) as client:
        assert_unavailable(await client.post("/v1/messages", json={}))


async def test_an_ingress_dies_of_the_request(folder: Path) -> None:
    async with ingress(bytes) as found, serving(folder, found) as client:
        assert_unavailable(await client.post("/v1/responses", json={}))


async def test_what_an_ingress_says_itself_stays(folder: Path) -> None:
    statuses = [200, 404, 500, 502, 503, 504]
    said = iter(
        [f"HTTP/1.1 {status} Words\r\nContent-Length: 5\r\n\r\nwords".encode() for status in statuses]
    )
    async with ingress(lambda: next(said)) as found, serving(folder, found) as client:
        answers = [await client.post("/v1/chat/completions", json={}) for _ in statuses]
    assert [answer.status_code for answer in answers] == statuses
    assert {answer.text for answer in answers} == {"words"}
    assert not any("retry-after" in answer.headers for answer in answers)


def test_other_arguments_are_haproxys() -> None:
    done = subprocess.run([PROGRAM, "-v"], capture_output=True, text=True, check=True)
    assert "HAProxy version" in done.stdout


def test_an_environment_without_it_is_named(tmp_path: Path) -> None:
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(f"/bin/{name}" if Path(f"/bin/{name}").exists() else f"/usr/bin/{name}")
    done = subprocess.run(
        [PROGRAM, "-v"],
        env={"PATH": str(tmp_path), "SERVE_VENV": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "set SERVE_VENV" in done.stderr


def test_the_answer_is_as_long_as_it_says() -> None:
    head, _, body = (PROGRAM.parent / "unavailable.http").read_bytes().partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}\r\n".encode() in head

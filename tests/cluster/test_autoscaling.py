"""A burst brings a second node with a GPU and an engine on it; idleness takes both away again.

Ray's autoscaler, Serve and vLLM are real. The nodes are Ray's fake ones, which claim a GPU each, and the
engines run the demo checkpoint on the CPU.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import ray
import yaml
from ray import serve
from ray.serve.context import _get_global_client

from tests.services import MODEL, ROOT, START_TIMEOUT_S, free_port
from tests.waiting import wait_until

pytestmark = [pytest.mark.app, pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

RAY, SERVE = (str(Path(sys.executable).with_name(name)) for name in ("ray", "serve"))
# What Ray's provider of fake nodes takes for the head.
HEAD_NODE_ID, HEAD_NODE_TYPE = "f" * 51 + "00000", "ray.head.default"
H100_NODE = {
    "resources": {"CPU": 2, "GPU": 1, "accelerator_type:H100": 1, "object_store_memory": 80_000_000},
    "labels": {"ray.io/accelerator-type": "H100"},
    "node_config": {},
    "min_workers": 0,
    "max_workers": 2,
}
NODE_IDLE_S = 5
# Serve looks back 30 s, and a node follows within seconds; the rest is for a busy machine.
SCALING_TIMEOUT_S = START_TIMEOUT_S
CONNECT_TIMEOUT_S = STOP_TIMEOUT_S = 600
# An engine runs four at once, and three are its target: the others ask for another one.
NUM_CLIENTS, NUM_TOKENS = 12, 200


@dataclass(frozen=True)
class Cluster:
    """A Ray instance of its own, whose autoscaler adds fake nodes, and where its service listens."""

    address: str
    url: str
    log: Path

    def gpu_nodes(self) -> set[str]:
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        return {node["NodeID"] for node in nodes if node["Alive"] and "GPU" in node["Resources"]}

    def replicas(self, deployment: str) -> dict[str | None, str]:
        """The state of each replica, by the node that it is on; None for one that waits for a node."""
        client = _get_global_client()
        assert client
        [application] = client.get_serve_details()["applications"].values()
        replicas = application["deployments"][deployment]["replicas"]
        return {replica.get("node_id"): replica["state"].value for replica in replicas}

    def all_busy(self, num_engines: int) -> bool:
        """Whether that many engines have requests. A full one answers when the first of these has ended."""
        engines = serve.get_deployment_handle("Engine", "gpt-oss")
        loads = engines.broadcast("num_unfinished_requests").results(timeout_s=START_TIMEOUT_S)
        return len(loads) == num_engines and min(loads) > 0


def config_of(port: int) -> dict[str, Any]:
    """configs/local.yaml as a service on H100s that scales from one engine to two."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "local.yaml").read_text())
    config["http_options"]["port"] = port
    config["applications"][0]["args"]["engine"] |= {
        "num_gpus": 1,
        "accelerator_type": "H100",
        "num_cpus": 1,
        "fast_boot": True,
        "max_num_batched_tokens": 2048,
        "max_concurrent_requests": 4,
        # Little memory: others run beside this one.
        "kv_cache_memory_bytes": 1 << 27,
        "min_replicas": 1,
        "max_replicas": 2,
        "upscale_delay_s": 0,
        "downscale_delay_s": 5,
    }
    # Nobody who waits is sent away, however slow the machine makes the engine.
    config["applications"][0]["args"]["admission"] = {"max_wait_s": START_TIMEOUT_S}
    return config


def autoscaler_config(gcs_address: str) -> dict[str, Any]:
    """The least that Ray's autoscaler takes: the wheel lacks the defaults of its provider of fake nodes."""
    return {
        "cluster_name": "fake",
        "max_workers": 2,
        "idle_timeout_minutes": NODE_IDLE_S / 60,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": HEAD_NODE_ID,
            "gcs_address": gcs_address,
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
        "head_node_type": HEAD_NODE_TYPE,
        "available_node_types": {
            HEAD_NODE_TYPE: {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
            "h100": H100_NODE,
        },
    }


def started(folder: Path, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """`ray start` in the foreground, with ports and a folder of its own: the machine may have other Rays."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    config = folder / "autoscaler.json"
    config.write_text(json.dumps(autoscaler_config(address)))
    command = [
        *(RAY, "start", "--head", "--block", f"--port={port}", f"--temp-dir={folder}"),
        "--node-ip-address=127.0.0.1",
        *(f"--autoscaling-config={config}", "--num-cpus=2", "--num-gpus=0", "--object-store-memory=80000000"),
        *("--include-dashboard=false", f"--dashboard-port={free_port()}"),
        f"--ray-client-server-port={free_port()}",
        *("--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0"),
    ]
    environment = {
        "PYTHONPATH": str(ROOT),
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        # Version 2 of the autoscaler is what `ray up` starts.
        "RAY_enable_autoscaler_v2": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_NODE_ID,
        "RAY_NODE_TYPE_NAME": HEAD_NODE_TYPE,
        # How often callers report their load; 10 s by default.
        "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    }
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, env=os.environ | environment, stdout=sink, stderr=sink, start_new_session=True
        )
    return process, address


def belongs(process: psutil.Process, folder: Path) -> bool:
    """Whether its command line names the folder, as those of Ray's own processes do."""
    with contextlib.suppress(psutil.Error):
        return any(str(folder) in argument for argument in process.cmdline())
    return False


def stop(ray_start: subprocess.Popen[bytes], folder: Path) -> None:
    """All that it has started, and nothing else: `ray stop` would take every Ray of the machine down."""
    processes: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):  # `ray start` may have failed
        processes = psutil.Process(ray_start.pid).children(recursive=True)
    ray_start.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        ray_start.wait(STOP_TIMEOUT_S)
    ray_start.kill()
    # What lost its parent before is found by its command line.
    processes += [process for process in psutil.process_iter() if belongs(process, folder)]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _, left = psutil.wait_procs(processes, STOP_TIMEOUT_S)
    assert not left


def connect(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """This process joins the cluster, once its head listens."""

    def is_connected() -> bool:
        assert process.poll() is None, log.read_text(errors="replace")
        with contextlib.suppress(ConnectionError, RuntimeError):
            ray.init(address=address, namespace="serve", log_to_driver=False)
        return bool(ray.is_initialized())

    wait_until(is_connected, CONNECT_TIMEOUT_S, lambda: log.read_text(errors="replace"), interval_s=0.5)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Only a head without GPU, and the application submitted to it."""
    # Writes ~/.ray/auth_token unless there is one: `ray start`, other than `ray.init`, does not.
    subprocess.run([RAY, "get-auth-token", "--generate"], capture_output=True, check=True)
    # Not tmp_path: the names of Ray's sockets may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    log = tmp_path / "ray.log"
    process, address = started(folder, log)
    try:
        connect(address, process, log)
        port = free_port()
        config = tmp_path / "serve.yaml"
        config.write_text(yaml.safe_dump(config_of(port)))
        submit = [SERVE, "run", "--non-blocking", f"--address={address}", str(config)]
        subprocess.run(submit, cwd=ROOT, capture_output=True, check=True)
        yield Cluster(address, f"http://127.0.0.1:{port}", log)
        serve.shutdown()  # type: ignore[no-untyped-call]
    finally:
        ray.shutdown()
        stop(process, folder)
        shutil.rmtree(folder, ignore_errors=True)


def is_ready(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    return False


def generate(url: str) -> httpx.Response:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Count from 1 to 200."}],
        "max_tokens": NUM_TOKENS,
        "ignore_eos": True,
    }
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=START_TIMEOUT_S)


def keep_asking(url: str, enough: threading.Event) -> list[httpx.Response]:
    responses = []
    while not enough.is_set():
        responses.append(generate(url))
    return responses


def test_a_burst_brings_a_node_and_idleness_takes_it_away(cluster: Cluster) -> None:
    def state() -> Any:
        log = cluster.log.read_text(errors="replace")[-2000:]
        return cluster.gpu_nodes(), cluster.replicas("Engine"), log

    # The first engine asks for an H100, which the head is not: the autoscaler starts a node for it.
    wait_until(lambda: len(cluster.gpu_nodes()) == 1, SCALING_TIMEOUT_S, state)
    wait_until(lambda: is_ready(cluster.url), START_TIMEOUT_S, state)
    [first] = cluster.gpu_nodes()
    assert cluster.replicas("Engine") == {first: "RUNNING"}

    enough = threading.Event()
    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        clients = [pool.submit(keep_asking, cluster.url, enough) for _ in range(NUM_CLIENTS)]
        try:
            wait_until(lambda: len(cluster.gpu_nodes()) == 2, SCALING_TIMEOUT_S, state)
            both = cluster.gpu_nodes()
            assert first in both
            both_run = dict.fromkeys(both, "RUNNING")
            wait_until(lambda: cluster.replicas("Engine") == both_run, START_TIMEOUT_S, state)
            wait_until(lambda: cluster.all_busy(2), SCALING_TIMEOUT_S, state)
        finally:
            enough.set()
        responses = [response for client in clients for response in client.result()]
    assert {response.status_code for response in responses} == {200}
    assert {response.json()["usage"]["completion_tokens"] for response in responses} == {NUM_TOKENS}
    # On a node with a GPU an ingress would keep it from being idle.
    assert set(cluster.replicas("Ingress")) == {HEAD_NODE_ID}

    wait_until(lambda: len(cluster.replicas("Engine")) == 1, SCALING_TIMEOUT_S, state)
    wait_until(lambda: len(cluster.gpu_nodes()) == 1, SCALING_TIMEOUT_S, state)
    assert cluster.replicas("Engine") == dict.fromkeys(cluster.gpu_nodes(), "RUNNING")
    assert generate(cluster.url).status_code == 200

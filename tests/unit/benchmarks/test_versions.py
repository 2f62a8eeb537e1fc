"""What keeps two versions of the service apart, and what their first answers are taken for."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.serving import first_answers, gpu
from benchmarks.serving.versions import PORTS, Version, kernels_compiled

LOG = """\
WARNING Triton kernel JIT compilation during inference: _topk_kernel. This causes a latency spike; consider
INFO warm-up done
WARNING CuTeDSL JIT compilation during inference: prepare. This causes a latency spike; consider extending
"""


def test_versions_share_no_port_no_folder_and_no_cache(tmp_path: Path) -> None:
    now = Version(tmp_path, sys.executable, tmp_path / "now").environment()
    before = Version(tmp_path, sys.executable, tmp_path / "before", number=1).environment()
    same = {name for name in now if now[name] == before[name]}
    assert same == {"PYTHONPATH", "RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED"}
    kinds = [name.removeprefix("RAY_SERVE_DIRECT_INGRESS_") for name in PORTS]
    assert {"MIN_HTTP_PORT", "MAX_HTTP_PORT", "MIN_GRPC_PORT", "MAX_GRPC_PORT"} <= set(kinds)
    for kind in ("HTTP", "GRPC"):
        name = f"RAY_SERVE_DIRECT_INGRESS_{{}}_{kind}_PORT"
        assert int(now[name.format("MAX")]) < int(before[name.format("MIN")])


def test_the_packages_of_one_interpreter_are_not_those_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/packages")
    here = Version(tmp_path, sys.executable, tmp_path / "now").environment()
    there = Version(tmp_path, "/venv/bin/python", tmp_path / "before", number=1).environment()
    assert here["PYTHONPATH"] == f"{tmp_path}{os.pathsep}/packages"
    assert there["PYTHONPATH"] == str(tmp_path)


def test_about_tells_of_the_version_in_its_own_environment() -> None:
    root = Path(gpu.__file__).parents[2]
    about = Version(root, sys.executable, root / "no-such-folder").about()
    assert {"commit", "ray", "cpus"} <= about.keys()


def test_kernels_are_counted_in_the_logs_of_the_last_ray_session(tmp_path: Path) -> None:
    logs = tmp_path / "ray/session_latest/logs"
    logs.mkdir(parents=True)
    (logs / "worker-1.out").write_text(LOG)
    (logs / "worker-2.err").write_text(LOG + LOG)
    (logs / "raylet.out").write_text(LOG)
    assert Version(tmp_path, sys.executable, tmp_path).kernels_compiled() == 6
    assert kernels_compiled(logs / "raylet.out") == 2
    assert kernels_compiled(tmp_path / "nothing.log") == 0


def test_each_version_is_a_serve_instance_of_its_own_port(tmp_path: Path) -> None:
    options = argparse.Namespace(
        model=tmp_path,
        speculator=None,
        memory_share=0.3,
        kv_cache_gib=1,
        num_gpus=0,
        ingress_replicas=1,
        systems=["before", "serve_app", "ray"],
        port=8000,
    )
    now, before = (gpu.serve_document(options, {"model": "m"}, port) for port in (8000, 8002))
    assert [app["name"] for app in now["applications"]] == ["gpt-oss", "ray-serve-llm"]
    assert [app["name"] for app in before["applications"]] == ["gpt-oss"]
    assert (now["http_options"]["port"], before["http_options"]["port"]) == (8000, 8002)


def test_systems_are_asked_there_and_back() -> None:
    assert gpu.there_and_back(["before", "serve_app"]) == ["before", "serve_app", "serve_app", "before"]


def test_a_streamed_answer_is_put_together() -> None:
    events = [
        {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"delta": {"reasoning": "hm "}}]},
        {"choices": [{"delta": {"content": "yes"}}]},
        {"choices": [{"delta": {"content": "!"}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"completion_tokens": 4}},
    ]
    lines = [line for event in events for line in (f"data: {json.dumps(event)}", "")] + ["data: [DONE]", ""]
    assert first_answers.told(first_answers.streamed(lines)) == {
        "finish_reason": "stop",
        "content": "yes!",
        "reasoning": "hm ",
    }


@pytest.mark.parametrize(
    ("text", "follows"),
    [
        ('{"answer": "no", "share": 100}', True),
        ('{"answer": "no", "share": 101}', False),
        ('{"answer": "no"}', False),
        ('{"answer": "no", "share": 1', False),
        ("", False),
    ],
)
def test_an_answer_follows_the_schema_or_does_not(text: str, follows: bool) -> None:
    assert first_answers.follows(text) is follows


def test_what_a_version_leaves_is_ended_and_nothing_else(tmp_path: Path) -> None:
    ours, others = (Version(tmp_path, sys.executable, tmp_path / name) for name in ("now", "before"))
    command = [sys.executable, "-c", "import signal; signal.pause()"]
    with (
        subprocess.Popen(command, env=os.environ | ours.environment()) as left,
        subprocess.Popen(command, env=os.environ | others.environment()) as kept,
    ):
        ours.end()
        assert left.wait(300) == -signal.SIGKILL
        assert kept.poll() is None
        kept.kill()

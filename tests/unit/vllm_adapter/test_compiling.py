"""What compiled code depends on, asked of the vLLM that is installed."""

from __future__ import annotations

import dataclasses
from importlib import metadata
from typing import Any

import pytest

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM's


def factors() -> dict[str, Any]:
    from serve_app.vllm_adapter import compiler_factors

    return compiler_factors()


def test_versions_and_device() -> None:
    import torch
    import vllm

    found = factors()
    assert (found["vllm"], found["torch"]) == (vllm.__version__, torch.__version__)
    assert found["device"]
    for name, version in found["packages"].items():
        if version is not None:
            assert metadata.version(name) == version
    assert set(found["packages"]) >= {"triton", "flashinfer-python"}


def test_the_same_process_finds_the_same() -> None:
    assert factors() == factors()


def test_vllms_switches_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = factors()["switches"]
    monkeypatch.setenv("VLLM_FLOAT32_MATMUL_PRECISION", "medium")
    changed = factors()
    assert changed["switches"] != before
    assert {name: value for name, value in changed.items() if name != "switches"} == {
        name: value for name, value in factors().items() if name != "switches"
    }


def test_a_package_that_is_not_installed_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from serve_app.vllm_adapter import compiling

    monkeypatch.setattr(compiling, "COMPILING_PACKAGES", ("no-such-package",))
    assert factors()["packages"] == {"no-such-package": None}


def test_the_driver_is_asked_of_nvml_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.third_party import pynvml

    from serve_app.vllm_adapter import compiling

    calls: list[str] = []

    class Gpu:
        def is_cuda(self) -> bool:
            return True

        def get_device_name(self) -> str:
            return "NVIDIA H100 80GB HBM3"

        def get_device_capability(self) -> str:
            return "9.0"

    monkeypatch.setattr(compiling, "current_platform", Gpu())
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: calls.append("init"))
    monkeypatch.setattr(pynvml, "nvmlSystemGetDriverVersion", lambda: "580.1")
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: calls.append("shutdown"))
    found = factors()
    assert (found["driver"], found["device"], found["capability"]) == (
        "580.1",
        "NVIDIA H100 80GB HBM3",
        "9.0",
    )
    assert calls == ["init", "shutdown"]


def test_argument_names_are_the_fields() -> None:
    from vllm import AsyncEngineArgs

    from serve_app.vllm_adapter import argument_names

    assert argument_names() == {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    assert "max_num_seqs" in argument_names()

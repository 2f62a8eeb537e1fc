"""Without a GPU: that nothing is compiled where the kernels are not used."""

from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.worker_extension import WorkerExtension

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM's


def worker(device: str, *methods: Any) -> Any:
    modules = [SimpleNamespace(quant_method=method) for method in methods]
    made: Any = WorkerExtension()
    made.model_runner = SimpleNamespace(model=SimpleNamespace(modules=lambda: modules))
    made.device = SimpleNamespace(type=device)
    return made


def test_nothing_is_compiled_on_cpus() -> None:
    assert worker("cpu").compile_routing([288]) == {"lengths": 0, "reason": "no GPU"}


def test_nothing_is_compiled_for_other_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vllm")
    from vllm.model_executor.layers.fused_moe.experts import gpt_oss_triton_kernels_moe as kernels
    from vllm.model_executor.layers.fused_moe.oracle.mxfp4 import Mxfp4MoeBackend

    monkeypatch.setattr(kernels, "use_legacy_triton_kernels", True)
    method = SimpleNamespace(mxfp4_backend=Mxfp4MoeBackend.MARLIN)
    assert "MARLIN" in worker("cuda", None, method).compile_routing([288])["reason"]
    monkeypatch.setattr(kernels, "use_legacy_triton_kernels", False)
    assert "triton_kernels" in worker("cuda", method).compile_routing([288])["reason"]

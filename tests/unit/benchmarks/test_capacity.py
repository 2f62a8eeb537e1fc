"""The arithmetic of `benchmarks.capacity`; engines are not started."""

from pathlib import Path

import pytest

from benchmarks.capacity.options import KINDS, parser, spec
from benchmarks.capacity.service import EngineProcess
from serve_app.config import AppConfig

LOG = """
WARNING [jit_monitor.py:135] Triton kernel JIT compilation during inference: _topk_forward. \
This causes a latency spike; consider
WARNING [jit_monitor.py:135] Triton kernel JIT compilation during inference: a.b_kernel \
(constexprs={BLOCK=8}). This causes
WARNING [jit_monitor.py:135] CuTeDSL JIT compilation during inference: Gemm. This
WARNING [jit_monitor.py:135] Triton kernel JIT compilation during inference: _topk_forward. This
Triton autotuning for function tuned,
"""


def test_what_was_compiled_is_read_from_the_log(tmp_path: Path) -> None:
    process = object.__new__(EngineProcess)
    process.log = tmp_path / "a.log"
    process.log.write_text("before" + LOG)
    found = process._compiled(len("before"), len("before" + LOG))
    assert found == {"times": 5, "kernels": {"Gemm": 1, "_topk_forward": 2, "a.b_kernel": 1, "tuned": 1}}
    assert process._compiled(0, 6) == {"times": 0, "kernels": {}}


@pytest.mark.parametrize("name", ["full", "cold", "naive"])
def test_configs_are_valid_and_only_naive_has_other_sizes(name: str, tmp_path: Path) -> None:
    options = parser("").parse_args(["--model", "/m", "--speculator", "/s", "--out", "o.json"])
    made = spec(name, options, tmp_path)
    config = AppConfig.model_validate(made["config"])
    assert config.engine.has_graphs
    assert config.engine.warm_up == (name == "full")
    assert made.get("capture_sizes") == ([1, 2, 4, *range(8, 65, 8)] if name == "naive" else None)


@pytest.mark.filterwarnings("ignore")  # vLLM's
@pytest.mark.slow
def test_figures() -> None:
    pytest.importorskip("vllm")
    from benchmarks.capacity import traffic
    from benchmarks.capacity.traffic import Answer, figures

    assert list(traffic.KINDS) == KINDS
    answers = [
        Answer("plain", [0.1, 0.2, 0.4], [1, 4, 4]),
        Answer("choice", [0.3], [2]),
        Answer("plain", [], [], "refused"),
    ]
    found = figures(answers, 2.0)
    assert (found["requests"], found["errors"], found["tokens"]) == (3, {"refused": 1}, 11)
    assert (found["tokens_per_s"], found["tokens_per_step"]) == (5.5, 4.0)
    assert found["ttft_ms"]["p50"] == 200
    assert found["step_ms"]["max"] == 200
    assert found["ttft_ms_by_kind"]["choice"]["p50"] == 300
    assert figures([], 1.0)["ttft_ms"] == {}

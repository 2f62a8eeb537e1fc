"""The check of the graphs on vLLM's own class that picks them, with no GPU: nothing is captured."""

from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.config.graph_sizes import DecodeShape, capture_sizes
from serve_app.private_names import PrivateNameError
from serve_app.vllm_worker.graph_report import GraphReport, GraphsMissingError, check

SHAPE = DecodeShape(64, 3)

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM's


def manager(sizes: list[int], max_requests: int, tokens: int, mode: str) -> Any:
    """vLLM's, without what needs a device."""
    cudagraph_utils = pytest.importorskip("vllm.v1.worker.gpu.cudagraph_utils")
    from vllm.config import CUDAGraphMode

    made = object.__new__(cudagraph_utils.CudaGraphManager)
    made.vllm_config = SimpleNamespace(
        speculative_config=None, cache_config=SimpleNamespace(use_kda_recoverssm=False)
    )
    made.ubatch_runner = None
    made.compilation_config = SimpleNamespace(
        cudagraph_capture_sizes=sizes, max_cudagraph_capture_size=max(sizes)
    )
    made.max_num_reqs, made.decode_query_len = max_requests, tokens
    made.cudagraph_mode, made.varlen_decode, made.lora_capture_cases = CUDAGraphMode[mode], False, [0]
    made._candidates, made._capture_descs, made._lora_dispatch_map, made._max_lora_case = {}, {}, {}, 0
    made._init_candidates()
    made._graphs_captured = True
    return made


def report_of(sizes: list[int], shape: DecodeShape, mode: str = "FULL_AND_PIECEWISE") -> dict[str, Any]:
    from vllm.config import CUDAGraphMode

    max_requests, tokens = shape.max_concurrent_requests, 1 + shape.num_draft_tokens
    drafts = manager(sizes, max_requests, 1, "FULL_DECODE_ONLY")
    graphs = GraphReport()
    graphs.model_runner = SimpleNamespace(
        cudagraph_manager=manager(sizes, max_requests, tokens, mode),
        speculator=SimpleNamespace(decode_cudagraph_manager=drafts) if shape.num_draft_tokens else None,
    )
    graphs.vllm_config = SimpleNamespace(
        compilation_config=SimpleNamespace(cudagraph_capture_sizes=sizes, cudagraph_mode=CUDAGraphMode[mode]),
        scheduler_config=SimpleNamespace(max_num_seqs=max_requests),
    )
    return graphs.report_graphs()


@pytest.mark.parametrize("num_draft_tokens", [0, 1, 2, 3, 5, 8])
@pytest.mark.parametrize("max_requests", [1, 2, 7, 9, 16, 50, 63, 64, 100, 1024])
def test_every_batch_has_a_full_graph(
    max_requests: int, num_draft_tokens: int, caplog: pytest.LogCaptureFixture
) -> None:
    shape = DecodeShape(max_requests, num_draft_tokens)
    report = report_of(capture_sizes(shape), shape)
    assert report["batches"] == ["FULL"] * max_requests
    assert set(report["drafts"]) <= {"FULL"}
    assert bool(report["drafts"]) == (num_draft_tokens > 1)
    check(report, shape)
    assert not [record for record in caplog.records if record.name == "ray.serve"]


def test_the_speculator_needs_a_size_of_its_own() -> None:
    multiples = [size for size in capture_sizes(DecodeShape(50, 3)) if size % 4 == 0]
    drafts = report_of(multiples, DecodeShape(50, 3))["drafts"]
    assert drafts == ["FULL"] * 48 + ["NONE"] * 2


def test_naive_sizes_are_refused_with_the_arithmetic() -> None:
    sizes = [1, 2, 4, *range(8, 65, 8)]
    with pytest.raises(GraphsMissingError) as caught:
        check(report_of(sizes, SHAPE), SHAPE)
    line = str(caught.value)
    assert "\n" not in line
    assert "no full CUDA graph for decode batches of 17 to 64 requests" in line
    assert "64 requests x (1 + 3) tokens = 256 tokens: sizes up to 64 tokens hold batches of 16" in line
    assert "engine.fast_boot" in line


@pytest.mark.parametrize("mode", ["NONE", "PIECEWISE"])
def test_a_mode_that_vllm_fell_back_to_is_refused(mode: str) -> None:
    with pytest.raises(GraphsMissingError, match=f"of 1 to 64 requests .*cudagraph_mode {mode}"):
        check(report_of(capture_sizes(SHAPE), SHAPE, mode), SHAPE)


def test_another_batch_than_the_config_says_is_refused() -> None:
    report = report_of(capture_sizes(SHAPE), SHAPE)
    with pytest.raises(GraphsMissingError, match="64 requests x 4 tokens, and the config says 65 requests"):
        check(report, DecodeShape(65, 3))
    with pytest.raises(GraphsMissingError, match=r"says 64 requests x \(1 \+ 2\) tokens = 192 tokens"):
        check(report, DecodeShape(64, 2))


def test_smaller_gaps_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    batches = ["FULL", "NONE", "NONE", "FULL", "NONE", "FULL"]
    report = {"max_requests": 6, "tokens_per_request": 4, "mode": "FULL", "sizes": [24], "batches": batches}
    check(report | {"drafts": ["FULL"] * 5 + ["NONE"]}, DecodeShape(6, 3))
    assert [record.getMessage().rpartition("for ")[2] for record in caplog.records] == [
        "decode batches of 2 to 3, 5 requests",
        "draft batches of 6 requests",
    ]


def test_model_runner_v1() -> None:
    dispatcher = SimpleNamespace(
        uniform_decode_query_len=4,
        dispatch=lambda tokens, uniform_decode: (
            SimpleNamespace(name="FULL" if tokens <= 8 and uniform_decode else "NONE"),
        ),
    )
    graphs = GraphReport()
    graphs.model_runner = SimpleNamespace(cudagraph_dispatcher=dispatcher)
    graphs.vllm_config = SimpleNamespace(
        compilation_config=SimpleNamespace(
            cudagraph_capture_sizes=[8], cudagraph_mode=SimpleNamespace(name="FULL")
        ),
        scheduler_config=SimpleNamespace(max_num_seqs=3),
    )
    report = graphs.report_graphs()
    assert report["batches"] == ["FULL", "FULL", "NONE"]
    assert report["drafts"] == []


def test_a_vllm_without_what_is_asked_of_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A speculator whose graphs have another name would pass for one without steps of its own."""
    speculators = pytest.importorskip("vllm.v1.worker.gpu.spec_decode.target_dependent_ar.speculator")
    shape = DecodeShape(8, 3)
    assert report_of(capture_sizes(shape), shape)["drafts"]
    monkeypatch.setattr(speculators, "TargetDependentARSpeculator", type("Renamed", (), {}))
    with pytest.raises(PrivateNameError, match="decode_cudagraph_manager"):
        report_of(capture_sizes(shape), shape)

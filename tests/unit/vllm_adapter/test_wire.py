"""Engine core outputs in step frames."""

from typing import Any

import pytest

pytestmark = pytest.mark.filterwarnings("ignore")  # of what vLLM imports


def output(*token_ids: int, **fields: Any) -> Any:
    from vllm.v1.engine import EngineCoreOutput

    return EngineCoreOutput("r", list(token_ids), **fields)


def logprobs(num_tokens: int) -> Any:
    import numpy
    from vllm.v1.outputs import LogprobsLists

    shape = (num_tokens, 21)  # past the size up to which arrays travel inline
    return LogprobsLists(
        numpy.arange(num_tokens * 21, dtype=numpy.int32).reshape(shape),
        numpy.linspace(-9, 0, num_tokens * 21, dtype=numpy.float32).reshape(shape),
        numpy.arange(num_tokens, dtype=numpy.int32),
        None,
    )


def finish(name: str) -> Any:
    from vllm.v1.engine import FinishReason

    return FinishReason[name]


def round_trip(*outputs: Any) -> Any:
    from serve_app.vllm_adapter import wire

    return wire.new_decoder()([bytes(part) for part in wire.new_encoder()(list(outputs))])


def test_tokens_round_trip() -> None:
    outputs = [output(1, 2), output(3), output(4, finish_reason=finish("STOP"), stop_reason=200002)]
    assert round_trip(*outputs) == outputs


def test_logprobs_round_trip() -> None:
    import numpy

    [plain, decoded] = round_trip(output(1), output(7, 8, new_logprobs=logprobs(2)))
    assert plain == output(1)
    for sent, received in zip(logprobs(2), decoded.new_logprobs, strict=True):
        if sent is not None:
            numpy.testing.assert_array_equal(sent, received)


def test_prompt_logprobs_round_trip() -> None:
    import torch
    from vllm.v1.outputs import LogprobsTensors

    tensors = LogprobsTensors(
        torch.arange(300).reshape(100, 3), torch.rand(100, 3), torch.arange(100, dtype=torch.int32)
    )
    [decoded] = round_trip(output(1, new_prompt_logprobs_tensors=tensors))
    for sent, received in zip(tensors, decoded.new_prompt_logprobs_tensors, strict=False):
        if sent is not None:
            assert torch.equal(sent, received)


def test_plain_is_tokens_and_nothing_else() -> None:
    from vllm.v1.engine import EngineCoreOutput

    from serve_app.vllm_adapter import wire

    assert wire.is_plain(output(1, 2))
    assert wire.is_plain(output())
    for name in set(EngineCoreOutput.__struct_fields__) - {"request_id", "new_token_ids", "stop_reason"}:
        changed = output(1)
        setattr(changed, name, 1)
        assert not wire.is_plain(changed), name


def test_tokens_are_merged_and_the_finish_is_kept() -> None:
    from serve_app.vllm_adapter import wire

    first = output(1, 2, prefill_stats="of the first step")
    merged = wire.merge(first, output(3, finish_reason=finish("STOP"), stop_reason=200012))
    assert merged == output(
        1, 2, 3, prefill_stats="of the first step", finish_reason=finish("STOP"), stop_reason=200012
    )
    assert first.new_token_ids == [1, 2]  # somebody else's list


@pytest.mark.parametrize("which", [0, 1])
def test_what_has_something_for_each_token_is_not_merged(which: int) -> None:
    from serve_app.vllm_adapter import wire

    outputs = [output(1), output(2)]
    outputs[which].new_logprobs = logprobs(1)
    assert wire.merge(*outputs) is None


def test_whatever_comes_once_is_not_merged_away() -> None:
    from serve_app.vllm_adapter import wire

    assert wire.merge(output(1), output(2, spec_decode_metrics="of the answer")) is None

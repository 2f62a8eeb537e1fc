"""A kernel with a constant that follows from the length of a step, and the same without. No GPU is needed."""

from __future__ import annotations

import logging
import sys
from types import ModuleType
from typing import Any

import pytest
import triton
import triton.language as tl

from serve_app.vllm_worker import routing_kernels
from serve_app.vllm_worker.routing_kernels import replace, with_integer

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")


@triton.jit  # type: ignore[untyped-decorator]
def scale(X, Y, n_rows, stride: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    rows = tl.arange(0, BLOCK)
    tl.store(Y + rows, tl.load(X + rows * stride, mask=rows < n_rows), mask=rows < n_rows)


def constants(kernel: Any) -> set[str]:
    return {one.name for one in kernel.params if one.is_constexpr}


def ptx(kernel: Any, values: dict[str, int]) -> str:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kinds = {"X": "*fp32", "Y": "*fp32"}
    signature = {
        one.name: "constexpr" if one.is_constexpr else kinds.get(one.name, "i32") for one in kernel.params
    }
    given = {name: value for name, value in values.items() if signature[name] == "constexpr"}
    compiled = triton.compile(ASTSource(kernel, signature, given), target=GPUTarget("cuda", 90, 32))
    text: str = compiled.asm["ptx"]
    return text


def test_the_constant_becomes_an_integer_and_the_others_stay() -> None:
    made = with_integer(scale, "stride")
    assert constants(scale) == {"stride", "BLOCK"}
    assert constants(made) == {"BLOCK"}
    assert [one.name for one in made.params] == [one.name for one in scale.params]


def test_one_compilation_serves_all_values() -> None:
    made = with_integer(scale, "stride")
    assert ptx(scale, {"stride": 3, "BLOCK": 32}) != ptx(scale, {"stride": 5, "BLOCK": 32})
    assert ptx(made, {"stride": 3, "BLOCK": 32}) == ptx(made, {"stride": 5, "BLOCK": 32})


def test_what_is_no_constant_is_refused() -> None:
    for name in ("n_rows", "another"):
        with pytest.raises(ValueError, match=name):
            with_integer(scale, name)


def test_the_kernel_is_replaced_in_its_module() -> None:
    module: Any = ModuleType("kernels")
    module.scale = scale
    replace(module, "scale", "stride")
    assert constants(module.scale) == {"BLOCK"}
    with pytest.raises(AttributeError):
        replace(module, "another", "stride")


def test_kernels_of_another_release_stay_and_the_log_says_what_that_costs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known, other = (module for module, _, _ in routing_kernels.KERNELS)
    for name in ("triton_kernels", "triton_kernels.reduction_details", known, other):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    kernel, constant = routing_kernels.KERNELS[0][1:]
    sys.modules[known].__dict__[kernel] = scale
    with caplog.at_level(logging.WARNING, routing_kernels.__name__):
        routing_kernels.install()
    whole, first, second = [record.getMessage() for record in caplog.records]
    assert "wait for kernels to be compiled" in whole
    assert constant in first
    assert "will wait for kernels to be compiled" in first
    assert routing_kernels.KERNELS[1][1] in second
    assert sys.modules[known].__dict__[kernel] is scale

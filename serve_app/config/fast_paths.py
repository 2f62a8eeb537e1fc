"""The fast paths that a config and its environment leave unused: what each costs, and how to turn it on.

About GPUs only. A config for CPUs is for trying things out: its engine takes milliseconds for a token of the
demo model, and with HAProxy stopping the service takes half a minute more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from serve_app.config import AppConfig
from serve_app.config.source import SourceKind

HA_PROXY = "RAY_SERVE_ENABLE_HA_PROXY"
THROUGHPUT_OPTIMIZED = "RAY_SERVE_THROUGHPUT_OPTIMIZED"
# Serve takes "1" for on, and everything else for off.
ON = "1"


@dataclass(frozen=True)
class MissingFastPath:
    """One that is not used; `str()` is the line to log."""

    name: str
    costs: str
    turn_on: str

    def __str__(self) -> str:
        return f"{self.name}: {self.costs}. {self.turn_on}."


def missing(config: AppConfig, environment: Mapping[str, str]) -> list[MissingFastPath]:
    """Returns the fast paths of a GPU service that are not used, those that cost most first.

    `environment` is that of Serve's own processes: they inherit it from the `ray start` of their node.
    """
    return (
        [*_of_the_engine(config), *_of_serve(environment), *_of_the_start(config)] if _on_gpu(config) else []
    )


def _on_gpu(config: AppConfig) -> bool:
    return config.engine.num_gpus > 0


def _of_the_engine(config: AppConfig) -> Iterator[MissingFastPath]:
    if config.engine.fast_boot:
        # Measured with decode batches larger than the largest graph; eager mode has none for any batch.
        yield MissingFastPath(
            "CUDA graphs and torch.compile are off",
            "a step of 64 requests without a graph took 77 to 84 ms, with one 12.6 ms (gpt-oss-20b, H100)",
            "Set engine.fast_boot to false",
        )
    if config.speculator is None:
        yield MissingFastPath(
            "no speculator",
            "a step yields one token of a request, with 3 EAGLE3 drafts about 2.56 (gpt-oss-20b, in public "
            "measurements)",
            "Set speculator.source, to hf:RedHatAI/gpt-oss-20b-speculator.eagle3 for gpt-oss-20b",
        )


def _of_serve(environment: Mapping[str, str]) -> Iterator[MissingFastPath]:
    # Measured with a stub engine that streams token by token, with both switches off and then both on.
    if environment.get(HA_PROXY) != ON:
        yield MissingFastPath(
            f"HAProxy is off ({HA_PROXY} is not {ON} in this environment)",
            "Serve's Python proxy takes 150 us of CPU for a streamed token, HAProxy 20 us",
            _switch_on(HA_PROXY),
        )
    if environment.get(THROUGHPUT_OPTIMIZED) != ON:
        yield MissingFastPath(
            f"Serve's throughput settings are off ({THROUGHPUT_OPTIMIZED} is not {ON} in this environment)",
            "ingress and engine replica take 437 us of CPU for a streamed token, instead of 142 us",
            _switch_on(THROUGHPUT_OPTIMIZED),
        )


def _switch_on(variable: str) -> str:
    return f"Set {variable}={ON} before `ray start` on every node, as scripts/serve and cluster.yaml do"


def _of_the_start(config: AppConfig) -> Iterator[MissingFastPath]:
    # Not where the number of engines is fixed: their nodes keep what they have downloaded once.
    scales = config.engine.max_replicas > config.engine.min_replicas
    if scales and config.model.source.kind is SourceKind.HUB:
        yield MissingFastPath(
            "weights from the hub",
            "each new node downloads them before its first engine starts (13.7 GiB for gpt-oss-20b, 65.9 for "
            "gpt-oss-120b)",
            "Publish them to a bucket (`python -m serve_app.stage publish`) and set model.source to it",
        )
    if scales and config.staging.compile_cache is None:
        yield MissingFastPath(
            "no compile cache in S3",
            "each new node compiles anew: its first engine was ready after 256 s, with a cache after 85 s "
            "(gpt-oss-20b, H200)",
            "Set staging.compile_cache to a prefix in a bucket",
        )

"""The config: the `args` of a Serve application, as one frozen tree. Unknown keys are refused.

`read_config` reads a Serve config file; Serve's controller validates the same `args` through the same tree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ModelWrapValidatorHandler, ValidationError, model_validator

from serve_app.config import errors, graph_rules
from serve_app.config.errors import ConfigError, did_you_mean
from serve_app.config.graph_sizes import DecodeShape
from serve_app.config.sections import (
    AdmissionConfig,
    EngineConfig,
    IngressConfig,
    MigrationConfig,
    ModelSource,
    Section,
    Speculator,
    StagingConfig,
)
from serve_app.config.source import SourceKind

IMPORT_PATH = "serve_app.app:build"


class AppConfig(Section):
    """The whole service."""

    model: ModelSource = Field(default_factory=lambda: ModelSource(), description="what is served")
    speculator: Speculator | None = Field(
        default=None, description="drafts tokens for the model; null for none"
    )
    engine: EngineConfig = Field(description="the engine replicas")
    ingress: IngressConfig = Field(default_factory=lambda: IngressConfig(), description="the API replicas")
    admission: AdmissionConfig = Field(
        default_factory=lambda: AdmissionConfig(), description="the queue in front of the engines"
    )
    migration: MigrationConfig = Field(
        default_factory=lambda: MigrationConfig(), description="answers whose engine replica is lost"
    )
    staging: StagingConfig = Field(
        default_factory=lambda: StagingConfig(), description="what each node keeps on its disk"
    )
    drain_timeout_s: float | None = Field(
        default=None,
        ge=1,
        description="how long a replica that is being replaced may finish its requests; default: what the "
        "longest answer takes, max_model_len tokens at min_tokens_per_second",
    )

    @property
    def drain_limit_s(self) -> float:
        """`drain_timeout_s`, with its default filled in."""
        if self.drain_timeout_s is not None:
            return self.drain_timeout_s
        timed = self.engine.timed
        rate = timed.steps_per_second * timed.tokens_per_step if timed else self.engine.min_tokens_per_second
        return math.ceil(self.engine.max_model_len / rate)

    @property
    def max_queued_requests(self) -> int:
        """`admission.max_queued_requests`, with its default filled in: sequences that may wait."""
        if self.admission.max_queued_requests is not None:
            return self.admission.max_queued_requests
        return self.engine.max_replicas * self.engine.max_concurrent_requests

    @property
    def num_draft_tokens(self) -> int:
        """Tokens drafted for each request in each step; 0 without a speculator."""
        return self.speculator.num_draft_tokens if self.speculator else 0

    @property
    def decode_shape(self) -> DecodeShape:
        """The largest decode batch of an engine replica."""
        return DecodeShape(self.engine.max_concurrent_requests, self.num_draft_tokens)

    @model_validator(mode="after")
    def _full_batch_fits_a_step(self) -> AppConfig:
        shape = self.decode_shape
        if shape.max_decode_tokens > self.engine.batched_tokens:
            raise ValueError(
                f"engine.max_num_batched_tokens: {self.engine.batched_tokens}: "
                f"must be at least {shape.max_decode_tokens}: "
                f"engine.max_concurrent_requests ({shape.max_concurrent_requests}) times the "
                f"{shape.tokens_per_request} tokens that a request takes in a step; vLLM drops the "
                "CUDA graphs of larger batches"
            )
        return self

    @model_validator(mode="after")
    def _full_batch_has_a_graph(self) -> AppConfig:
        engine = self.engine
        problems = graph_rules.problems(
            engine.engine_overrides,
            self.decode_shape,
            has_graphs=engine.has_graphs,
        )
        if lines := "\n".join(problems):
            raise ValueError(lines)
        return self

    @model_validator(mode="after")
    def _speculation_is_there_to_be_overridden(self) -> AppConfig:
        if self.speculator is None and "speculative_config" in self.engine.engine_overrides:
            raise ValueError("engine.engine_overrides.speculative_config: there is no speculator; set one")
        return self

    @model_validator(mode="after")
    def _timed_engine_takes_no_gpu(self) -> AppConfig:
        if self.engine.timed and self.engine.num_gpus:
            raise ValueError(
                f"engine.num_gpus: {self.engine.num_gpus:g}: must be 0 with engine.timed, which needs none"
            )
        return self

    @model_validator(mode="after")
    def _replicas_that_share_a_gpu_share_its_memory(self) -> AppConfig:
        share, num_gpus = self.engine.gpu_memory_utilization, self.engine.num_gpus
        if 0 < num_gpus < 1 and share > num_gpus:
            raise ValueError(
                f"engine.gpu_memory_utilization: {share:g}: must be at most engine.num_gpus ({num_gpus:g}): "
                "another replica may have the rest of the GPU"
            )
        return self

    @model_validator(mode="after")
    def _streamer_reads_from_s3(self) -> AppConfig:
        if self.engine.load_format == "runai_streamer" and self.model.source.kind is not SourceKind.S3:
            raise ValueError("engine.load_format: runai_streamer: needs model.source s3://BUCKET/PREFIX")
        return self

    @model_validator(mode="wrap")
    @classmethod
    def _say_what_is_wrong(cls, values: Any, handler: ModelWrapValidatorHandler[AppConfig]) -> AppConfig:
        try:
            return handler(values)
        except ValidationError as error:
            raise ConfigError(describe_errors(error)) from None


def describe_errors(error: ValidationError) -> str:
    """Returns one line for each problem in an `AppConfig`: key path, value, what is allowed."""
    return errors.describe_errors(error, AppConfig)


def check_overrides(
    config: AppConfig,
    argument_names: Collection[str],
    value_problems: Callable[[Collection[str]], Iterable[str]] = lambda names: (),
) -> None:
    """Raises `ConfigError` unless vLLM would take `engine_overrides` as engine arguments.

    `argument_names` are all of vLLM's. `value_problems` says what vLLM refuses of the arguments with the
    given names, once the overrides are laid over them. Keys that the config derives are refused before, when
    the config is validated.
    """
    overrides = config.engine.engine_overrides
    unknown = sorted(set(overrides) - set(argument_names))
    problems = [
        f"{name}: {overrides[name]!r}: vLLM has no engine argument of this "
        f"name{did_you_mean(name, argument_names)}; allowed are the fields of vllm.AsyncEngineArgs"
        for name in unknown
    ]
    problems += value_problems([name for name in overrides if name in argument_names])
    if problems:
        raise ConfigError("\n".join(f"engine.engine_overrides.{problem}" for problem in problems))


def read_config(path: str | Path) -> AppConfig:
    """Returns the `args` of the application of ours in the Serve config file `path`.

    Raises `ConfigError`: no such file, not YAML, no Serve config, not one application of ours, bad args.
    """
    return config_of(read_document(path), path)


def read_document(path: str | Path) -> Any:
    """Returns what the file `path` holds. Raises `ConfigError`: no such file, or not YAML."""
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None


def config_of(document: Any, path: str | Path) -> AppConfig:
    """Returns the `args` of the application of ours in a Serve config; raises as `read_config` does."""
    applications = document.get("applications") if isinstance(document, dict) else None
    if not isinstance(applications, list):
        raise ConfigError(f"{path}: no `applications` list; a Serve config file has one")
    ours = [a for a in applications if isinstance(a, dict) and a.get("import_path") == IMPORT_PATH]
    if len(ours) != 1:
        raise ConfigError(
            f"{path}: {len(ours)} applications with import_path {IMPORT_PATH}; exactly 1 is allowed"
        )
    try:
        return AppConfig.model_validate(ours[0].get("args") or {})
    except ConfigError as error:
        raise ConfigError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from None

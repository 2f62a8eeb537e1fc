"""The parts of the config tree: `tree` puts them together. Defaults stand beside the fields."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetPydanticSchema,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import core_schema

from serve_app.config import overrides
from serve_app.config.source import Source, SourceKind, on_this_node

MIB_BYTES = 1024 * 1024
DEFAULT_MODEL = "openai/gpt-oss-20b"

# vLLM's API server takes 8,192 tokens a step on an H100, but an engine that is built without that server gets
# 2,048 (arg_utils.get_batch_defaults, SchedulerConfig); and under 8,192 vLLM warns that speculation suffers.
GPU_BATCHED_TOKENS = 8192
# vLLM's own choice for a CPU server. A step of 2,048 prefill tokens also delays every decoding request less.
CPU_BATCHED_TOKENS = 2048

# The longest prompt eight times: a step of that many would take seconds.
MAX_BATCHED_TOKENS = 8 * 131072
# Serve's controller looks at each replica all the time, and each ingress has a connection to each engine.
MAX_REPLICAS = 1000
# More than any machine has. Ray counts in ten-thousandths.
MAX_CORES = 4096
# A request that waits holds its body, of up to max_body_bytes, in an ingress.
MAX_QUEUED_REQUESTS = 1_000_000

# Measured (benchmarks/results/staging_16_cores.json): eight threads keep busy what Python lets run at once,
# and requests of 64 MiB are large beside their overhead of about 1 ms of CPU time.
RANGE_BYTES = 64 * MIB_BYTES
CONCURRENCY = 8


_DIGEST = re.compile(r"[0-9a-f]{8,64}")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def _is_for_all_nodes(source: Source) -> bool:
    if source.kind is SourceKind.FOLDER:
        # A relative folder would mean a different place in each process. ~ and variables are left as written:
        # each node expands them for itself, since its home need not be that of the node that read the file.
        return source.location.startswith(("/", "~", "$"))
    if source.kind is SourceKind.HUB:
        return source.revision is None and bool(_REPOSITORY.fullmatch(source.location))
    return True


def _checked_source(value: Any, as_text: Callable[[Any], str]) -> Source:
    text = str(value) if isinstance(value, Source) else as_text(value)
    with suppress(ValueError):
        source = Source.parse(text)
        if _is_for_all_nodes(source):
            return source
    raise ValueError(
        "allowed are s3://BUCKET/PREFIX (published by `stage publish`), hf:ORG/NAME (Hugging Face hub) and "
        "file:FOLDER (absolute, or with ~ or $VARIABLE)"
    )


def _checked_prefix(uri: str) -> str:
    with suppress(ValueError):
        if Source.parse(uri).kind is SourceKind.S3:
            return uri
    raise ValueError("allowed is s3://BUCKET/PREFIX")


def _checked_folder(folder: str) -> str:
    if not folder.startswith(("/", "~", "$")):
        raise ValueError("must be absolute, or begin with ~ or $VARIABLE: each node expands it for itself")
    return folder


def _checked_cores(number: float) -> float:
    if round(number, 4) != number or number > MAX_CORES:
        raise ValueError(f"must have four decimal places at most, and be at most {MAX_CORES}")
    return number


# Text in the file and in JSON, a value in between.
ConfiguredSource = Annotated[
    Source,
    GetPydanticSchema(
        lambda _kind, _handler: core_schema.no_info_wrap_validator_function(
            _checked_source,
            core_schema.str_schema(),
            serialization=core_schema.to_string_ser_schema(when_used="always"),
        )
    ),
]
S3Prefix = Annotated[str, AfterValidator(_checked_prefix)]
Folder = Annotated[str, AfterValidator(_checked_folder)]
Cores = Annotated[float, AfterValidator(_checked_cores)]


class Section(BaseModel):
    """A part of the config: it cannot be changed, and it refuses keys that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class _Checkpoint(Section):
    @field_validator("revision", check_fields=False)
    @classmethod
    def _only_of_a_hub_repository(cls, revision: str | None, info: ValidationInfo) -> str | None:
        source = info.data.get("source")
        if revision is None or not isinstance(source, Source):
            return revision
        if source.kind is SourceKind.FOLDER:
            raise ValueError("a folder has no revisions; leave it out, or give an hf: or s3:// source")
        if source.kind is SourceKind.S3 and not _DIGEST.fullmatch(revision):
            raise ValueError(
                "must be the digest that `stage publish` printed, or its first 8 or more characters"
            )
        return revision


class ModelSource(_Checkpoint):
    """The model to serve, where its files are, and the names that clients may ask for."""

    id: str = Field(default=DEFAULT_MODEL, min_length=1, description="the model's public name")
    source: ConfiguredSource = Field(
        default_factory=lambda: Source(SourceKind.HUB, DEFAULT_MODEL),
        description="s3://BUCKET/PREFIX, hf:ORG/NAME or file:FOLDER; by default hf: and the id",
    )
    revision: str | None = Field(
        default=None, description="of hf: a branch, tag or commit; of s3: the digest of the version"
    )
    served_names: tuple[str, ...] = Field(
        default=(),
        min_length=1,
        description="names that clients may give as `model`; answers carry the first; default: the id",
    )

    @model_validator(mode="before")
    @classmethod
    def _follow_the_id(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        name = values.get("id", cls.model_fields["id"].default)
        return {"source": f"hf:{name}", "served_names": (name,)} | values

    @field_validator("served_names")
    @classmethod
    def _names_are_unique(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names) or "" in names:
            raise ValueError("names must be unique and not empty")
        return names


class Speculator(_Checkpoint):
    """A small model that drafts tokens for the large one to check."""

    source: ConfiguredSource = Field(
        description="s3://BUCKET/PREFIX, hf:ORG/NAME or file:FOLDER of the speculator"
    )
    revision: str | None = Field(
        default=None, description="of hf: a branch, tag or commit; of s3: the digest of the version"
    )
    method: Literal["eagle3"] = Field(default="eagle3", description="how the speculator drafts")
    # k = 3 is best for the 20B model in public measurements, k = 7 slower than none; 8 is room to measure.
    num_draft_tokens: int = Field(
        default=3, ge=1, le=8, description="tokens drafted for each request in each step"
    )


class TimedConfig(Section):
    """An engine without a model: it generates set words at a set rate, to measure what is around engines."""

    # What an H100 does with a full batch of gpt-oss-20b is 60 to 80 steps a second. Timers are as coarse as a
    # millisecond, so much shorter steps would not be steady.
    steps_per_second: float = Field(default=60.0, ge=0.01, le=250, description="engine steps a second")
    tokens_per_step: float = Field(
        default=1.0, ge=1, le=16, description="tokens of a request in a step, on average; 2.5 is 2, 3, 2, 3"
    )
    prefill_tokens_per_second: float | None = Field(
        default=None, ge=0.01, description="prompt tokens a second, one prompt after another; null: no time"
    )
    record: Folder | None = Field(
        default=None, description="folder for the times of all steps, a file for each replica; null: none"
    )

    @property
    def record_path(self) -> Path | None:
        """`record` on this node."""
        return on_this_node(self.record) if self.record else None


class EngineConfig(Section):
    """One engine replica: one vLLM engine on one GPU, or on CPU cores where `num_gpus` is 0."""

    max_concurrent_requests: int = Field(
        ge=1,
        le=1024,
        description="sequences that one engine replica runs at once (a request with n = 2 is two); vLLM's "
        "batch, the CUDA-graph capture sizes, Serve's max_ongoing_requests and the autoscaling target follow "
        "from it",
    )
    max_model_len: int = Field(
        default=32768, ge=256, le=131072, description="longest prompt and answer together, in tokens"
    )
    # What FlashAttention 3 (H100) takes; the CPU backend lacks only bfloat16, which is what auto means there.
    kv_cache_dtype: Literal["auto", "bfloat16", "fp8", "fp8_e4m3"] = Field(
        default="fp8", description="type of the KV cache; auto is the model's own (bfloat16)"
    )
    gpu_memory_utilization: float = Field(
        default=0.9,
        gt=0,
        le=0.98,
        description="share of the GPU's memory (of RAM without GPU) that vLLM may fill; at most num_gpus, "
        "where that is less than 1",
    )
    kv_cache_memory_bytes: int | None = Field(
        default=None,
        ge=MIB_BYTES,
        description="size of the KV cache; default: what gpu_memory_utilization leaves beside the weights",
    )
    max_num_batched_tokens: int | None = Field(
        default=None,
        ge=1,
        le=MAX_BATCHED_TOKENS,
        description="tokens in one engine step, prefill and decode together; "
        f"default: {GPU_BATCHED_TOKENS} on a GPU, {CPU_BATCHED_TOKENS} on CPUs",
    )
    load_format: Literal["auto", "runai_streamer"] = Field(
        default="auto",
        description="auto: from the staged folder; runai_streamer: weights from s3:// straight into the GPU, "
        "for nodes without disk; their SHA-256 is not checked",
    )
    fast_boot: bool = Field(
        default=False,
        description="eager mode: no torch.compile and no CUDA graphs; starts sooner, generates slower",
    )
    # Without it, users wait while vLLM compiles what they are the first to ask for, seconds at a time, and
    # everybody else waits with them.
    warm_up: bool = Field(
        default=True,
        description="generate what users may ask for before the replica is ready, so that nothing is "
        "compiled in front of them; false only to measure what it saves",
    )
    # What each of 64 concurrent requests was measured to get: 2,339 to 2,635 tokens/s in all (20B, H100).
    min_tokens_per_second: float = Field(
        default=36.5,
        ge=0.1,
        description="tokens a second of one request when the engine is full; the drain follows from it",
    )
    # Between two tokens lies a step, some 10 ms, or prefill: the longest prompt, 131,072 tokens in steps of
    # 1,024, takes seconds. So do kernels that are compiled on the way.
    stall_timeout_s: float = Field(
        default=60,
        ge=1,
        description="seconds without a token and without an answer of the engine core, while requests run, "
        "after which an engine counts as hung (one that answers has a minute more): its replica is replaced",
    )
    num_gpus: float = Field(
        default=1, ge=0, le=1, description="GPUs of a replica; 0 for the CPU, less than 1 to share one"
    )
    num_cpus: Cores = Field(default=2, gt=0, description="CPU cores that Ray reserves for a replica")
    accelerator_type: str | None = Field(
        default="H100",
        # What a label's value in Ray may be.
        max_length=63,
        pattern=r"^[a-zA-Z0-9]([a-zA-Z0-9_.-]*[a-zA-Z0-9])?$",
        description="Ray's name of the GPU to insist on, or null for any",
    )
    # At least one by default: with none the first request waits out a start, 85 to 256 s for the 20B, and
    # Serve asks for no second replica before the first is ready (docs/autoscaling.md).
    min_replicas: int = Field(
        default=1,
        ge=0,
        description="engine replicas that are always there; 0 scales to zero: after a pause the first "
        "request has to wait until a replica has started",
    )
    max_replicas: int = Field(default=1, ge=1, le=MAX_REPLICAS, description="engine replicas under load")
    # The rest is room for growth while another replica starts. This and the delays were chosen by simulation
    # with Serve's own policy (docs/autoscaling.md).
    target_share: float = Field(
        default=0.6,
        gt=0,
        le=1,
        description="share of max_concurrent_requests that a replica runs on average before more are started",
    )
    # Serve averages the load over 30 s already; in a burst each 10 s more are nearly 1% more refused.
    upscale_delay_s: float = Field(
        default=5,
        ge=0,
        description="how long the load must need more engine replicas before they are started",
    )
    # Giving a GPU back and missing it costs a start, 85 to 256 s. Serve waits this long before each step.
    downscale_delay_s: float = Field(
        default=300,
        ge=0,
        description="how long the load must need fewer engine replicas before they are stopped",
    )
    max_surge_percent: int = Field(
        default=0,
        ge=0,
        le=100,
        description="engine replicas started beyond their number in an update, in percent, before old ones "
        "stop; needs as many spare GPUs. 0: old ones stop first, and a single one leaves a gap",
    )
    environment: dict[str, str] = Field(
        default={},
        description="environment variables of the engine processes; values are text, so quote numbers",
    )
    engine_overrides: dict[str, Any] = Field(
        default={}, description="further vLLM engine arguments, by vLLM's own names"
    )
    timed: TimedConfig | None = Field(
        default=None, description="for measurements: words at a set rate in place of a model; null: a model"
    )

    @field_validator("max_replicas")
    @classmethod
    def _at_least_min_replicas(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("min_replicas", value):
            raise ValueError(f"must be at least min_replicas ({info.data['min_replicas']})")
        return value

    @field_validator("environment")
    @classmethod
    def _a_process_can_have_it(cls, values: dict[str, str]) -> dict[str, str]:
        for name, value in values.items():
            if not name or "=" in name or "\0" in name + value:
                raise ValueError(f"{name!r}: a name is not empty, without =, and without NUL as its value is")
        return values

    @field_validator("engine_overrides")
    @classmethod
    def _override_nothing_derived(cls, values: dict[str, Any]) -> dict[str, Any]:
        if problems := overrides.refused(values):
            raise ValueError("; ".join(problems))
        return values

    @property
    def batched_tokens(self) -> int:
        """`max_num_batched_tokens`, with its default filled in."""
        default = GPU_BATCHED_TOKENS if self.num_gpus else CPU_BATCHED_TOKENS
        return self.max_num_batched_tokens or default

    @property
    def has_graphs(self) -> bool:
        """Whether CUDA graphs are captured. torch.compile on CPUs would build C++, slow on few cores."""
        return bool(self.num_gpus) and not self.fast_boot


class IngressConfig(Section):
    """The API replicas. They need no GPU."""

    replicas: int = Field(default=1, ge=1, le=MAX_REPLICAS, description="ingress replicas")
    num_cpus: Cores = Field(default=1, gt=0, description="CPU cores that Ray reserves for a replica")
    # A prompt of 131,072 tokens is under 1 MiB of English; the rest is room for JSON. Rendering harmony keeps
    # an ingress busy for 0.4 s a MiB (measured on one slow core), in which it serves nobody else.
    max_body_bytes: int = Field(
        default=4 * MIB_BYTES, ge=1024, description="largest request body that is read; larger ones get 413"
    )
    # Twenty seconds of one stream at its fastest; with 20 logprobs a token, 16 MiB.
    max_unread_tokens: int = Field(
        default=4096,
        ge=64,
        description="tokens that a stream's client may leave unread (beyond what sockets hold) before the "
        "stream is ended with an error",
    )
    max_chunks_per_second: float | None = Field(
        default=None,
        ge=0.1,
        description="most chunks a second of one stream: fewer and larger chunks; null: each as it comes",
    )
    # Balancers and proxies commonly cut what is silent for a minute; what fails before is still a status.
    keep_alive_s: float = Field(
        default=15,
        ge=0.1,
        description="seconds after which a stream that has nothing to send, since its request waits, is "
        "sent a comment; with the first one it has begun, and what goes wrong later is an event in it",
    )
    allowed_origins: list[str] = Field(
        default=[],
        description="origins of web pages that may use the API from a browser (CORS), or `*` for all; never "
        "with credentials",
    )
    sealing_key_file: str | None = Field(
        default=None,
        min_length=1,
        description="file with the key for `reasoning.encrypted_content`, 32 bytes in base 64, the same on "
        "all nodes with an ingress; null: a key that the cluster makes and that ends with it",
    )


class MigrationConfig(Section):
    """What becomes of an answer whose engine replica is lost: another one goes on with it."""

    max_engines: int = Field(
        default=3,
        ge=1,
        le=8,
        description="engine replicas that may work on one sequence, one after the loss of another; 1: the "
        "answer ends with an error when its engine is lost",
    )
    # A replacement with warm caches is there after 85 s. Streams are sent comments meanwhile.
    max_wait_s: float = Field(
        default=120,
        gt=0,
        description="how long a sequence waits for another engine replica with room, be it one that starts",
    )


class AdmissionConfig(Section):
    """Who waits when all engines are full, for how long, and what one API key may have."""

    max_queued_requests: int | None = Field(
        default=None,
        ge=0,
        le=MAX_QUEUED_REQUESTS,
        description="sequences that may wait, in the whole service; more get 429 at once; "
        "default: as many as max_replicas engines run",
    )
    # Longer than a request takes, so that who waits has seen others end; shorter than clients' time limits.
    max_wait_s: float = Field(
        default=30, gt=0, description="how long a request may wait for its turn before it gets 429"
    )
    max_start_wait_s: float = Field(
        default=600,
        gt=0,
        description="with min_replicas: 0, how long a request may wait for the first engine replica to start",
    )
    flex_leaves_free: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="share of all engine slots that requests with `service_tier: flex` leave to others",
    )
    key_max_requests: int | None = Field(
        default=None, ge=1, description="requests that one API key may have open; null: no limit"
    )
    key_tokens_per_minute: int | None = Field(
        default=None, ge=1, description="tokens a minute, prompts and answers, of one API key; null: no limit"
    )


class StagingConfig(Section):
    """Where a node keeps what it gets from S3, and the caches of compiled code."""

    folder: Folder = Field(
        default="~/.cache/serve_app/staged",
        description="staging folder on each node: NVMe, or below /dev/shm (then it takes RAM)",
    )
    max_bytes: int | None = Field(
        default=None,
        ge=1,
        description="budget of the folder: the least recently used versions are evicted (LRU); default: "
        "until the disk is full",
    )
    range_bytes: int = Field(default=RANGE_BYTES, ge=MIB_BYTES, description="size of one ranged GET")
    concurrency: int = Field(default=CONCURRENCY, ge=1, le=256, description="ranged GETs at a time")
    compile_cache: S3Prefix | None = Field(
        default=None,
        description="s3://BUCKET/PREFIX for what vLLM compiles; whoever may write there can run code in the "
        "engines; null: caches stay on the node",
    )
    publish_compile_cache: bool = Field(
        default=True, description="a replica that had to compile publishes its caches there"
    )

    @property
    def path(self) -> Path:
        """The folder on this node."""
        return on_this_node(self.folder)

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from serve_app.config import (
    AppConfig,
    ConfigError,
    EngineConfig,
    IngressConfig,
    ModelSource,
    Speculator,
    check_overrides,
    describe_errors,
    read_config,
)
from serve_app.config.overrides import MERGED
from serve_app.config.source import Source
from serve_app.engine_arguments import engine_arguments

CONFIGS = sorted((Path(__file__).parents[3] / "configs").glob("*.yaml"))
ENGINE: dict[str, Any] = {"max_concurrent_requests": 4}


def parse(**args: Any) -> AppConfig:
    return AppConfig.model_validate({"engine": ENGINE} | args)


def problems(**args: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(**args)
    return str(caught.value).splitlines()


def write(folder: Path, *applications: Any) -> Path:
    file = folder / "serve.yaml"
    file.write_text(yaml.safe_dump({"applications": list(applications)}))
    return file


def application(args: Any) -> dict[str, Any]:
    return {"name": "a", "route_prefix": "/", "import_path": "serve_app.app:build", "args": args}


def test_defaults() -> None:
    config = parse()
    assert config.model == ModelSource(
        id="openai/gpt-oss-20b",
        source=Source.parse("hf:openai/gpt-oss-20b"),
        served_names=("openai/gpt-oss-20b",),
    )
    assert config.speculator is None
    assert config.num_draft_tokens == 0
    assert config.engine.max_model_len == 32768
    assert config.engine.batched_tokens == 8192
    assert config.ingress.max_body_bytes == 4 * 1024 * 1024


def test_source_and_names_follow_the_id() -> None:
    model = parse(model={"id": "openai/gpt-oss-120b"}).model
    assert str(model.source) == "hf:openai/gpt-oss-120b"
    assert model.served_names == ("openai/gpt-oss-120b",)


def test_cpus_take_smaller_steps() -> None:
    assert parse(engine=ENGINE | {"num_gpus": 0}).engine.batched_tokens == 2048


def test_every_field_says_what_it_is() -> None:
    for model in (AppConfig, EngineConfig, ModelSource, Speculator):
        assert [name for name, field in model.model_fields.items() if not field.description] == []


def test_the_tree_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        parse().engine.max_model_len = 1


@pytest.mark.parametrize(
    "source",
    [
        "hf:openai/gpt-oss-20b",
        "s3://bucket/models/gpt-oss-20b",
        "s3://my.bucket-1/a/",
        "file:/models/a",
        "file:~/models/a",
        "file:$MODELS/a",
        "file:${MODELS}/a",
    ],
)
def test_sources(source: str) -> None:
    assert parse(model={"source": source}).model.source == Source.parse(source)


@pytest.mark.parametrize(
    "source",
    [
        *("openai/gpt-oss-20b", "hf:gpt-oss", "hf:a/b/c", "file:models/a", "file:", "http://x/y", ""),
        *("s3://", "s3://bucket", "s3://bucket/", "s3:bucket/a", "s3://bucket//a", "s3:///a"),
    ],
)
def test_other_sources_are_refused(source: str) -> None:
    [line] = problems(model={"source": source})
    assert line.startswith(f"model.source: {source!r}: ")
    assert "hf:ORG/NAME" in line
    assert "file:FOLDER" in line
    assert "s3://BUCKET/PREFIX" in line


def test_an_id_that_is_no_repository_needs_a_source() -> None:
    [line] = problems(model={"id": "gpt-oss-demo"})
    assert line.startswith("model.source: 'hf:gpt-oss-demo': ")


def test_revision_belongs_to_the_hub() -> None:
    assert parse(model={"revision": "abc"}).model.revision == "abc"
    [line] = problems(model={"source": "file:/a", "revision": "abc"})
    assert line.startswith("model.revision: 'abc': a folder has no revisions")


def test_revision_of_s3_is_a_digest() -> None:
    source = "s3://bucket/models/a"
    assert parse(model={"source": source, "revision": "0123abcd"}).model.revision == "0123abcd"
    for revision in ["main", "0123abc", "0123ABCD", "0123abcx"]:
        [line] = problems(model={"source": source, "revision": revision})
        assert line.startswith(f"model.revision: {revision!r}: must be the digest")


def test_the_streamer_reads_from_s3() -> None:
    engine = ENGINE | {"load_format": "runai_streamer"}
    [line] = problems(engine=engine)
    assert line.startswith("engine.load_format: runai_streamer: needs model.source s3://BUCKET/PREFIX")
    config = parse(model={"source": "s3://bucket/a"}, engine=engine)
    assert config.engine.load_format == "runai_streamer"


def test_the_staging_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("DISK", "/mnt/nvme")
    assert parse().staging.path == Path("/home/someone/.cache/serve_app/staged")
    assert parse(staging={"folder": "$DISK/staged"}).staging.path == Path("/mnt/nvme/staged")
    [line] = problems(staging={"folder": "staged"})
    assert line.startswith("staging.folder: 'staged': must be absolute")


def test_admission_as_it_is_without_a_word() -> None:
    assert parse().admission.model_dump() == {
        "max_queued_requests": None,
        "max_wait_s": 30,
        "max_start_wait_s": 600,
        "flex_leaves_free": 0.1,
        "key_max_requests": None,
        "key_tokens_per_minute": None,
    }
    assert parse(admission={"max_queued_requests": 0}).admission.max_queued_requests == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_queued_requests", -1),
        ("max_wait_s", 0),
        ("max_start_wait_s", 0),
        ("flex_leaves_free", 1),
        ("flex_leaves_free", -0.1),
        ("key_max_requests", 0),
        ("key_tokens_per_minute", 0),
    ],
)
def test_limits_of_admission_have_bounds(key: str, value: float) -> None:
    [line] = problems(admission={key: value})
    assert line.startswith(f"admission.{key}: {value}: ")


@pytest.mark.parametrize("percent", [-1, 101])
def test_spare_engines_of_an_update_are_at_most_as_many_again(percent: int) -> None:
    assert parse().engine.max_surge_percent == 0
    [line] = problems(engine=ENGINE | {"max_surge_percent": percent})
    assert line.startswith(f"engine.max_surge_percent: {percent}: ")


@pytest.mark.parametrize("location", ["/cache", "s3://bucket", "file:/cache"])
def test_a_compile_cache_lies_in_s3(location: str) -> None:
    [line] = problems(staging={"compile_cache": location})
    assert line.startswith(f"staging.compile_cache: {location!r}: allowed is s3://BUCKET/PREFIX")


@pytest.mark.parametrize("names", [[], ["a", "a"], [""]])
def test_served_names_are_unique_and_some(names: list[str]) -> None:
    [line] = problems(model={"served_names": names})
    assert line.startswith("model.served_names: ")


@pytest.mark.parametrize("num_draft_tokens", [0, 9])
def test_draft_tokens_have_bounds(num_draft_tokens: int) -> None:
    [line] = problems(speculator={"source": "hf:a/b", "num_draft_tokens": num_draft_tokens})
    assert line.startswith(f"speculator.num_draft_tokens: {num_draft_tokens}: must be ")


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("max_concurrent_requests", 0, "must be greater than or equal to 1"),
        ("kv_cache_dtype", "fp4", "must be 'auto', 'bfloat16', 'fp8' or 'fp8_e4m3'"),
        ("gpu_memory_utilization", 1.0, "must be less than or equal to 0.98"),
        ("num_gpus", 2, "must be less than or equal to 1"),
        ("num_cpus", 0, "must be greater than 0"),
        ("min_replicas", -1, "must be greater than or equal to 0"),
        ("target_share", 0, "must be greater than 0"),
        ("target_share", 1.1, "must be less than or equal to 1"),
        ("max_replicas", 0, "must be greater than or equal to 1"),
        ("max_model_len", "long", "must be a valid integer"),
        ("fast_boot", "perhaps", "must be a valid boolean"),
    ],
)
def test_a_problem_names_the_key_the_value_and_what_is_allowed(key: str, value: Any, allowed: str) -> None:
    [line] = problems(engine=ENGINE | {key: value})
    assert line.startswith(f"engine.{key}: {value!r}: {allowed}")


def test_every_problem_has_its_line() -> None:
    lines = problems(engine=ENGINE | {"num_cpus": 0, "max_model_len": 1}, ingress={"replicas": 0})
    assert [line.split(":")[0] for line in lines] == [
        "engine.max_model_len",
        "engine.num_cpus",
        "ingress.replicas",
    ]


def test_a_misspelt_key() -> None:
    [line] = problems(engine=ENGINE | {"max_model_length": 4096})
    assert line.startswith("engine.max_model_length: unknown key (value 4096) (did you mean max_model_len?)")
    assert "gpu_memory_utilization" in line
    [line] = problems(engin={})
    assert line.startswith("engin: unknown key (value {}) (did you mean engine?)")


def test_a_missing_key_says_what_it_is_for() -> None:
    [line] = problems(engine={})
    assert line.startswith("engine.max_concurrent_requests: not set, and it has no default: sequences that")


@pytest.mark.parametrize("section", [None, [], "text", 3])
def test_a_section_is_a_mapping(section: Any) -> None:
    [line] = problems(ingress=section)
    keys = ", ".join(IngressConfig.model_fields)
    assert line == f"ingress: {section!r}: must be a mapping with the keys {keys}"


def test_more_max_replicas_than_min_replicas() -> None:
    assert parse(engine=ENGINE | {"min_replicas": 2, "max_replicas": 2}).engine.max_replicas == 2
    [line] = problems(engine=ENGINE | {"min_replicas": 2})
    assert line == "engine.max_replicas: 1: must be at least min_replicas (2)"


def test_none_may_be_there_but_one_at_the_most() -> None:
    assert parse(engine=ENGINE | {"min_replicas": 0}).engine.min_replicas == 0
    [line] = problems(engine=ENGINE | {"min_replicas": 0, "max_replicas": 0})
    assert line.startswith("engine.max_replicas: 0: must be greater than or equal to 1")


def test_environment_is_text() -> None:
    [line] = problems(engine=ENGINE | {"environment": {"OMP_NUM_THREADS": 1}})
    assert line == "engine.environment.OMP_NUM_THREADS: 1: must be text; put it in quotes"


def test_a_step_holds_the_largest_decode_batch() -> None:
    speculator = {"source": "hf:a/b", "num_draft_tokens": 3}
    engine = {"max_concurrent_requests": 64, "max_num_batched_tokens": 256}
    assert parse(engine=engine, speculator=speculator).engine.batched_tokens == 256
    [line] = problems(engine=engine | {"max_num_batched_tokens": 255}, speculator=speculator)
    assert line.startswith("engine.max_num_batched_tokens: 255: must be at least 256: ")


def test_serve_gets_the_same_message_as_the_command_line() -> None:
    """Serve's controller calls `model_validate` on the annotation of `build`."""
    with pytest.raises(ConfigError, match=r"^engine: not set, and it has no default: the engine replicas$"):
        AppConfig.model_validate({})


def test_describe_errors_of_a_part() -> None:
    with pytest.raises(ValidationError) as caught:
        EngineConfig(max_concurrent_requests=0)
    assert describe_errors(caught.value) == "max_concurrent_requests: 0: must be greater than or equal to 1"


@pytest.mark.parametrize(
    ("override", "instead"),
    [
        ({"max_num_seqs": 1}, "engine.max_concurrent_requests"),
        ({"max_num_active_seqs": 1}, "engine.max_concurrent_requests"),
        ({"model": "a"}, "model.source"),
        ({"kv_cache_dtype": "auto"}, "engine.kv_cache_dtype"),
        ({"enforce_eager": True}, "engine.fast_boot"),
        ({"spec_tokens": 2}, "speculator.num_draft_tokens"),
        ({"tensor_parallel_size": 2}, "one engine replica is one GPU"),
        ({"speculative_config": {"num_speculative_tokens": 2}}, "speculator.num_draft_tokens"),
    ],
)
def test_an_override_of_what_is_derived_says_what_to_set(override: dict[str, Any], instead: str) -> None:
    [line] = problems(engine=ENGINE | {"engine_overrides": override}, speculator={"source": "hf:a/b"})
    assert line.startswith("engine.engine_overrides: {")
    assert f"{next(iter(override))}" in line
    assert instead in line


def test_overrides_that_add_to_what_is_derived() -> None:
    overrides = {
        "compilation_config": {"mode": 3},
        "speculative_config": {"rejection_sample_method": "block"},
    }
    config = parse(engine=ENGINE | {"engine_overrides": overrides}, speculator={"source": "hf:a/b"})
    assert config.engine.engine_overrides == overrides
    [line] = problems(engine=ENGINE | {"engine_overrides": overrides})
    assert line == "engine.engine_overrides.speculative_config: there is no speculator; set one"


def test_a_merged_override_is_a_mapping() -> None:
    [line] = problems(engine=ENGINE | {"engine_overrides": {"compilation_config": 3}})
    assert "compilation_config must be a mapping" in line


def test_override_names_are_vllms() -> None:
    names = ["block_size", "max_logprobs", "dtype"]
    check_overrides(parse(engine=ENGINE | {"engine_overrides": {"block_size": 32}}), names)
    check_overrides(parse(), names)
    with pytest.raises(ConfigError) as caught:
        check_overrides(parse(engine=ENGINE | {"engine_overrides": {"blok_size": 32, "zzz": 1}}), names)
    first, second = str(caught.value).splitlines()
    assert first.startswith("engine.engine_overrides.blok_size: 32: ")
    assert "(did you mean block_size?)" in first
    assert second.startswith("engine.engine_overrides.zzz: 1: ")
    assert "did you mean" not in second


def test_override_values_are_for_vllm_to_judge() -> None:
    config = parse(engine=ENGINE | {"engine_overrides": {"block_size": 32, "zzz": 1, "dtype": "x"}})
    asked: list[str] = []

    def problems(names: Collection[str]) -> list[str]:
        asked.extend(names)
        return ["dtype: 'x': no"]

    with pytest.raises(ConfigError) as caught:
        check_overrides(config, ["block_size", "dtype"], problems)
    assert asked == ["block_size", "dtype"]
    assert str(caught.value).splitlines()[1:] == ["engine.engine_overrides.dtype: 'x': no"]


@pytest.mark.parametrize(
    "override",
    [
        {"structured_outputs_config": {"backend": "guidance"}},
        {"structured_outputs_config": {"reasoning_parser": "qwen3"}},
        {"reasoning_parser": "qwen3"},
        {"generation_config": "vllm"},
    ],
)
def test_an_override_of_what_the_service_is_made_for(override: dict[str, Any]) -> None:
    [line] = problems(engine=ENGINE | {"engine_overrides": override})
    assert " cannot be set: " in line


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_derived_mapping_is_merged(path: Path) -> None:
    """Another than a mapping in its place would take away what is derived."""
    derived = engine_arguments(read_config(path), "/model", "/speculator")
    assert {name for name, value in derived.items() if isinstance(value, dict)} <= set(MERGED)


@pytest.mark.parametrize(
    ("num_gpus", "share", "is_good"),
    [
        (1, 0.9, True),
        (0, 0.9, True),
        (0.5, 0.5, True),
        (0.5, 0.51, False),
        (0.5, 0.9, False),
        (0.3, 0.3, True),
    ],
)
def test_replicas_that_share_a_gpu_share_its_memory(num_gpus: float, share: float, is_good: bool) -> None:
    engine = ENGINE | {"num_gpus": num_gpus, "gpu_memory_utilization": share}
    if is_good:
        assert parse(engine=engine).engine.num_gpus == num_gpus
        return
    [line] = problems(engine=engine)
    assert line == (
        f"engine.gpu_memory_utilization: {share}: must be at most engine.num_gpus ({num_gpus}): another "
        "replica may have the rest of the GPU"
    )


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_numbers_are_finite(number: float) -> None:
    [line] = problems(drain_timeout_s=number)
    assert line.startswith("drain_timeout_s: ")


@pytest.mark.parametrize("environment", [{"": "a"}, {"A=B": "a"}, {"A\0": "a"}, {"A": "a\0"}])
def test_an_environment_is_one_that_a_process_can_have(environment: dict[str, str]) -> None:
    [line] = problems(engine=ENGINE | {"environment": environment})
    assert line.startswith("engine.environment: ")


@pytest.mark.parametrize("cores", [0.00001, 1e30, -1, 0])
def test_cores_are_what_ray_can_count(cores: float) -> None:
    for line in problems(engine=ENGINE | {"num_cpus": cores}) + problems(ingress={"num_cpus": cores}):
        assert ".num_cpus: " in line


def test_read_config(tmp_path: Path) -> None:
    other = {"name": "b", "route_prefix": "/b", "import_path": "other:app"}
    assert read_config(write(tmp_path, other, application({"engine": ENGINE}))) == parse()


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        read_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", "is not YAML: "),
        (b"\xff\xfe\x00", "is not "),
        (b"", "no `applications` list"),
        (b"text", "no `applications` list"),
        (b"applications: 3", "no `applications` list"),
        (b"applications: []", "0 applications with import_path serve_app.app:build"),
        (b"applications: [3, {import_path: other}]", "0 applications with"),
    ],
)
def test_not_a_serve_config(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_config(file)
    assert str(caught.value).startswith(f"{file}: {message}")
    assert "\n" not in str(caught.value)


def test_two_applications_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"2 applications with import_path"):
        read_config(write(tmp_path, application({"engine": ENGINE}), application({"engine": ENGINE})))


@pytest.mark.parametrize("args", [None, {}])
def test_empty_args(tmp_path: Path, args: Any) -> None:
    file = write(tmp_path, application(args))
    with pytest.raises(ConfigError) as caught:
        read_config(file)
    assert str(caught.value) == f"{file}: engine: not set, and it has no default: the engine replicas"


def test_no_args_at_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="engine: not set"):
        read_config(write(tmp_path, {"name": "a", "import_path": "serve_app.app:build"}))


@pytest.mark.parametrize("args", [3, [1], "text"])
def test_args_are_a_mapping(tmp_path: Path, args: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"args: .*: must be a mapping with the keys model, speculator, engine"
    ):
        read_config(write(tmp_path, application(args)))


def test_every_line_of_a_files_problems_names_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, application({"engine": {"max_concurrent_requests": 0, "num_cpus": 0}}))
    with pytest.raises(ConfigError) as caught:
        read_config(file)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"{file}: engine.") for line in lines)


def test_a_timed_engine() -> None:
    timed = parse(engine=ENGINE | {"num_gpus": 0, "timed": {}}).engine.timed
    assert timed is not None
    assert (timed.steps_per_second, timed.tokens_per_step, timed.record_path) == (60, 1, None)
    assert parse().engine.timed is None
    [line] = problems(engine=ENGINE | {"timed": {}})
    assert line == "engine.num_gpus: 1: must be 0 with engine.timed, which needs none"
    [line] = problems(engine=ENGINE | {"num_gpus": 0, "timed": {"record": "here"}})
    assert line.startswith("engine.timed.record: 'here': must be absolute")


def test_the_record_is_expanded_on_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECORDS", "/records")
    timed = parse(engine=ENGINE | {"num_gpus": 0, "timed": {"record": "$RECORDS/a"}}).engine.timed
    assert timed
    assert timed.record_path == Path("/records/a")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_configs_of_this_repository(path: Path) -> None:
    read_config(path)


def test_the_configs_are_there() -> None:
    assert {path.name for path in CONFIGS} >= {"local.yaml", "prod.yaml", "prod-120b.yaml"}

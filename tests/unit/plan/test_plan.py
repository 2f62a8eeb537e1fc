import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.config import AppConfig, read_config
from serve_app.plan import __main__ as plan
from serve_app.plan.contents import H100_MEMORY_GIB, make_plan
from serve_app.plan.memory import GIB_BYTES

CONFIGS = Path(__file__).parents[3] / "configs"
H100_BYTES = int(H100_MEMORY_GIB * GIB_BYTES)
LAYER = {
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 64,
}
DEMO_MODEL = LAYER | {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_local_experts": 8,
    "num_experts_per_tok": 4,
    "sliding_window": 128,
    "vocab_size": 201088,
}
DEMO_SPECULATOR = LAYER | {"num_hidden_layers": 1, "draft_vocab_size": 2048}


def config_file(folder: Path, args: Any) -> str:
    file = folder / "serve.yaml"
    application = {"name": "a", "route_prefix": "/", "import_path": "serve_app.app:build", "args": args}
    file.write_text(yaml.safe_dump({"applications": [application]}))
    return str(file)


def demo(folder: Path, **engine: Any) -> dict[str, Any]:
    """Args for a demo checkpoint in `folder`, on CPUs."""
    for name, shape in (("demo", DEMO_MODEL), ("demo-eagle3", DEMO_SPECULATOR)):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(shape))
    return {
        "model": {"id": "demo", "source": f"file:{folder}/demo"},
        "speculator": {"source": f"file:{folder}/demo-eagle3"},
        "engine": {"max_concurrent_requests": 16, "max_model_len": 4096, "num_gpus": 0} | engine,
    }


@pytest.mark.parametrize("name", ["prod.yaml", "prod-120b.yaml"])
def test_production_configs_fit_an_80_gb_h100(name: str) -> None:
    result = make_plan(read_config(CONFIGS / name), H100_BYTES, 0)
    assert (result["problems"], result["notes"]) == ([], [])
    [configured] = [column for column in result["memory"] if column["is_configured"]]
    assert configured["name"] == result["model"]["id"].split("/")[-1]
    assert configured["requests_at_max_model_len"] > result["max_concurrent_requests"]


@pytest.mark.parametrize("name", ["prod.yaml", "prod-120b.yaml", "local.yaml"])
def test_text(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main([str(CONFIGS / name)]) == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    assert max(map(len, output.splitlines())) <= max(100, len(str(CONFIGS / name)) + 30)
    assert output.startswith(f"{CONFIGS / name}: ")
    for part in ("max_num_seqs", "max_ongoing_requests", "CUDA-graph sizes", "gpt-oss-20b", "gpt-oss-120b"):
        assert part in output
    assert "WARNING" not in output
    assert "ERROR" not in output


def test_the_configured_model_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    plan.main([str(CONFIGS / "prod.yaml")])
    output = capsys.readouterr().out
    assert "* gpt-oss-20b" in output
    assert "* gpt-oss-120b" not in output
    assert "4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256" in output


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(["--json", str(CONFIGS / "prod.yaml")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["file"] == str(CONFIGS / "prod.yaml")
    assert (
        result["engine_arguments"]["max_num_seqs"] == result["engine_options"]["max_ongoing_requests"] == 64
    )
    assert result["capture_sizes"][-1] == 256
    assert [column["name"] for column in result["memory"]] == ["gpt-oss-20b", "gpt-oss-120b"]


def test_check_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    for path in CONFIGS.glob("*.yaml"):
        assert plan.main(["--check", str(path)]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("options", [[], ["--check"], ["--json"]])
def test_a_wrong_file(tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    file = config_file(tmp_path, {"engine": {"max_concurrent_requests": 0}})
    assert plan.main([*options, file]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors == f"{file}: engine.max_concurrent_requests: 0: must be greater than or equal to 1\n"


def test_warnings_do_not_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = config_file(
        tmp_path, {"model": {"id": "openai/gpt-oss-120b"}, "engine": {"max_concurrent_requests": 64}}
    )
    assert plan.main([file]) == 0
    assert "WARNING: the KV cache holds " in capsys.readouterr().out


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_errors_do(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    """The file is right, and the engine would not start."""
    file = config_file(
        tmp_path, {"model": {"id": "openai/gpt-oss-120b"}, "engine": {"max_concurrent_requests": 64}}
    )
    assert plan.main([file, "--gpu-memory-gib", "48", *options]) == 1
    output = capsys.readouterr().out
    if options:
        assert [problem["level"] for problem in json.loads(output)["problems"]] == ["error"]
        return
    assert "ERROR: weights and working memory do not fit" in output


def test_a_demo_folder_has_a_column_of_its_own(tmp_path: Path) -> None:
    args = demo(tmp_path, kv_cache_memory_bytes=GIB_BYTES, gpu_memory_utilization=0.1)
    result = make_plan(AppConfig.model_validate(args), H100_BYTES, 16 * GIB_BYTES)
    first, *others = result["memory"]
    assert (first["name"], first["device"], first["is_configured"]) == ("demo", "RAM", True)
    assert first["kv_cache_bytes"] == GIB_BYTES
    assert first["total_bytes"] == 16 * GIB_BYTES
    assert [(column["name"], column["is_configured"]) for column in others] == [
        ("gpt-oss-20b", False),
        ("gpt-oss-120b", False),
    ]
    assert (result["problems"], result["notes"]) == ([], [])
    assert result["capture_sizes"] == []


def test_a_folder_on_a_gpu_has_one_too(tmp_path: Path) -> None:
    args = demo(tmp_path, num_gpus=1)
    result = make_plan(AppConfig.model_validate(args), H100_BYTES, 0)
    assert [column["name"] for column in result["memory"]] == ["demo", "gpt-oss-20b", "gpt-oss-120b"]
    assert result["memory"][0]["is_configured"]
    assert result["memory"][0]["device"] == "80 GB H100"


def test_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    args = {"model": {"source": f"file:{tmp_path}/none"}, "engine": {"max_concurrent_requests": 1}}
    result = make_plan(AppConfig.model_validate(args), H100_BYTES, 0)
    assert [column["is_configured"] for column in result["memory"]] == [False, False]
    [note] = result["notes"]
    assert note.startswith(f"{tmp_path}/none/config.json is not there yet")


@pytest.mark.parametrize("content", ["[]", "{}", "{"])
def test_a_folder_of_something_else(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    args = {"model": {"source": f"file:{tmp_path}"}, "engine": {"max_concurrent_requests": 1}}
    [note] = make_plan(AppConfig.model_validate(args), H100_BYTES, 0)["notes"]
    assert note.endswith("the memory of this model is not planned")


def test_a_model_of_unknown_shape() -> None:
    args = {"model": {"id": "a/b"}, "engine": {"max_concurrent_requests": 1}}
    [note] = make_plan(AppConfig.model_validate(args), H100_BYTES, 0)["notes"]
    assert note == "the shape of a/b is not known here, so its memory is not planned"


def test_without_vllm_names_are_not_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "serve_app.vllm_adapter", None)
    file = config_file(
        tmp_path, {"engine": {"max_concurrent_requests": 1, "engine_overrides": {"no_such_name": 1}}}
    )
    assert plan.main(["--check", file]) == 0
    assert plan.main([file]) == 0
    assert "NOTE: vLLM is not installed here" in capsys.readouterr().out


def test_without_ray_args_are_checked_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "serve_app.serve_file", None)
    monkeypatch.delattr("serve_app.serve_file", raising=False)
    file = config_file(tmp_path, {"engine": {"max_concurrent_requests": 1}})
    assert plan.main([file]) == 0
    assert "NOTE: Ray is not installed here" in capsys.readouterr().out


def test_override_names_are_checked_where_vllm_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = types.SimpleNamespace(
        argument_names=lambda: frozenset({"block_size"}), argument_problems=lambda values: []
    )
    monkeypatch.setitem(sys.modules, "serve_app.vllm_adapter", adapter)
    file = config_file(
        tmp_path, {"engine": {"max_concurrent_requests": 1, "engine_overrides": {"blok_size": 1}}}
    )
    assert plan.main(["--check", file]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith(f"{file}: engine.engine_overrides.blok_size: 1: ")


# --- what a start builds -------------------------------------------------------------------------------


def check(folder: Path, document: Any, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What `--check` says of a Serve config, each line without the file's name."""
    file = folder / "serve.yaml"
    file.write_text(yaml.safe_dump(document))
    status = plan.main(["--check", str(file)])
    output, errors = capsys.readouterr()
    lines = errors.splitlines()
    assert output == ""
    assert status == (2 if lines else 0)
    assert all(line.startswith(f"{file}: ") for line in lines)
    return [line.removeprefix(f"{file}: ") for line in lines]


def serve_config(**changes: Any) -> dict[str, Any]:
    """configs/prod.yaml, with keys of the file or of our application changed."""
    document: dict[str, Any] = yaml.safe_load((CONFIGS / "prod.yaml").read_text())
    for key, value in changes.items():
        (document if key in document else document["applications"][0])[key] = value
    return document


@pytest.mark.parametrize("prefix", ["/", "/v2", "/a/b"])
def test_prefixes_of_the_api(tmp_path: Path, capsys: pytest.CaptureFixture[str], prefix: str) -> None:
    assert check(tmp_path, serve_config(route_prefix=prefix), capsys) == []


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"route_prefix": None}, "route_prefix: null: "),
        ({"route_prefix": "v2"}, "route_prefix: 'v2': "),
        ({"route_prefix": "/v2/"}, "route_prefix: '/v2/': "),
        ({"route_prefix": "/{a}"}, "route_prefix: '/{a}': "),
        ({"route_prefix": 2}, "applications.0.route_prefix: 2: "),
        ({"runtime_env": {"working_dir": "./here"}}, "applications.0.runtime_env: "),
        ({"runtime_env": "here"}, "applications.0.runtime_env: 'here': "),
        ({"proxy_location": "Disabled"}, "proxy_location: Disabled: "),
        ({"proxy_location": "Somewhere"}, "proxy_location: 'Somewhere': "),
        ({"http_options": {"port": "http"}}, "http_options.port: 'http': "),
        ({"http_options": None}, "http_options: None: "),
        ({"port": 1}, "the file: "),
        ({"deployments": [{"name": "Engin"}]}, "deployments: Engin: there is no such deployment; there are "),
        (
            {"deployments": [{"name": "Engine", "max_ongoing_requests": 1}]},
            "deployments.Engine.max_ongoing_requests: follows from args",
        ),
        ({"deployments": [{"name": "Gate", "num_replicas": 2}]}, "deployments.Gate.num_replicas: follows"),
        ({"deployments": [{"max_ongoing_requests": 1}]}, "applications.0.deployments.0.name: "),
    ],
)
def test_what_stands_outside_of_args_is_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], key: str
) -> None:
    [line] = check(tmp_path, serve_config(**changes), capsys)
    assert line.startswith(key)


def test_a_replicas_log_is_anybodys_choice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deployments = [{"name": "Ingress", "logging_config": {"enable_access_log": True}}]
    assert check(tmp_path, serve_config(deployments=deployments), capsys) == []


def test_the_environment_of_the_start_is_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    monkeypatch.setenv("RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S", "899")
    [line] = check(tmp_path, serve_config(), capsys)
    assert line.startswith("drain_timeout_s: ")
    monkeypatch.setenv("RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S", "900")
    assert check(tmp_path, serve_config(), capsys) == []


def test_the_drain_in_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    """What scripts/serve sets HAProxy's hard stop to."""
    assert plan.main(["--drain-seconds", str(CONFIGS / "prod.yaml")]) == 0
    assert capsys.readouterr().out == "900\n"

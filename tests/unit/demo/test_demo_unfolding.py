import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.demo import DATA
from serve_app.demo.shape import SHAPE, generation_config, model_config
from serve_app.demo.unfolding import unfold
from serve_app.harmony.vocabulary_file import SHA256, packaged

MEBIBYTE = 2**20


def test_committed_data_is_small() -> None:
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 10 * MEBIBYTE


def test_vocabulary_is_the_published_one() -> None:
    assert hashlib.sha256(packaged()).hexdigest() == SHA256


def test_configuration_says_what_gpt_oss_says() -> None:
    config = model_config(SHAPE, mxfp4=True)
    assert config["quantization_config"]["quant_method"] == "mxfp4"
    assert config["layer_types"][:2] == ["sliding_attention", "full_attention"]
    assert len(config["layer_types"]) == config["num_hidden_layers"]
    assert "quantization_config" not in model_config(SHAPE, mxfp4=False)
    assert generation_config()["eos_token_id"] == [200002, 199999, 200012]


def test_importing_the_command_needs_no_engine() -> None:
    heavy = ("ray", "vllm", "torch")
    code = f"import sys, serve_app.demo.__main__; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_unfolds_once(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    from safetensors import safe_open

    said: list[str] = []
    unfold(tmp_path, "mxfp4", said.append)
    assert [line.split()[0] for line in said] == ["wrote"] * 3
    model, speculator = tmp_path / "gpt-oss-demo", tmp_path / "gpt-oss-demo-eagle3"
    for name in ("config.json", "model.safetensors", "tokenizer.json", "generation_config.json"):
        assert (model / name).is_file()
    vocabulary = (tmp_path / "vocabulary" / "o200k_base.tiktoken").read_bytes()
    assert hashlib.sha256(vocabulary).hexdigest() == SHA256
    with safe_open(model / "model.safetensors", "pt") as tensors:
        assert tensors.get_slice("lm_head.weight").get_shape() == [201088, SHAPE.hidden_size]
        assert tensors.get_tensor("model.layers.0.mlp.experts.down_proj_blocks").dtype == torch.uint8
    drafts = json.loads((speculator / "config.json").read_text())["draft_vocab_size"]
    with safe_open(speculator / "model.safetensors", "pt") as tensors:
        assert tensors.get_slice("lm_head.weight").get_shape() == [drafts, SHAPE.hidden_size]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []

    said.clear()
    unfold(tmp_path, "mxfp4", said.append)
    assert [line.split()[0] for line in said] == ["have"] * 3

    said.clear()
    unfold(tmp_path, "bfloat16", said.append)
    assert [line.split()[0] for line in said] == ["have", "wrote", "have"]

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from serve_app.demo import checkpoint  # noqa: E402
from serve_app.demo.model import Model  # noqa: E402
from serve_app.demo.shape import SHAPE  # noqa: E402
from serve_app.demo.speculator import Speculator  # noqa: E402

TINY = replace(
    SHAPE,
    hidden_size=64,
    num_hidden_layers=2,
    intermediate_size=32,
    vocab_size=50,
    speculator_intermediate_size=32,
    num_local_experts=4,
    num_experts_per_tok=2,
    aux_layers=(0, 1, 2),
    original_max_position_embeddings=512,
)
ROWS = [3, 10, 11, 40]


def compact() -> tuple[Model, checkpoint.Tensors]:
    torch.manual_seed(0)
    model, speculator = Model(TINY, len(ROWS)), Speculator(TINY, len(ROWS))
    return model, checkpoint.to_compact(model, speculator, ROWS)


def test_compact_form_survives_the_file_and_loading(tmp_path: Path) -> None:
    _, tensors = compact()
    checkpoint.save(tensors, tmp_path / "w.xz", preset=0)
    loaded = checkpoint.load(tmp_path / "w.xz")
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    model, speculator = Model(TINY, len(ROWS)), Speculator(TINY, len(ROWS))
    checkpoint.from_compact(loaded, model, speculator)
    # Packing again may choose another exponent for the same values, so compare the values.
    again = checkpoint.target_tensors(checkpoint.to_compact(model, speculator, ROWS), TINY, packed=False)
    before = checkpoint.target_tensors(tensors, TINY, packed=False)
    assert all(torch.equal(again[name], before[name]) for name in before)


def test_unused_tokens_share_the_last_row() -> None:
    _, tensors = compact()
    full = checkpoint.target_tensors(tensors, TINY, packed=True)["lm_head.weight"]
    assert full.shape == (50, 64)
    assert torch.equal(full[ROWS], tensors["target.lm_head"][:-1])
    assert torch.equal(full[0], tensors["target.lm_head"][-1])
    assert torch.equal(full[49], full[0])


def test_both_expert_formats_hold_the_same_values() -> None:
    _, tensors = compact()
    packed = checkpoint.target_tensors(tensors, TINY, packed=True)
    plain = checkpoint.target_tensors(tensors, TINY, packed=False)
    name = "model.layers.1.mlp.experts.gate_up_proj"
    assert packed[f"{name}_blocks"].shape == (4, 64, 2, 16)
    assert plain[name].shape == (4, 64, 64)
    from serve_app.demo import mxfp4

    values = mxfp4.unpack(packed[f"{name}_blocks"], packed[f"{name}_scales"])
    assert torch.equal(plain[name].float(), values.transpose(1, 2))


def test_draft_rows_lead_to_their_tokens() -> None:
    _, tensors = compact()
    draft = checkpoint.draft_tensors(tensors, TINY)
    assert (draft["d2t"] + torch.arange(len(ROWS))).tolist() == ROWS
    assert draft["t2d"].nonzero().flatten().tolist() == ROWS
    assert "midlayer.self_attn.q_proj.weight" in draft
    assert draft["fc.weight"].shape == (64, 192)


def test_other_rows_keep_the_weights_of_known_tokens() -> None:
    _, tensors = compact()
    moved = checkpoint.with_rows(tensors, [10, 12, 40])
    assert torch.equal(moved["target.embed_tokens"][0], tensors["target.embed_tokens"][1])
    assert torch.equal(moved["target.embed_tokens"][1], tensors["target.embed_tokens"][-1])
    assert moved["draft.lm_head"].shape == (3, 64)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_training_model_computes_what_transformers_does() -> None:
    transformers = pytest.importorskip("transformers")
    from serve_app.demo.shape import model_config

    model, tensors = compact()
    checkpoint.from_compact(tensors, model, None)
    config = transformers.GptOssConfig(
        **model_config(TINY, mxfp4=False) | {"pad_token_id": None, "eos_token_id": None}
    )
    reference = transformers.GptOssForCausalLM(config).float().eval()
    weights = checkpoint.target_tensors(tensors, TINY, packed=False)
    reference.load_state_dict({name: value.float() for name, value in weights.items()})
    tokens = torch.tensor([[ROWS[i % 4] if i % 5 else 7 for i in range(300)]])
    rows = torch.tensor([[ROWS.index(t) if t in ROWS else len(ROWS) for t in tokens[0].tolist()]])
    positions = torch.arange(300)[None]
    with torch.no_grad():
        hidden, _ = model(rows, positions, torch.zeros_like(positions))
        expected = reference(tokens).logits[0, :, ROWS]
    assert torch.allclose(model.logits(hidden)[0, :, :-1], expected, atol=2e-3)

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.serving import chain, weights
from benchmarks.serving.chain import Floats
from serve_app.harmony import vocabulary_file

SHAPE = replace(
    weights.FULL,
    hidden_size=256,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    num_local_experts=32,
    intermediate_size=32,
    speculator_intermediate_size=64,
    aux_layers=(0, 1, 2),
)
Rows = slice | list[int]
DRAFT_ROWS = 4000
ASSISTANT, MESSAGE = 173781, chain.MESSAGE
OUTSIDE = [0, 1000, 150_000, 200_002, 201_087]
VOCABULARY = vocabulary_file.packaged()
LINKS = chain.chain(VOCABULARY)
# A part of the vocabulary is enough to look at.
SHOWN = sorted({*LINKS.tokens, *range(0, SHAPE.vocab_size, 16)})


class File:
    """A safetensors file, read without torch: numpy has no bfloat16."""

    def __init__(self, path: Path) -> None:
        content = path.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        self.tensors = json.loads(content[8:end])
        self.content = np.frombuffer(content, dtype=np.uint8, offset=end)

    def raw(self, name: str, dtype: str) -> NDArray[np.generic]:
        tensor = self.tensors[name]
        first, last = tensor["data_offsets"]
        return self.content[first:last].view(dtype).reshape(tensor["shape"])

    def floats(self, name: str, rows: Rows = slice(None)) -> Floats:
        return chain.as_floats(self.raw(name, "<u2")[rows].astype(np.uint16))


class Model:
    """The folders, and what vLLM would compute with them, as far as it matters."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        files = [File(path) for path in sorted((folder / "gpt-oss-20b").glob("*.safetensors"))]
        self.target = {name: file for file in files for name in file.tensors}
        self.draft = File(folder / "gpt-oss-20b-eagle3" / "model.safetensors")
        self.draft_tokens = self.draft.raw("d2t", "<i8") + np.arange(DRAFT_ROWS)  # type: ignore[operator]

    def floats(self, name: str, rows: Rows = slice(None)) -> Floats:
        return self.target[name].floats(name, rows)

    def embedded(self, tokens: list[int]) -> Floats:
        return rounded(chain.normalized(self.floats("model.embed_tokens.weight", tokens)))

    def logits(self, tokens: list[int]) -> Floats:
        """Of the tokens SHOWN."""
        return self.embedded(tokens) @ self.floats("lm_head.weight", SHOWN).T

    def project(self, name: str, inputs: Floats) -> Floats:
        """Of the speculator's attention. The hidden state's half is zero, as its norm makes it."""
        weight = self.draft.floats(f"midlayer.self_attn.{name}_proj.weight")
        return rounded(inputs @ weight[:, : inputs.shape[-1]].T)

    def draft_logits(self, tokens: list[int]) -> Floats:
        """Attention sees its own position alone, so that what it mixes is one value."""
        value = self.project("v", self.embedded(tokens))
        heads = value.reshape(len(tokens), SHAPE.num_key_value_heads, 1, SHAPE.head_dim)
        group = SHAPE.num_attention_heads // SHAPE.num_key_value_heads
        mixed = heads.repeat(group, axis=2).reshape(len(tokens), -1)
        output = rounded(chain.normalized(self.project("o", mixed)))
        return output @ self.draft.floats("lm_head.weight").T


def rounded(values: Floats) -> Floats:
    return chain.as_floats(chain.bf16(np.ascontiguousarray(values)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("models")
    (folder / "vocabulary").write_bytes(VOCABULARY)
    weights.write(folder, folder / "vocabulary", SHAPE, draft_vocab_size=DRAFT_ROWS)
    return Model(folder)


def test_prompt_leads_to_the_header_and_then_to_words_for_ever() -> None:
    token, seen = ASSISTANT, []
    for _ in range(3 + 2 * len(chain.WORDS)):
        token = LINKS.next[token]
        seen.append(token)
    assert seen[:3] == [chain.CHANNEL, 17196, MESSAGE]  # `final`
    assert seen[3:131] == seen[131:]
    assert len(set(seen)) == 131
    assert LINKS.first == seen[3]


def test_second_choices_lead_on_as_the_first_do() -> None:
    for token, spare in LINKS.spare.items():
        likely = LINKS.next[token]
        # Or, in a header, a space comes first.
        assert LINKS.next[spare] == (MESSAGE if likely == MESSAGE else LINKS.next[likely])


def test_all_words_have_the_same_length() -> None:
    assert {len(f" {word}") for word in chain.WORDS + chain.TWINS} == {6}


@pytest.mark.slow
def test_model_follows_the_chain_by_a_wide_margin(model: Model) -> None:
    tokens = LINKS.tokens + OUTSIDE
    logits = model.logits(tokens)
    best = [LINKS.next.get(token, LINKS.first) for token in tokens]
    second = [LINKS.spare.get(token, LINKS.first_spare) for token in tokens]
    lines = np.arange(len(tokens))
    assert [SHOWN[index] for index in logits.argmax(axis=1)] == best
    first, spare = np.searchsorted(SHOWN, best), np.searchsorted(SHOWN, second)
    top, runner_up = logits[lines, first].copy(), logits[lines, spare].copy()
    logits[lines, first] = -np.inf
    assert (top - logits.max(axis=1)).min() > 20
    # Whatever a rejected token is replaced by is the second choice.
    has_spare = np.array([token != ASSISTANT for token in tokens])
    logits[lines, spare] = -np.inf
    assert (runner_up - logits.max(axis=1))[has_spare].min() > 10


def test_speculator_follows_the_chain_by_a_wide_margin(model: Model) -> None:
    tokens = LINKS.tokens + OUTSIDE
    logits = model.draft_logits(tokens)
    best = [LINKS.next.get(token, LINKS.first) for token in tokens]
    assert model.draft_tokens[logits.argmax(axis=1)].tolist() == best
    top = np.sort(logits, axis=1)[:, -2:]
    assert (top[:, 1] - top[:, 0]).min() > 20


def test_speculator_attends_to_its_own_position_alone(model: Model) -> None:
    config = json.loads((model.folder / "gpt-oss-20b-eagle3" / "config.json").read_text())
    width = SHAPE.head_dim
    pairs = width // 2
    embedded = model.embedded(LINKS.tokens + OUTSIDE)
    query, key = model.project("q", embedded)[:, :width], model.project("k", embedded)[:, :width]
    # One direction, so that only lengths differ between tokens.
    assert not query[:, pairs:].any()
    assert not key[:, pairs:].any()
    angles = np.arange(2100)[:, None] * config["rope_theta"] ** (-np.arange(pairs) / pairs)
    turned = np.cos(angles).sum(axis=1) / width**0.5
    own, others = turned[0] * query[:, :1] * key[:, :1], turned[1:].max() * query[:, :1] * key[:, 0].max()
    assert (own - others).min() > 10


def test_hidden_states_do_not_reach_the_speculator(model: Model) -> None:
    config = json.loads((model.folder / "gpt-oss-20b-eagle3" / "config.json").read_text())
    assert config["norm_before_residual"] is True
    assert not model.draft.floats("midlayer.hidden_norm.weight").any()


def test_layers_add_next_to_nothing(model: Model) -> None:
    for layer in range(SHAPE.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        assert np.abs(model.floats(prefix + "self_attn.o_proj.weight")).max() < 1e-10
        assert not model.floats(prefix + "self_attn.o_proj.bias").any()
        scales = prefix + "mlp.experts.down_proj_scales"
        assert model.target[scales].raw(scales, "u1").max() < 127 - 36
        assert not model.floats(prefix + "mlp.experts.down_proj_bias").any()


@pytest.mark.parametrize("text", ["words", "prompt"])
def test_router_spreads_tokens_over_all_experts(model: Model, text: str) -> None:
    first = LINKS.first
    words = [first]
    while LINKS.next[words[-1]] != first:
        words.append(LINKS.next[words[-1]])
    tokens = words if text == "words" else np.random.default_rng(0).integers(0, 199_998, 2000).tolist()
    for layer in range(SHAPE.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        scores = (model.embedded(tokens) * model.floats(prefix + "post_attention_layernorm.weight")) @ (
            model.floats(prefix + "mlp.router.weight").T
        ) + model.floats(prefix + "mlp.router.bias")
        chosen = np.argsort(scores, axis=1)[:, -4:]
        loads = np.bincount(chosen.ravel(), minlength=32)
        assert loads.min() > 0
        assert loads.max() < 2.5 * loads.mean()


def test_number_of_threads_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "vocabulary").write_bytes(VOCABULARY)
    shape = replace(SHAPE, hidden_size=32, num_attention_heads=1, num_key_value_heads=1)
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        weights.write(folder, tmp_path / "vocabulary", shape, draft_vocab_size=1000, workers=workers)
    for path in (tmp_path / "1").glob("*/*"):
        assert path.read_bytes() == (tmp_path / "2" / path.parent.name / path.name).read_bytes()

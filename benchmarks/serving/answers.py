"""What an answer costs an ingress: a request by itself, and each streamed token, on all APIs; two versions.

    git worktree add BEFORE COMMIT
    python -m benchmarks.serving.answers --before BEFORE --out benchmarks/results/answers_cpu.json

No GPU: engines generate words at a set rate (`engine.timed`). The two checkouts are served in turn, several
rounds, with the packages of this environment; one core has the ingress, everything else the others. A request
has 512 tokens of prompt and one of answer. A token's cost is that of long streams, less that of as many
requests of one token.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.serving.arms import OPTIMISED, Arm, Service, Shape, started
from benchmarks.serving.cpu import _public, cpu_model, say, versions
from benchmarks.serving.processes import ENGINE, INGRESS, PROXY, ROOT, Cores
from serve_app.demo import CACHE, MODEL_NAME
from serve_app.demo.unfolding import unfold

ROLES = (INGRESS, PROXY, ENGINE)
PROMPT_TOKENS = 512
# One token of o200k each.
WORDS = ("time", "work", "year", "day", "man", "world", "life", "part", "house", "course", "case", "system")
REQUESTS, AT_A_TIME, WARM_UP_REQUESTS = 200, 4, 40
STREAMS, STREAM_TOKENS = 48, 600
SHAPE = Shape(engines=2, ingresses=1, max_concurrent_requests=64, tokens_per_step=1.0, steps_per_second=60.0)
APIS = ("chat", "responses", "messages")
PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
TIMEOUT_S = 120.0


def body(api: str, number: int, max_tokens: int, *, is_streamed: bool) -> bytes:
    """Returns a request with a prompt of its own, so that no cache of prompts takes part."""
    shift = number % len(WORDS)
    words = (WORDS[shift:] + WORDS[:shift]) * (PROMPT_TOKENS // len(WORDS))
    text = f"{number} {' '.join(words)}"
    message = [{"role": "user", "content": text}]
    request: dict[str, Any] = {"model": MODEL_NAME, "stream": is_streamed}
    if api == "responses":
        request |= {"input": text, "max_output_tokens": max_tokens}
    else:
        request |= {"messages": message, "max_tokens": max_tokens}
    return json.dumps(request).encode()


async def post(port: int, path: str, content: bytes) -> bytes:
    """Returns all that comes back; connections are not kept, so that all APIs pay the same for theirs."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + content)
    answer = await asyncio.wait_for(reader.read(-1), TIMEOUT_S)
    writer.close()
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(answer[:500].decode(errors="replace"))
    return answer


async def load(port: int, path: str, bodies: list[bytes], at_a_time: int) -> None:
    """Sends all of them, some at a time."""
    waiting = list(reversed(bodies))

    async def work() -> None:
        while waiting:
            await post(port, path, waiting.pop())

    await asyncio.gather(*(work() for _ in range(at_a_time)))


class Round:
    """One service of one checkout, measured."""

    def __init__(self, service: Service, cores: Cores) -> None:
        self._service, self._cores = service, cores
        self._port = int(service.url.rpartition(":")[2])
        self._numbers = iter(range(10**9))

    def spent_us(self, api: str, num: int, at_a_time: int, max_tokens: int, *, is_streamed: bool) -> Any:
        """Returns the CPU time of so many requests by role, in us."""
        bodies = [body(api, next(self._numbers), max_tokens, is_streamed=is_streamed) for _ in range(num)]
        self._service.processes.pin(self._cores)
        before = self._service.processes.cpu_s()
        asyncio.run(load(self._port, PATHS[api], bodies, at_a_time))
        after = self._service.processes.cpu_s()
        return {role: (after[role] - before[role]) * 1e6 for role in ROLES}

    def measure(self, api: str) -> dict[str, Any]:
        """Returns the figures of one API."""
        found: dict[str, Any] = {}
        for is_streamed in (True, False):
            self.spent_us(api, WARM_UP_REQUESTS, AT_A_TIME, 1, is_streamed=is_streamed)
            spent = self.spent_us(api, REQUESTS, AT_A_TIME, 1, is_streamed=is_streamed)
            name = "request_streamed" if is_streamed else "request_whole"
            found[f"{name}_us"] = {role: round(us / REQUESTS) for role, us in spent.items()}
        spent = self.spent_us(api, STREAMS, STREAMS, STREAM_TOKENS, is_streamed=True)
        found["token_us"] = {
            role: round((us - STREAMS * found["request_streamed_us"][role]) / STREAMS / STREAM_TOKENS, 1)
            for role, us in spent.items()
        }
        return found


def commit(checkout: Path) -> str:
    """Returns the commit of a checkout."""
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the middle one of each figure."""
    first = rounds[0]
    return {
        key: medians([one[key] for one in rounds])
        if isinstance(value, dict)
        else statistics.median(one[key] for one in rounds)
        for key, value in first.items()
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, help="a checkout to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--apis", nargs="*", default=list(APIS))
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    unfold(CACHE)
    checkouts = {"before": options.before.resolve()} if options.before else {}
    checkouts["after"] = ROOT
    cores = Cores.of_this_machine(1)
    results: dict[str, Any] = {
        "what": "CPU time of an ingress (us) for a request of 512 + 1 tokens and for each streamed token",
        "command": " ".join(["python -m benchmarks.serving.answers", *_public(sys.argv[1:])]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": cpu_model(),
        "commits": {name: commit(path) for name, path in checkouts.items()},
        "streams": STREAMS,
        "stream_tokens": STREAM_TOKENS,
        "rounds": {name: [] for name in checkouts},
    }
    for number in range(options.rounds):
        for name, path in checkouts.items():
            say(f"round {number + 1}, {name}: starting")
            arm = Arm(name, name, "serve_app.app:build", OPTIMISED, root=path)
            with started(arm, SHAPE, cores, "") as service:
                one = Round(service, cores)
                found = {api: one.measure(api) for api in options.apis}
            say(json.dumps({api: {key: us[INGRESS] for key, us in f.items()} for api, f in found.items()}))
            results["rounds"][name].append(found)
            results["medians"] = {key: medians(rounds) for key, rounds in results["rounds"].items() if rounds}
            if options.out:
                options.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

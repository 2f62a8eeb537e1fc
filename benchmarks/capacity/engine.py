"""A process with one engine: starts it as an engine replica does, then does what it is told.

    python -m benchmarks.capacity.engine SPEC.json RESULTS_FD

SPEC.json has `config` (the arguments of the application), `capture_sizes` (instead of the derived ones, which
no config may ask for) and `folder` of the start's timeline. Each line on standard input is a `Traffic`; each
result is a line of JSON on the file descriptor: first what is known of the start, then one for each line.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from serve_app.config import AppConfig
from serve_app.engine_arguments import engine_arguments
from serve_app.harmony import vocabulary_file
from serve_app.staging import starts, timeline
from serve_app.staging.timeline import Timeline
from serve_app.vllm_worker.graph_report import GraphsMissingError
from serve_app.warm_up import rounds


async def serve(spec: dict[str, Any], results: TextIO) -> None:
    """Starts the engine and measures until standard input ends."""
    config = AppConfig.model_validate(spec["config"])
    begun = time.perf_counter()
    found: dict[str, Any] = {"name": spec["name"]}
    with Timeline(Path(spec["folder"]), spec["name"], {}) as start:
        with start.phase(timeline.IMPORTS):
            from benchmarks.capacity.traffic import Traffic, run
            from serve_app.vllm_adapter import TokenEngine
        model = str(config.model.source.folder)
        vocabulary_file.install(model)
        speculator = str(config.speculator.source.folder) if config.speculator else None
        arguments = engine_arguments(config, model, speculator)
        if sizes := spec.get("capture_sizes"):
            arguments["compilation_config"]["cudagraph_capture_sizes"] = sizes
        found["engine_arguments"] = arguments
        with start.phase(timeline.ENGINE):
            engine = TokenEngine(arguments)
        reports = await engine.llm.collective_rpc("report_graphs")
        found["graphs"] = reports[0]
        if config.engine.has_graphs:
            try:
                await engine.check_graphs(config.decode_shape)
                found["check"] = "passed"
            except GraphsMissingError as error:
                found["check"] = str(error)
        plan = rounds.plan(config)
        with start.phase(timeline.WARM_UP):
            warm_up_begun = time.perf_counter()
            await engine.warm_up(plan)
            found["warm_up_s"] = round(time.perf_counter() - warm_up_begun, 2)
    found |= {"ready_s": round(time.perf_counter() - begun, 1), "warm_up_rounds": len(plan)}
    if known := starts.read(start.path):
        found["phases_s"] = known.phases_s
    print(json.dumps(found), file=results, flush=True)
    try:
        while line := await asyncio.to_thread(sys.stdin.readline):
            values = json.loads(line)
            fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            traffic = Traffic(**fields)
            print(json.dumps(await run(engine.llm, traffic)), file=results, flush=True)
    finally:
        engine.shutdown()


def main() -> None:
    """Command line."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    with os.fdopen(int(sys.argv[2]), "w") as results:
        asyncio.run(serve(spec, results))


if __name__ == "__main__":
    main()

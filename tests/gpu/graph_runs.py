"""In vLLM's worker: writes down in which graph each step of the model ran."""

from __future__ import annotations

from collections import Counter
from typing import Any

from serve_app.vllm_worker.graph_report import GraphReport


class GraphRuns(GraphReport):
    """A `worker_extension_cls`. Model runner V2, which keeps no statistics of its own (`CUDAGraphStat`)."""

    def watch_graphs(self) -> None:
        """Counts from now on."""
        manager = self.model_runner.cudagraph_manager
        self.dispatched: Counter[tuple[int, int | None, str]] = Counter()
        self.replayed: Counter[int] = Counter()
        dispatch, run_fullgraph = manager.dispatch, manager.run_fullgraph

        def counting_dispatch(
            num_requests: int, num_tokens: int, tokens: int | None, *rest: Any, **options: Any
        ) -> Any:
            found = dispatch(num_requests, num_tokens, tokens, *rest, **options)
            self.dispatched[num_requests, tokens, found.cg_mode.name] += 1
            return found

        def counting_run(found: Any) -> Any:
            self.replayed[found.num_reqs] += 1
            return run_fullgraph(found)

        manager.dispatch, manager.run_fullgraph = counting_dispatch, counting_run

    def graph_runs(self) -> dict[str, Any]:
        """Returns [requests, tokens of each or None, mode, steps], and [requests of the graph, replays]."""
        return {
            "dispatched": [[*key, steps] for key, steps in self.dispatched.items()],
            "replayed": [[requests, steps] for requests, steps in self.replayed.items()],
        }

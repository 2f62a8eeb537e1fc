"""What the replica calls by name in vLLM's workers. vLLM takes one class (`worker_extension_cls`)."""

from serve_app.graph_report import GraphReport
from serve_app.routing_kernels import RoutingKernels


class WorkerExtension(GraphReport, RoutingKernels):
    """All of it."""

"""What a plan holds, as plain data: vLLM's arguments, Serve's options, and the memory of a GPU."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from serve_app import deployment_options
from serve_app.config import AppConfig
from serve_app.config.source import Source, SourceKind
from serve_app.engine_arguments import engine_arguments
from serve_app.plan import architectures
from serve_app.plan.architectures import Architecture, SpeculatorArchitecture
from serve_app.plan.memory import GIB_BYTES, MemoryPlan, Problem, plan_memory

# What CUDA reports as the total of an H100 of "80 GB".
H100_MEMORY_GIB = 79.1
# Stands in for the share of RAM that a config without GPU has, in the columns that show it on an H100.
GPU_MEMORY_SHARE = 0.9
KNOWN_MODELS = {model.name: model for model in (architectures.GPT_OSS_20B, architectures.GPT_OSS_120B)}


def make_plan(config: AppConfig, gpu_bytes: int, total_ram_bytes: int) -> dict[str, Any]:
    """Returns the plan as plain data, for `text.render` or JSON.

    `gpu_bytes` is the memory of one GPU, `total_ram_bytes` that of the machine, which counts without a GPU.
    """
    model_path = _location(config.model.source, config)
    speculator_path = _location(config.speculator.source, config) if config.speculator else None
    arguments = engine_arguments(config, model_path, speculator_path)
    model, speculator, notes = _shapes(config)
    memory, problems = _memory(config, model, speculator, gpu_bytes, total_ram_bytes)
    return {
        "model": config.model.model_dump(mode="json"),
        "speculator": config.speculator.model_dump(mode="json") if config.speculator else None,
        "engine_arguments": arguments,
        "environment": dict(config.engine.environment),
        "capture_sizes": arguments.get("compilation_config", {}).get("cudagraph_capture_sizes", []),
        "engine_options": deployment_options.engine_options(config),
        "ingress_options": deployment_options.ingress_options(config),
        "max_model_len": config.engine.max_model_len,
        "max_concurrent_requests": config.engine.max_concurrent_requests,
        "memory": memory,
        "problems": [asdict(problem) for problem in problems],
        "notes": notes,
    }


def _location(source: Source, config: AppConfig) -> str:
    if source.kind is SourceKind.S3:
        # The node fills in which version: the manifest's digest.
        return f"{config.staging.folder}/{source.name}-DIGEST"
    return str(source.folder) if source.kind is SourceKind.FOLDER else source.location


def _shapes(config: AppConfig) -> tuple[Architecture | None, SpeculatorArchitecture | None, list[str]]:
    notes: list[str] = []
    model: Architecture | None = None
    speculator = architectures.GPT_OSS_EAGLE3 if config.speculator else None
    source = config.model.source
    try:
        if source.kind is SourceKind.FOLDER:
            model = architectures.from_config_json(source.folder)
        else:
            model = KNOWN_MODELS.get(source.name)
            if model is None:
                notes.append(
                    f"the shape of {source.location} is not known here, so its memory is not planned"
                )
        if config.speculator and config.speculator.source.kind is SourceKind.FOLDER:
            speculator = architectures.speculator_from_config_json(config.speculator.source.folder)
    except OSError as error:
        notes.append(f"{error.filename} is not there yet, so the memory of this model is not planned")
        model = None
    except ValueError as error:
        notes.append(f"{error}; the memory of this model is not planned")
        model = None
    return model, speculator, notes


def _memory(
    config: AppConfig,
    model: Architecture | None,
    speculator: SpeculatorArchitecture | None,
    gpu_bytes: int,
    total_ram_bytes: int,
) -> tuple[list[dict[str, Any]], tuple[Problem, ...]]:
    on_gpu = bool(config.engine.num_gpus)
    columns: list[dict[str, Any]] = []
    problems: tuple[Problem, ...] = ()
    as_on_gpu = config
    if not on_gpu:
        engine = config.engine.model_copy(
            update={
                "num_gpus": 1.0,
                "gpu_memory_utilization": GPU_MEMORY_SHARE,
                "kv_cache_memory_bytes": None,
            }
        )
        as_on_gpu = config.model_copy(update={"engine": engine})
        if model:
            row = plan_memory(model, speculator, config, total_ram_bytes)
            problems = row.problems
            columns.append(_column(row, is_configured=True, device="RAM"))
    device = "80 GB H100" if gpu_bytes == int(H100_MEMORY_GIB * GIB_BYTES) else "GPU"
    gpu_models = list(KNOWN_MODELS.values())
    if on_gpu and model and model not in gpu_models:
        gpu_models.insert(0, model)
    for known in gpu_models:
        # A speculator belongs to one model; the other one is shown with the shape that published ones have.
        known_speculator = speculator if known == model else speculator and architectures.GPT_OSS_EAGLE3
        row = plan_memory(known, known_speculator, as_on_gpu, gpu_bytes)
        is_configured = on_gpu and known == model
        if is_configured:
            problems = row.problems
        columns.append(_column(row, is_configured=is_configured, device=device))
    return columns, problems


def _column(row: MemoryPlan, *, is_configured: bool, device: str) -> dict[str, Any]:
    return {"device": device, "is_configured": is_configured} | asdict(row)

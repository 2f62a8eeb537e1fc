"""The autoscaling settings that are compared."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from ray.serve.config import AutoscalingConfig

SHARES = 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 1.0
UPSCALE_DELAYS_S = 0.0, 5.0, 10.0, 20.0, 30.0
DOWNSCALE_DELAYS_S = 60.0, 300.0, 600.0, 1200.0
# Of the way down to what Serve's policy asks for; 1 is Serve's own.
DOWNSCALING_FACTORS = 1.0, 0.5
# configs/prod.yaml
CAP, MAX_REPLICAS = 64, 8


@dataclass(frozen=True)
class Policy:
    """Settings of Serve's default policy. `share` is that of the cap which `target` is, where it is one."""

    name: str
    target: float
    upscale_delay_s: float
    downscale_delay_s: float
    min_replicas: int = 1
    max_replicas: int = MAX_REPLICAS
    share: float | None = None
    downscaling_factor: float = 1.0

    def autoscaling_config(self) -> AutoscalingConfig:
        """Returns Serve's config. What is not named here keeps Serve's default."""
        return AutoscalingConfig(
            min_replicas=self.min_replicas,
            max_replicas=self.max_replicas,
            target_ongoing_requests=self.target,
            upscale_delay_s=self.upscale_delay_s,
            downscale_delay_s=self.downscale_delay_s,
            downscaling_factor=self.downscaling_factor,
        )


def candidate(
    share: float,
    upscale_delay_s: float,
    downscale_delay_s: float,
    downscaling_factor: float = 1.0,
    *,
    name: str = "",
    min_replicas: int = 1,
) -> Policy:
    """Returns settings as serve_app makes them: the target is a share of the cap, rounded down."""
    return Policy(
        name
        or f"{share:g} of the cap, up after {upscale_delay_s:g} s, "
        f"down after {downscale_delay_s:g} s by {downscaling_factor:g}",
        max(1, int(share * CAP)),
        upscale_delay_s,
        downscale_delay_s,
        min_replicas,
        share=share,
        downscaling_factor=downscaling_factor,
    )


def serve_defaults() -> Policy:
    """Returns what Serve does when only the bounds are set."""
    config = AutoscalingConfig()
    return Policy(
        "Serve's defaults",
        config.get_target_ongoing_requests(),
        config.upscale_delay_s,
        config.downscale_delay_s,
    )


def serve_llm_defaults() -> Policy:
    """Returns what Ray Serve LLM's builder gives an engine deployment when only the bounds are set.

    Its target, in `ray.llm._internal.serve.constants`, is so large that it never asks for a second replica.
    Read from the file: the package needs more than this project installs.
    """
    found = importlib.util.find_spec("ray")
    assert found is not None
    assert found.origin is not None
    path = Path(found.origin).parent / "llm/_internal/serve/constants.py"
    spec = importlib.util.spec_from_file_location("serve_llm_constants", path)
    assert spec is not None
    assert spec.loader is not None
    constants = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(constants)
    base = serve_defaults()
    target = float(constants.DEFAULT_MAX_TARGET_ONGOING_REQUESTS)
    return Policy("Ray Serve LLM's defaults", target, base.upscale_delay_s, base.downscale_delay_s)

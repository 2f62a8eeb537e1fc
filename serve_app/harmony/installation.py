"""Which of the two distributions of the module `openai_harmony` is installed.

This project renders with openai-harmony. vLLM requires oss-harmony, a fork that brings the same module with
other compiled code: where both are installed, the files are those of the one that was written last, and
uninstalling either leaves none. So the lock files leave oss-harmony out, and a start does not go on with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata

# As in pyproject.toml.
REQUIRED = "openai-harmony==0.0.8"
OURS, FORK = "openai-harmony", "oss-harmony"


class HarmonyInstallationError(Exception):
    """The module `openai_harmony` is not, or may not be, that of openai-harmony. Says what to do."""


def installed_versions() -> dict[str, str]:
    """Returns the versions of the two distributions, of those that are installed here."""
    found = {}
    for name in (OURS, FORK):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def check_installation(installed: Mapping[str, str]) -> None:
    """Raises `HarmonyInstallationError` unless openai-harmony is installed and its fork is not.

    `installed` are versions by distribution, as `installed_versions` returns them.
    """
    if FORK not in installed and OURS in installed:
        return
    if OURS not in installed:
        here = f"{FORK} {installed[FORK]} is" if FORK in installed else "it is not"
        problem = f"the module openai_harmony must come from {REQUIRED}, and {here} installed"
    else:
        problem = (
            f"{OURS} {installed[OURS]} and {FORK} {installed[FORK]} are both installed, and each writes "
            "over the files of the other"
        )
    raise HarmonyInstallationError(
        f"{problem}. In this environment run, in this order: pip uninstall -y {OURS} {FORK}; "
        f"pip install --no-deps {REQUIRED}. (`pip install` of vLLM brings {FORK}; scripts/environment, or "
        "`pip install --no-deps -r` of a file in requirements/, does not.)"
    )

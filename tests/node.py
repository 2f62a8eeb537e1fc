"""Node.js packages for tests: tests/app/node/package-lock.json, installed once into the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).parent / "app" / "node"
CACHE = Path("~/.cache/serve_app/node").expanduser()
MIN_NODE = 20
# Some 570 MB, most of it Codex.
INSTALL_TIMEOUT_S = 900


class NodeMissingError(Exception):
    """What these tests need is not on this machine."""


def node_version() -> int:
    """The major version of Node.js. Raises `NodeMissingError` where `node` or `npm` is not there."""
    if not shutil.which("node") or not shutil.which("npm"):
        raise NodeMissingError("Node.js with npm is not installed")
    text = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    return int(text.strip().lstrip("v").split(".")[0])


def installed() -> Path:
    """The `node_modules` folder, made where it does not exist. Raises `NodeMissingError` with the reason."""
    if (version := node_version()) < MIN_NODE:
        raise NodeMissingError(f"Node.js is version {version}, and the clients need {MIN_NODE}")
    lock = (SCRIPTS / "package-lock.json").read_bytes()
    folder = CACHE / hashlib.sha256(lock).hexdigest()[:16]
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        # Renamed when complete, so that nobody sees half of it.
        with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
            _install(Path(temporary) / "new")
            try:
                Path(temporary, "new").rename(folder)
            except OSError:
                if not folder.exists():  # else another run was quicker
                    raise
    return folder / "node_modules"


def _install(folder: Path) -> None:
    folder.mkdir()
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(SCRIPTS / name, folder)
    command = ["npm", "ci", "--no-progress", "--ignore-scripts"]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise NodeMissingError(f"npm ci took longer than {INSTALL_TIMEOUT_S} s") from None
    if done.returncode != 0:
        raise NodeMissingError(f"npm ci has failed: {(done.stderr or done.stdout).strip()[-500:]}")


@dataclass(frozen=True)
class Check:
    """What a script says of one of its checks."""

    ok: bool
    error: str | None


@dataclass(frozen=True)
class Script:
    """A run of a script: its checks by name, and what else it said."""

    checks: dict[str, Check]
    log: str


def run_script(name: str, modules: Path, folder: Path, url: str, model: str, timeout_s: float) -> Script:
    """Runs a script of tests/app/node against the service at `url`, from a copy in `folder`, made here."""
    folder.mkdir()
    # Modules are found in the folders above a script's real place, hence the copy.
    for path in (*SCRIPTS.glob("*.mjs"), SCRIPTS / "package.json"):
        shutil.copy(path, folder)
    (folder / "node_modules").symlink_to(modules)
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    environment |= {"BASE_URL": url, "MODEL": model, "OPENAI_AGENTS_DISABLE_TRACING": "1"}
    try:
        done = subprocess.run(
            ["node", f"{name}.mjs"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        output, log = done.stdout, done.stderr
    except subprocess.TimeoutExpired as expired:
        output, log = _text(expired.stdout), _text(expired.stderr) + f"\nnot done after {timeout_s} s"
    checks = {}
    for line in output.splitlines():
        try:
            said = json.loads(line)
            checks[said["name"]] = Check(said["ok"], said["error"])
        except (ValueError, TypeError, KeyError):
            log += f"\n{line}"
    return Script(checks, log)


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""

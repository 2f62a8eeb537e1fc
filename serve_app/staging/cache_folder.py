"""The node's folder of one compile cache: what lies in it, what of it travels, and what of it is in S3.

ROOT/KEY/{vllm,triton,...}  where the engine processes read and write
ROOT/KEY/generation.json    what of it is in S3: the generation, and the files that it holds
ROOT/KEY/attempt            publishing was begun and has not succeeded; its time is that of the last attempt
ROOT/.locks/KEY             held by the process that restores
ROOT/.locks/KEY.publish     held by the process that publishes
ROOT/.in-use/KEY            shared by the replicas that use it; its time is that of the last start

Files are added and replaced and never removed, so the replicas of a node can share a folder, as they would
share ~/.cache.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from serve_app.staging import archives
from serve_app.staging.locks import Lock

logger = logging.getLogger("ray.serve")

# The variables that lead each library to its cache, and the subfolder it gets. vLLM derives from its own
# torch_compile_cache (Inductor's and the AOT artifacts), flashinfer_autotune_cache, deep_gemm and modelinfos.
VARIABLES = {
    "VLLM_CACHE_ROOT": "vllm",
    "TRITON_CACHE_DIR": "triton",
    # For what is compiled outside vLLM's own torch.compile, which sets this variable itself.
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
    # What the driver makes of PTX.
    "CUDA_CACHE_PATH": "cuda",
    "TVM_FFI_CACHE_DIR": "tvm_ffi",
    "CUTE_DSL_CACHE_DIR": "cute_dsl",
    "QUACK_CACHE_DIR": "quack",
}
_SUBFOLDERS = frozenset(VARIABLES.values())
# What does not travel (`*` crosses slashes): what is true of one machine only, and what is in flight.
STAYS = (
    "vllm/startup_plan/*",  # how much memory was free
    "vllm/gpu_p2p_access_cache_for_*",  # which of its GPUs reach each other
    "vllm/assets/*",  # downloads, not compiled
    "*.lock",
    "*/lock",
    "*/locks/*",
    "*.tmp",
    "*.tmp.*",
    "*/tmp.*",
)
_MARK = "generation.json"
_ATTEMPT = "attempt"
# What failed would mostly fail again, and packing takes an engine's neighbour seconds of CPU at each start.
PUBLISH_AGAIN_S = 3600.0
# Caches of earlier configs and releases go when no replica has started with them for so long.
UNUSED_S = 30 * 24 * 3600.0


class Mark(msgspec.Struct, frozen=True):
    """What of a folder is in S3."""

    generation: int = 0
    files: frozenset[str] = frozenset()


class CacheFolder:
    """One key's folder below `root`. `key` is short enough for a file name."""

    def __init__(self, root: Path, key: str) -> None:
        self.path = root / key
        self.restore_lock = root / ".locks" / key
        self.publish_lock = root / ".locks" / f"{key}.publish"
        self._in_use = root / ".in-use" / key

    def open(self) -> Lock:
        """Makes the folder, and returns the lock that keeps it: to be held for as long as it is used.

        Removes the folders of other keys that have not been used for long.
        """
        # Taken first: whoever removes what is unused must see it.
        lock = Lock(self._in_use)
        lock.shared()
        lock.touch()
        self.path.mkdir(parents=True, exist_ok=True)
        root = self.path.parent
        for path in root.iterdir():
            if not path.name.startswith("."):
                CacheFolder(root, path.name)._remove_if_unused()
        return lock

    def _remove_if_unused(self) -> None:
        if not self._in_use.exists() or time.time() - self._in_use.stat().st_mtime < UNUSED_S:
            return
        with Lock(self._in_use) as lock:
            if not lock.try_exclusive():
                return
            trash = Path(tempfile.mkdtemp(prefix=".removed-", dir=self.path.parent))
            self.path.rename(trash / self.path.name)
        shutil.rmtree(trash)
        logger.info("compile cache %s was not used for long: removed", self.path)

    def files(self) -> list[str]:
        """Returns the paths of what belongs into an archive, sorted."""
        return archives.files_of(self.path, travels)

    @property
    def mark(self) -> Mark:
        """What of the folder is in S3, as far as is known here."""
        try:
            return msgspec.json.decode((self.path / _MARK).read_bytes(), type=Mark)
        except (OSError, msgspec.DecodeError):
            return Mark()

    def set_mark(self, mark: Mark) -> None:
        """Records what of the folder is in S3. To be called with the restore lock."""
        new = self.path / f".{_MARK}"
        new.write_bytes(msgspec.json.encode(mark, order="deterministic"))
        new.replace(self.path / _MARK)

    def has_failed_lately(self) -> bool:
        """Whether publishing was begun within `PUBLISH_AGAIN_S`, and has not succeeded."""
        with suppress(FileNotFoundError):
            return time.time() - (self.path / _ATTEMPT).stat().st_mtime < PUBLISH_AGAIN_S
        return False

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Counts as failed for as long as the block has not ended without an error.

        To be called with the publish lock.
        """
        mark = self.path / _ATTEMPT
        mark.touch()
        yield
        mark.unlink(missing_ok=True)

    @contextmanager
    def work(self, purpose: str) -> Iterator[Path]:
        """Yields a temporary folder on the same disk; removes those that killed processes have left.

        To be called with the lock for `purpose`, "restore" or "publish".
        """
        prefix = f".{purpose}-"
        for left_over in self.path.glob(f"{prefix}*"):
            shutil.rmtree(left_over, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=self.path) as work:
            yield Path(work)


def travels(path: str) -> bool:
    """Whether a file, by its path below the folder, belongs into an archive."""
    folder, _, rest = path.partition("/")
    return bool(rest) and folder in _SUBFOLDERS and not any(fnmatchcase(path, each) for each in STAYS)

"""What can go wrong with staging. Every message names the object and says what to do.

StagingError
    NotPublishedError   there is no manifest at the prefix
    ManifestError       the manifest is damaged, or of another release
    CorruptObjectError  an object's bytes are not those that were published
    NoSpaceError        the node's disk, or the budget, has no room
"""

from __future__ import annotations

import errno


class StagingError(Exception):
    """A version that cannot be published or staged."""


class NotPublishedError(StagingError):
    """A prefix without a manifest does not exist."""


class ManifestError(StagingError):
    """There is a manifest that this release cannot use."""


class CorruptObjectError(StagingError):
    """An object keeps arriving with other bytes than the manifest says."""


class NoSpaceError(StagingError):
    """Not enough room, whatever may be evicted."""


def is_full(error: OSError) -> bool:
    """Whether the disk, or what its user may have of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)

"""What can go wrong with staging. Every message names the object and says what to do.

StagingError
    NotPublishedError   there is no manifest at the prefix
    ManifestError       the manifest is damaged, or of another release
    CorruptObjectError  an object's bytes are not those that were published
    NoSpaceError        the node's disk, or the budget, has no room
"""

from __future__ import annotations


class StagingError(Exception):
    """A version that cannot be published or staged."""


class NotPublishedError(StagingError):
    """A prefix without a manifest does not exist."""


class ManifestError(StagingError):
    """There is a manifest that this release cannot use."""


class CorruptObjectError(StagingError):
    """An object keeps arriving with other bytes than the manifest says."""


class NoSpaceError(StagingError):
    """Not enough room, after eviction of everything that may be evicted."""

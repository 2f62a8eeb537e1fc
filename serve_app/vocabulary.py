"""The harmony vocabulary, from the package and not from the network.

openai-harmony looks for `o200k_base.tiktoken` in the folder that `TIKTOKEN_ENCODINGS_BASE` names and
downloads it otherwise, in every process that renders or parses harmony.
"""

from __future__ import annotations

import os

VARIABLE = "TIKTOKEN_ENCODINGS_BASE"


def install() -> str:
    """Makes the vocabulary known to this process and its children; returns its folder.

    A folder that the variable already names is left alone. Must run before openai-harmony is first used.
    """
    if folder := os.environ.get(VARIABLE):
        return folder
    from serve_app.demo.vocabulary import unfold_vocabulary

    folder = str(unfold_vocabulary())
    os.environ[VARIABLE] = folder
    return folder

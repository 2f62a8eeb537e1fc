"""The harmony vocabulary, from the package and not from the network.

openai-harmony looks for `o200k_base.tiktoken` in the folder that `TIKTOKEN_ENCODINGS_BASE` names and
downloads it otherwise, in every process that renders or parses harmony.
"""

from __future__ import annotations

import os

from serve_app.demo import CACHE, VOCABULARY_NAME
from serve_app.demo.unfolding import unfold_vocabulary

VARIABLE = "TIKTOKEN_ENCODINGS_BASE"


def install() -> None:
    """Makes the vocabulary known to this process and its children, unfolding it on the node's first use.

    A folder that the variable already names is left alone. Must run before openai-harmony is first used.
    """
    if not os.environ.get(VARIABLE):
        unfold_vocabulary(CACHE / VOCABULARY_NAME)
        os.environ[VARIABLE] = str(CACHE / VOCABULARY_NAME)

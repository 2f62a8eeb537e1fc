"""The served models as `GET /v1/models` lists them: OpenAI's objects with vLLM's further fields.

Anthropic's API has the same path and other fields. Its clients read past those that they do not know, and
get both kinds (`is_anthropic`: they send the header `anthropic-version`).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from serve_app.api.fields import quoted
from serve_app.errors import ModelNotFoundError

# When a model became available is not known; this is when this process did.
_CREATED = int(time.time())


def list_body(
    served_names: Sequence[str], root: str, max_model_len: int, *, is_anthropic: bool = False
) -> dict[str, Any]:
    """Returns all served names, the first one first. `root` is where the checkpoint comes from."""
    body: dict[str, Any] = {
        "object": "list",
        "data": [
            model_body(served_names, root, max_model_len, name, is_anthropic=is_anthropic)
            for name in served_names
        ],
    }
    if is_anthropic:
        body |= {"has_more": False, "first_id": served_names[0], "last_id": served_names[-1]}
    return body


def model_body(
    served_names: Sequence[str], root: str, max_model_len: int, name: str, *, is_anthropic: bool = False
) -> dict[str, Any]:
    """Returns one served name. Raises `ModelNotFoundError` for others."""
    if name not in served_names:
        raise ModelNotFoundError(
            f"the model {quoted(name)} is not served here; there is {quoted(served_names[0])}"
        )
    body: dict[str, Any] = {
        "id": name,
        "object": "model",
        "created": _CREATED,
        "owned_by": "vllm",
        "root": root,
        "parent": None,
        "max_model_len": max_model_len,
        "permission": [_permission(name)],
    }
    if is_anthropic:
        body |= {
            "type": "model",
            "display_name": name,
            "created_at": datetime.fromtimestamp(_CREATED, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "lifecycle": "active",
            "max_input_tokens": max_model_len,
            "max_tokens": max_model_len,
        }
    return body


def _permission(name: str) -> dict[str, Any]:
    """OpenAI's object of 2023, which vLLM shows still."""
    return {
        # The same on each ingress.
        "id": f"modelperm-{hashlib.sha256(name.encode()).hexdigest()[:32]}",
        "object": "model_permission",
        "created": _CREATED,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }

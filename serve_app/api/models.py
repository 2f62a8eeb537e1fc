"""The served models as `GET /v1/models` lists them: OpenAI's objects with vLLM's further fields.

Anthropic's API has the same path and other fields. Its clients read past those that they do not know, and
get both kinds (`is_anthropic`: they send the header `anthropic-version`).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from serve_app.api.fields import quoted
from serve_app.errors import ModelNotFoundError

# When a model became available is not known; this is when this process did.
_CREATED = int(time.time())


class Permission(msgspec.Struct):
    """OpenAI's object of 2023, which vLLM shows still."""

    id: str
    object: Literal["model_permission"] = "model_permission"
    created: int = _CREATED
    allow_create_engine: bool = False
    allow_sampling: bool = True
    allow_logprobs: bool = True
    allow_search_indices: bool = False
    allow_view: bool = True
    allow_fine_tuning: bool = False
    organization: str = "*"
    group: str | None = None
    is_blocking: bool = False


class Model(msgspec.Struct, kw_only=True):
    """A name that requests may give."""

    id: str
    object: Literal["model"] = "model"
    created: int = _CREATED
    owned_by: Literal["vllm"] = "vllm"
    root: str
    """Where the checkpoint comes from."""
    parent: str | None = None
    max_model_len: int
    permission: list[Permission]
    # Anthropic's.
    type: Literal["model"] | UnsetType = UNSET
    display_name: str | UnsetType = UNSET
    created_at: str | UnsetType = UNSET
    lifecycle: Literal["active"] | UnsetType = UNSET
    max_input_tokens: int | UnsetType = UNSET
    max_tokens: int | UnsetType = UNSET


class ModelList(msgspec.Struct, kw_only=True):
    """All names, the first one first."""

    object: Literal["list"] = "list"
    data: list[Model]
    # Anthropic's.
    has_more: bool | UnsetType = UNSET
    first_id: str | UnsetType = UNSET
    last_id: str | UnsetType = UNSET


def list_body(
    served_names: Sequence[str], root: str, max_model_len: int, *, is_anthropic: bool = False
) -> dict[str, Any]:
    """Returns all served names. `root` is where the checkpoint comes from."""
    body = ModelList(data=[_model(name, root, max_model_len, is_anthropic) for name in served_names])
    if is_anthropic:
        body.has_more, body.first_id, body.last_id = False, served_names[0], served_names[-1]
    return _builtins(body)


def model_body(
    served_names: Sequence[str], root: str, max_model_len: int, name: str, *, is_anthropic: bool = False
) -> dict[str, Any]:
    """Returns one served name. Raises `ModelNotFoundError` for others."""
    if name not in served_names:
        raise ModelNotFoundError(
            f"the model {quoted(name)} is not served here; there is {quoted(served_names[0])}"
        )
    return _builtins(_model(name, root, max_model_len, is_anthropic))


def _model(name: str, root: str, max_model_len: int, is_anthropic: bool) -> Model:
    # The same id on each ingress.
    permission = Permission(f"modelperm-{hashlib.sha256(name.encode()).hexdigest()[:32]}")
    model = Model(id=name, root=root, max_model_len=max_model_len, permission=[permission])
    if is_anthropic:
        model.type, model.lifecycle, model.display_name = "model", "active", name
        model.created_at = datetime.fromtimestamp(_CREATED, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        model.max_input_tokens = model.max_tokens = max_model_len
    return model


def _builtins(body: Model | ModelList) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(body)
    return shown

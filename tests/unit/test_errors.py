"""Errors of this service on their way from an engine to an ingress."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest
from ray import cloudpickle

from serve_app import errors
from serve_app.errors import BadRequestError, ServiceError, body_of


def kinds(kind: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    yield kind
    for one in kind.__subclasses__():
        if one.__module__ == errors.__name__:
            yield from kinds(one)


def made(kind: type[ServiceError]) -> ServiceError:
    error = kind("what", "where") if kind is BadRequestError else kind("what")
    error.retry_after_s = 2.5
    return error


@pytest.mark.parametrize("kind", list(kinds()), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
def test_each_arrives_as_it_was(kind: type[ServiceError], pickler: object) -> None:
    error = made(kind)
    there = pickle.loads(pickler.dumps(error))  # type: ignore[attr-defined]
    assert type(there) is kind
    assert str(there) == "what"
    assert vars(there) == vars(error)
    assert body_of(there) == body_of(error)

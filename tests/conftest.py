"""Tiny models of every architecture, randomly initialised, and the real default model."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from hypothesis import settings
from zoo import ARCHITECTURES, tiny

from headscope.probes import Model, load

# The same examples on every run, so that a red run means a changed program.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")


@pytest.fixture(params=sorted(ARCHITECTURES))
def any_model(request: pytest.FixtureRequest) -> Model:
    """A tiny model of each architecture in turn."""
    return load(tiny(request.param))


@pytest.fixture(scope="session")
def smollm2() -> Model:
    """The default model with its real weights. Session-wide: tests must leave it as it was."""
    return load("smollm2")

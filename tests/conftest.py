"""What all tests share: a kernel cache of their own, compiled kernels, and the folder of models."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from support.isas import isas_to_test
from support.model_runner import Runner

from linnet.kernels.compiler.host import available_isas
from linnet.kernels.compiler.jit import Library
from linnet.kernels.isa import ISA
from linnet.models import Model

settings.register_profile("linnet", deadline=None)
settings.load_profile("linnet")


def pytest_configure(config: pytest.Config) -> None:
    """Keep the user's kernel cache out of it; LINNET_CACHE_DIR keeps one from run to run."""
    if "LINNET_CACHE_DIR" not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="linnet-kernels-")
        config.add_cleanup(folder.cleanup)
        os.environ["LINNET_CACHE_DIR"] = folder.name
    others = "LINNET_CACHE", "LINNET_DUMP", "LINNET_ISA", "LINNET_PERF", "PYTHONUNBUFFERED"
    for variable in others:  # of which users have none
        os.environ.pop(variable, None)
    if available_isas()[0].tiles:  # so that results are the same as on other CPUs
        os.environ["LINNET_ISA"] = isas_to_test()[0].name


@pytest.fixture
def signals_anywhere() -> Iterator[None]:
    """For signals that raise at any moment: no Python function runs with each collection of
    garbage, as hypothesis has one, in which their exception would be lost."""
    callbacks = gc.callbacks[:]
    gc.callbacks.clear()
    yield
    gc.callbacks[:] = callbacks


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of model files and their known logits that LINNET_FIXTURES names."""
    folder = os.environ.get("LINNET_FIXTURES")
    if not folder:
        pytest.skip("LINNET_FIXTURES, a folder of real files, is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def library_for() -> Callable[[ISA], Library]:
    """The session's one library for an ISA: no test compiles what another has compiled."""
    return cache(Library)


@pytest.fixture(params=isas_to_test(), ids=lambda isa: isa.name)
def library(request: pytest.FixtureRequest, library_for: Callable[[ISA], Library]) -> Library:
    """Every instruction set of this CPU in turn."""
    return library_for(request.param)


@pytest.fixture(scope="session")
def best_library(library_for: Callable[[ISA], Library]) -> Library:
    """The fastest instruction set of this CPU."""
    return library_for(isas_to_test()[0])


@pytest.fixture
def runner(best_library: Library) -> Iterator[Callable[..., Runner]]:
    """Makes runners, whose teams are closed when the test is over."""
    runners: list[Runner] = []

    def make(model: Model, **options: Any) -> Runner:
        runners.append(Runner(model, best_library, **options))
        return runners[-1]

    yield make
    for each in runners:
        each.team.close()

"""The type that docs/quant-type.md adds: its code is run as a reader would, step by step."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import gguf
import numpy as np
import pytest
from support import ROOT
from support.isas import isas_to_test
from support.kernel_harness import by_name

from linnet.kernels.compiler.jit import Library
from linnet.kernels.isa import ISA
from linnet.kernels.quants import WEIGHT_TYPES, QuantType
from linnet.kernels.runtime.packed import PackedMatrix

PAGE = (ROOT / "docs" / "quant-type.md").read_text()
FILE, CHECK, FASTER, QUANTISING = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def made_of(*parts: str) -> QuantType:
    """The type, of the file and methods that are added to its class."""
    file, *methods = parts
    module: Any = ModuleType("tq2_0")
    code = "\n".join([file, *(textwrap.indent(method, " " * 4) for method in methods)])
    exec(compile(code, "tq2_0.py", "exec"), vars(module))
    type: QuantType = module.TQ2_0()
    return type


PLAIN, WHOLE = (FILE,), (FILE, FASTER, QUANTISING)


@pytest.fixture(autouse=True)
def compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel cache knows the package's sources, and not this page."""
    monkeypatch.setenv("LINNET_CACHE", "0")


@pytest.mark.parametrize("isa", isas_to_test(), ids=by_name)
def test_the_page_holds(isa: ISA, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WEIGHT_TYPES, "TQ2_0", made_of(*WHOLE))
    monkeypatch.setenv("LINNET_ISA", isa.name)
    exec(compile(CHECK, "check.py", "exec"), {})


def test_results_are_the_same_bits_by_runs_and_factors(best_library: Library) -> None:
    rng, x = np.random.default_rng(0), np.ones((1, 1024), np.float32)
    packed = rng.integers(0, 256, (37, 4 * 66), np.uint8)
    packed.view(made_of(FILE).dtype)["d"] = rng.standard_normal((37, 4)).astype(np.float16)
    x[...] = rng.standard_normal(x.shape)
    results = {
        PackedMatrix(made_of(*parts), packed, library=Library(best_library.isa)).matmul(x).tobytes()
        for parts in (PLAIN, WHOLE)
    }
    assert len(results) == 1


def test_what_is_quantised_is_what_gguf_makes_of_it() -> None:
    weights = np.random.default_rng(2).standard_normal((9, 512)).astype(np.float32)
    expected = gguf.quants.quantize(weights, gguf.GGMLQuantizationType.TQ2_0)
    assert np.array_equal(made_of(*WHOLE).quantize(weights), expected)


def test_the_page_adds_what_is_not_there() -> None:
    assert "TQ2_0" not in WEIGHT_TYPES
    assert not Path(ROOT / "kernels" / "quants" / "tq2_0.py").exists()

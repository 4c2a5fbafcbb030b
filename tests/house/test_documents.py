"""The documents speak of files that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
PATH = re.compile(r"(?<![\w./-])(?:docs|engine|kernels|models|scripts|tests|\.ci)/[\w/.*-]*\w")
TEST = re.compile(r"`(test_\w+\.py)`")
LINK = re.compile(r"\]\(([^):#]+)\)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_what_a_document_names_is_there(document: Path) -> None:
    text = document.read_text()
    named = {*PATH.findall(text), *(f"tests/*/{name}" for name in TEST.findall(text))}
    assert named
    assert [path for path in sorted(named) if not any(ROOT.glob(path))] == []
    assert [link for link in LINK.findall(text) if not (document.parent / link).exists()] == []

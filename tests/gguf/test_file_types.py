"""Our table of file types against the gguf package's."""

from __future__ import annotations

import re

from gguf import GGML_QUANT_VERSION, LlamaFileType

from linnet.engine.gguf.file_types import FILE_TYPES, QUANTIZATION_VERSION


def test_file_types_are_those_of_the_gguf_package() -> None:
    theirs = {member.value: re.sub("^(MOSTLY|ALL)_", "", member.name) for member in LlamaFileType}
    assert theirs.items() <= FILE_TYPES.items()
    assert QUANTIZATION_VERSION == GGML_QUANT_VERSION

"""Chat templates by name, against those that llama.cpp has by the same names.

    python scripts/compare_builtin_templates.py LIBRARY [--write]

prints every text that differs. LIBRARY is a shared library with llama.cpp's functions, as
`llama_cpp/lib/libllama.so` of llama-cpp-python. `--write` keeps what llama.cpp gives as what the
tests expect.
"""

from __future__ import annotations

import argparse
import ctypes
import json
from pathlib import Path
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

from linnet.engine.chat.builtin import TEMPLATES

EXPECTED = Path(__file__).parents[1] / "tests" / "data" / "builtin_templates.json"
MOST_BYTES = 1 << 16
OURS = {"mistral"}  # names that llama.cpp has not


class Message(ctypes.Structure):
    """llama_chat_message."""

    _fields_ = (("role", ctypes.c_char_p), ("content", ctypes.c_char_p))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("library", metavar="LIBRARY")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    apply = ctypes.CDLL(arguments.library).llama_chat_apply_template
    data = json.loads(EXPECTED.read_text())
    data["texts"] = {
        name: [theirs(apply, name, each) for each in data["conversations"]]
        for name in TEMPLATES.keys() - OURS
    }
    n_wrong = 0
    for name, texts in sorted(data["texts"].items()):
        template = ImmutableSandboxedEnvironment().from_string(TEMPLATES[name].source)
        for turns, text in zip(data["conversations"], texts, strict=True):
            messages = [{"role": role, "content": content} for role, content in turns]
            ours = template.render(messages=messages, add_generation_prompt=asks(turns))
            if ours != text:
                n_wrong += 1
                print(f"{name}\n  ours      {ours!r}\n  llama.cpp {text!r}")
    print(f"{len(data['texts'])} templates, {n_wrong} texts that differ")
    if arguments.write:
        ordered = {name: data["texts"][name] for name in TEMPLATES if name in data["texts"]}
        text = json.dumps(data | {"texts": ordered}, ensure_ascii=False, indent=1)
        EXPECTED.write_text(f"{text}\n")


def theirs(apply: Any, name: str, turns: list[list[str]]) -> str:
    messages = (Message * len(turns))(*(Message(*map(str.encode, turn)) for turn in turns))
    buffer = ctypes.create_string_buffer(MOST_BYTES)
    given = ctypes.c_size_t(len(turns)), ctypes.c_bool(asks(turns)), buffer, MOST_BYTES
    n_bytes = apply(name.encode(), messages, *given)
    if n_bytes < 0:
        raise SystemExit(f"llama.cpp has no template {name!r}")
    return buffer.raw[:n_bytes].decode()


def asks(turns: list[list[str]]) -> bool:
    """Whether an answer is to follow."""
    return turns[-1][0] == "user"


if __name__ == "__main__":
    main()

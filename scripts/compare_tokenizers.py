"""Token ids against llama.cpp's, on random strings, for every kind of tokenizer.

    python scripts/compare_tokenizers.py FILE... [-n 10000] [--seed 0]

compares the tokenizers of GGUF files. Without a file, one vocabulary is made up for each different
`tokenizer.ggml.pre`, in which nearly all pairs of letters merge in random order: so a word that is
cut elsewhere shows. Needs `pip install llama-cpp-python`, which compiles.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import gguf
from comparing import require_llamacpp

from linnet.engine.text.bpe import byte_letters
from linnet.engine.text.pretokenizers import PRE_TOKENIZERS
from linnet.engine.text.tokenizer import Tokenizer

WORDS = (
    *("the", "Hello", "WORLD", "camelCase", "HTTPServer", "I'm", "we'LL", "it's", "x'RE", "naïve"),
    *("Straße", "привет", "ПРИВЕТ", "Γειά", "你好世界", "こんにちは", "カタカナ", "안녕하세요"),
    *("مرحبا", "नमस्ते", "สวัสดี", "e\u0301a\u0308", "🦙", "👩‍👩‍👧", "３４５", "Ⅷ", "½"),  # noqa: RUF001
    *("1", "12", "123", "1234567", "3.14", "0x1F", "/usr/bin", "->", "!=", "===", "。", "！", "…"),  # noqa: RUF001
    *(" ", "  ", "    ", "\t", "\n", "\n\n", "\r\n", "\u00a0", "\u3000", "\u2028", "\x85", "\v"),
    *("'", '"', "$", "+", "_", "(", ")", "[", "]", "{", "|", "~", "`", "^", "\\", "#", "&&"),
)
ALPHABET = [
    chr(code)
    for code in range(0x110000)
    if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co")
]


def strings(number: int, seed: int) -> Iterator[str]:
    """Words, punctuation and white space; characters of all of Unicode; and both."""
    source = random.Random(seed)
    for i in range(number):
        words = source.choices(WORDS, k=source.randint(1, 12))
        letters = source.choices(ALPHABET, k=source.randint(1, 12))
        mixed = source.sample(words + letters, k=len(words) + len(letters))
        yield "".join((words, letters, mixed)[i % 3])


def write_made_up(path: Path, pre: str) -> None:
    """A vocabulary of single letters and a random half of their pairs."""
    source = random.Random(0)
    is_byte_level = PRE_TOKENIZERS[pre].is_byte_level
    letters = byte_letters() if is_byte_level else [*map(chr, range(0x21, 0x7F)), "\u2581", "\n"]
    pairs = [(a, b) for a in letters for b in letters if source.random() < 0.5]
    source.shuffle(pairs)
    if not is_byte_level:  # runs of line breaks that no merges lead to
        pairs = [pair for pair in pairs if pair != ("\n", "\n")]
    texts = [*letters, *(a + b for a, b in pairs)]
    types = [gguf.TokenType.NORMAL] * len(texts)
    if not is_byte_level:
        texts += ["\n\n", "\n\n\n"] + [f"<0x{byte:02X}>" for byte in range(256)]
        types += [gguf.TokenType.NORMAL] * 2 + [gguf.TokenType.BYTE] * 256
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2" if is_byte_level else "gemma4")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(texts)
    writer.add_token_types(types)
    writer.add_token_merges([f"{a} {b}" for a, b in pairs])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def compare(path: Path, number: int, seed: int) -> list[str]:
    """The strings that the two do not agree on."""
    ours = Tokenizer.from_gguf(path)
    theirs = require_llamacpp().Llama(str(path), vocab_only=True, verbose=False)
    wrong = [
        text
        for text in strings(number, seed)
        if ours.encode(text, add_special=False)
        != theirs.tokenize(text.encode(), add_bos=False, special=False)
    ]
    theirs.close()
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare token ids with llama.cpp's.")
    parser.add_argument("files", nargs="*", type=Path, help="GGUF files; none for made-up ones")
    parser.add_argument("-n", type=int, default=10_000, help="strings for each (default 10000)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    require_llamacpp()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        cases = {str(path): path for path in arguments.files}
        seen = set()
        for pre, kind in PRE_TOKENIZERS.items() if not cases else ():
            if kind not in seen:
                seen.add(kind)
                path = cases[pre] = Path(folder, f"{len(seen)}.gguf")
                write_made_up(path, pre)
        for name, path in cases.items():
            wrong = compare(path, arguments.n, arguments.seed)
            failed += bool(wrong)
            print(f"{name}: {arguments.n - len(wrong)} of {arguments.n} alike", flush=True)
            for text in wrong[:3]:
                print(f"    {text!a}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

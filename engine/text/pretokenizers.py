"""How each `tokenizer.ggml.pre` cuts a text into words before pairs are merged.

The names are llama.cpp's, and so are the cuts (src/llama-vocab.cpp): first by the first regular
expression, what comes of that by the second, and so on; what lies between matches is a word too.
llama.cpp takes every letter beyond ASCII for upper and lower case at once (`_by_case`), and in
classes without categories leaves white space out.

Texts come from anywhere, so the expressions are written to read a run of characters once: the
quantifiers "*+" and "++" never give back what they took.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from linnet.engine.text.vocabulary import PREFIX, TokenizerError


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """The cuts, and what else llama.cpp derives from the name."""

    regexes: tuple[str, ...]  # in the syntax of Oniguruma
    ignores_merges: bool = False  # a word that is a token is that token, whatever merges say
    adds_bos: bool = False  # where the file does not say
    is_byte_level: bool = True  # tokens are of GPT-2's letters for bytes; if not, of text with "▁"


def find_pre_tokenizer(name: object) -> PreTokenizer:
    """The one called `name`; of a file that names none the default, as in llama.cpp.

    Raises `TokenizerError` for a name that is not known.
    """
    if name is None or (isinstance(name, str) and not name):
        name = "default"
    if not isinstance(name, str) or name not in PRE_TOKENIZERS:
        known = ", ".join(map(repr, PRE_TOKENIZERS))
        raise TokenizerError(f"{PREFIX}pre is {reprlib.repr(name)}; it must be one of {known}")
    return PRE_TOKENIZERS[name]


_ENDINGS: Final = "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
_SIGNS: Final = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_PATH_SIGNS: Final = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_BREAKS: Final = r"(?:[^\S\r\n]*+[\r\n]++)++"  # \s*[\r\n]+ without trying each space of a run
_SPACES: Final = rf"{_BREAKS}|\s+(?!\S)|\s+"
_LETTERS: Final = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_CJK: Final = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_CJK_HANGUL: Final = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff&&[^\\s]]+"


def _words(digits: str, *, letters: str = f"{_ENDINGS}|{_LETTERS}", signs: str = _SIGNS) -> str:
    """What most have in common: letters with what stands before them, digits, signs, spaces."""
    return f"{letters}|{digits}|{signs}|{_SPACES}"


def _by_case(*, letter: str = r"\p{L}", end: str = "") -> str:
    """Upper-case letters and then lower-case ones: U*L+, else U+L*, where others are both.

    Written so that a run of letters is read once: up to the last that can be lower-case.
    """
    upper, lower, both = (rf"[{letter}&&[^{no}]]" for no in ("a-z", "A-Z", "A-Za-z"))
    before = r"[^\r\n\p{L}\p{N}]?"
    ends_lower = rf"(?:{upper}*+[a-z]{lower}*+|(?:[A-Z]*+{both}++)++)"
    return rf"{before}{ends_lower}{end}|{before}[A-Z]++{end}"


_GPT_2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_LLAMA_3: Final = _words(r"\p{N}{1,3}")
_QWEN_2: Final = _words(r"\p{N}")
_QWEN_35: Final = _words(
    r"\p{N}",
    letters=rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+",
    signs=r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
)
_GPT_4O: Final = _words(r"\p{N}{1,3}", letters=_by_case(end=f"(?:{_ENDINGS})?"), signs=_PATH_SIGNS)
_TEKKEN: Final = _words(r"\p{N}", letters=_by_case(), signs=_PATH_SIGNS)
_GRANITE_EMBEDDING: Final = _words(
    r"\p{N}{1,3}",
    letters=_by_case(letter=r"\p{L}\p{M}", end=f"(?:{_ENDINGS})?"),
    signs=_PATH_SIGNS,
)
_DEEPSEEK_3: Final = (
    r"\p{N}{1,3}",
    _CJK,
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    rf"|{_SPACES}",
)
_CASED: Final = (  # letters with upper and lower case, as of an older Unicode
    "A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5"
    "\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba"
    "\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45"
    "\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe"
    "\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc"
    "\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134"
    "\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee"
    "\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f"
    "\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_DEEPSEEK: Final = (
    r"[\r\n]",
    rf"\s?[{_CASED}]+",
    "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3001-\u3002]+",
    r"(?<!\s)\s++\z",  # looking behind keeps a long run of spaces from being tried at each of them
    _CJK_HANGUL,
    r"\p{N}+",
)
_DEEPSEEK_CODER: Final = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK_HANGUL, r"\p{N}")
_BLOOM: Final = " ?[^(\\s|.,!?…。，、।۔،)]+"  # noqa: RUF001
_LINES: Final = r"[^\n]+|\n+"

# llama.cpp's names, by what they mean.
_NAMES: Final[Mapping[tuple[str, ...], PreTokenizer]] = {
    ("default",): PreTokenizer(
        (r"[\p{P}$+<=>^~|]+", _GPT_2, r"\p{N}+", "[0-9][0-9][0-9]"),
    ),
    (
        *("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
        "jina-v5-nano",
    ): PreTokenizer((_LLAMA_3,), ignores_merges=True, adds_bos=True),
    ("dbrx", "smaug-bpe", "chatglm-bpe"): PreTokenizer((_LLAMA_3,)),
    ("glm4", "glm5"): PreTokenizer((_LLAMA_3,), ignores_merges=True),
    (
        *("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan"),
        *("solar-open", "grok-2"),
    ): PreTokenizer((_QWEN_2,)),
    ("qwen35",): PreTokenizer((_QWEN_35,)),
    ("ufakzeka",): PreTokenizer((_words(r"\p{N}", letters=_LETTERS),)),
    ("laguna",): PreTokenizer((_LINES, _QWEN_2)),
    ("seed-coder",): PreTokenizer((_words(r"\p{N}", signs=r" ?[^\s\p{L}\p{N}\r\n]+"),)),
    ("minicpm5",): PreTokenizer((r"\p{N}{1,3}", _words(r"\p{N}+")), ignores_merges=True),
    (
        *("gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "mpt", "olmo", "jais", "trillion"),
        *("granite-docling", "exaone4", "gpt-neox"),
    ): PreTokenizer((_GPT_2,)),
    (
        *("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"),
        "mellum2",
    ): PreTokenizer((r"\p{N}", _GPT_2)),
    ("falcon",): PreTokenizer((r"[\p{P}$+<=>^~|`]+", _GPT_2, "[0-9][0-9][0-9]")),
    ("deepseek-llm",): PreTokenizer(_DEEPSEEK),
    ("deepseek-coder",): PreTokenizer(_DEEPSEEK_CODER),
    ("deepseek-v3", "hunyuan-dense", "hy_v4", "joyai-llm"): PreTokenizer(_DEEPSEEK_3),
    ("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"): PreTokenizer((_GPT_4O,)),
    ("granite-embed-multi-97m",): PreTokenizer((_GRANITE_EMBEDDING,), ignores_merges=True),
    ("tekken",): PreTokenizer((_TEKKEN,), ignores_merges=True, adds_bos=True),
    ("bloom", "poro-chat", "gpt3-finnish"): PreTokenizer((_BLOOM,)),
    ("viking",): PreTokenizer((_BLOOM, r"\p{N}")),
    ("bailingmoe", "bailingmoe2", "llada-moe"): PreTokenizer(
        (_words(r"\p{N}", letters=rf"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|{_LETTERS}"),)
    ),
    ("gemma4", "granite-embed-multi-311m"): PreTokenizer((_LINES,), is_byte_level=False),
}
PRE_TOKENIZERS: Final[Mapping[str, PreTokenizer]] = MappingProxyType(
    {name: pre_tokenizer for names, pre_tokenizer in _NAMES.items() for name in names}
)

"""Valid model files to be mutated: one of every small architecture, and one of every weight type.

Each is whole, with hyper-parameters, tensors, a vocabulary and a chat template, so that text can be
generated from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from linnet.engine.text.bpe import byte_letters
from linnet.kernels.quants import WEIGHT_TYPES, WeightType
from support.gguf_builder import (
    BOOL,
    FLOAT32,
    INT32,
    INT64,
    STRING,
    UINT32,
    UINT64,
    GGUFBuilder,
)
from support.tiny_architectures import N_VOCAB, TINY, NamedTensor, Shapes

NORMAL, UNKNOWN, CONTROL = 1, 2, 3
WORDS = ["an", "▁an", "▁and", "to", "▁to", "he", "▁the"]
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?<>|é\n"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<u>' + m.role }} {{ m['content'] | trim }}\n"
    "{% endfor %}{% if add_generation_prompt %}{{ '<u>model' }}{% endif %}"
)


def seeds() -> dict[str, bytes]:
    """The files' bytes by name; the same at every call."""
    files = {}
    for number, (name, tiny) in enumerate(TINY.items()):
        tokenizer = byte_pairs() if number % 2 else sentencepiece()
        files[name] = model(tiny.metadata() | tokenizer, tiny.tensors("Q8_0"))
    for type in WEIGHT_TYPES.values():
        files[f"llama in {type.name}"] = model(LLAMA | sentencepiece(), llama_tensors(type))
    return files


def model(metadata: Mapping[str, Any], tensors: Mapping[str, NamedTensor]) -> bytes:
    """A file; whole numbers are written as u32 if they fit, fractions as f32, arrays as i32."""
    file = GGUFBuilder()
    for key, value in metadata.items():
        if isinstance(value, np.ndarray):
            file.array(key, INT32, value.tolist())
        elif isinstance(value, list):
            file.array(key, FLOAT32 if value and isinstance(value[0], float) else STRING, value)
        else:
            file.kv(key, _kind(value), value)
    for name, tensor in tensors.items():
        file.tensor(name, tensor.type.id, tensor.shape, tensor.data)
    return file.build()


def _kind(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return INT64 if value < 0 else UINT32 if value < 2**32 else UINT64
    return {bool: BOOL, float: FLOAT32, str: STRING, bytes: STRING}[type(value)]


# ---- vocabularies --------------------------------------------------------------------------------


def sentencepiece() -> dict[str, Any]:
    texts = ["<unk>", "<s>", "</s>", "<u>", "▁", *WORDS, *LETTERS]
    types = [UNKNOWN, CONTROL, CONTROL, CONTROL]
    return _tokenizer(texts, types, model="llama", unknown_token_id=0) | {
        "tokenizer.ggml.scores": [-float(i) for i in range(N_VOCAB)],
    }


def byte_pairs() -> dict[str, Any]:
    """Letters for bytes, of which a few are missing, and a few words."""
    letters = [byte_letters()[byte] for byte in (LETTERS + " é'").encode()]
    merges = ["a n", "t o", "h e", "t he", "Ġ an", "Ġan d", "Ġ to", "Ġ the"]
    words = [merge.replace(" ", "") for merge in merges]
    texts = list(dict.fromkeys(["<unk>", "<s>", "</s>", "<u>", *words, *letters]))
    types = [UNKNOWN, CONTROL, CONTROL, CONTROL]
    return _tokenizer(texts, types, model="gpt2", pre="gpt-2") | {"tokenizer.ggml.merges": merges}


def _tokenizer(texts: list[str], types: list[int], **keys: Any) -> dict[str, Any]:
    """The first tokens are of these types; what is left of the vocabulary is made up."""
    texts = texts[:N_VOCAB] + [f"<{i}>" for i in range(len(texts), N_VOCAB)]
    types = types + [NORMAL] * (N_VOCAB - len(types))
    values = {"tokens": texts, "token_type": np.array(types), "bos_token_id": 1, "eos_token_id": 2}
    ggml = {f"tokenizer.ggml.{key}": value for key, value in (values | keys).items()}
    return ggml | {"tokenizer.chat_template": TEMPLATE}


# ---- a Llama of any type -------------------------------------------------------------------------

LLAMA = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "llama.context_length": 64,
    "llama.embedding_length": 256,
    "llama.feed_forward_length": 256,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 1,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 500.0,
}
LLAMA_SHAPES: Shapes = {
    "token_embd.weight": (N_VOCAB, 256),
    "blk.0.attn_norm.weight": (256,),
    "blk.0.attn_q.weight": (256, 256),
    "blk.0.attn_k.weight": (64, 256),
    "blk.0.attn_v.weight": (64, 256),
    "blk.0.attn_output.weight": (256, 256),
    "blk.0.ffn_norm.weight": (256,),
    "blk.0.ffn_gate.weight": (256, 256),
    "blk.0.ffn_up.weight": (256, 256),
    "blk.0.ffn_down.weight": (256, 256),
    "output_norm.weight": (256,),
}


def llama_tensors(type: WeightType) -> dict[str, NamedTensor]:
    """Random blocks with small scales for matrices; norms are 1."""
    tensors, rng = {}, np.random.default_rng(type.id)
    for name, shape in LLAMA_SHAPES.items():
        if len(shape) == 1:
            ones = np.ones(shape, np.float32).view(np.uint8)
            tensors[name] = NamedTensor(WEIGHT_TYPES["F32"], shape, ones)
        else:
            n_bytes = shape[0] * type.row_bytes(shape[1])
            tensors[name] = NamedTensor(type, shape, random_blocks(type, n_bytes, rng))
    return tensors


def random_blocks(type: WeightType, n_bytes: int, rng: np.random.Generator) -> Any:
    """Packed blocks whose weights are mostly less than 1."""
    if type.name in ("F32", "F16", "BF16"):
        weights = rng.standard_normal(n_bytes // type.bytes).astype(np.float32) / 16
        return type.quantize(weights[None])[0]
    packed = rng.integers(0, 256, n_bytes, np.uint8)
    blocks = packed.view(type.dtype)
    for field, (dtype, _) in type.fields.items():
        if dtype == "<f2":
            blocks[field] = 1e-4 if type.block == 256 else 1e-2
        elif field == "e":
            blocks[field] = 120  # 2^-7
        elif type.name == "NVFP4" and field == "d":
            blocks[field] = 0x20  # 2^-3
    return packed

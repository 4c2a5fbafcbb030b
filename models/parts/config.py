"""A transformer's hyper-parameters, from GGUF metadata."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from linnet.kernels.ops.routing import MOST_EXPERTS
from linnet.models.parts.errors import ModelError

MAX_LAYERS = 1024
MAX_HEADS = 1024
MAX_WIDTH = 1 << 20
MAX_HEAD_DIM = 1024  # kernels of states are compiled for the whole of a head
MAX_CONTEXT = 1 << 24
POOLING_TYPES = ("none", "mean", "cls", "last", "rank")  # as files number them


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes and constants that every architecture has, each checked against its range."""

    architecture: str
    n_layers: int
    n_embd: int
    n_ff: int  # the widest layer's; 0 where all layers have experts
    n_heads: int
    n_kv_heads: int  # the most that a layer has
    head_dim: int
    n_rot: int  # how much of a head is rotated by position
    n_ctx_train: int
    n_vocab: int
    norm_eps: float
    rope_theta: float
    pooling: str  # how a text's vector is made, one of POOLING_TYPES

    @classmethod
    def from_keys(cls, keys: Keys, n_vocab: int, *, eps: str, latent: bool = False) -> Config:
        """Read `<architecture>.*`; `eps`: the key of the norms' constant; `latent`: whether values
        are a part of the keys.

        Raises ModelError naming the key, its value and the limits.
        """
        n_blocks = keys.integer("block_count", 1, MAX_LAYERS)
        # Blocks that predict further tokens come last; what they are for is not done here.
        n_layers = n_blocks - keys.integer("nextn_predict_layers", 0, n_blocks - 1, default=0)
        heads = max(keys.each("attention.head_count", 0, MAX_HEADS, n_layers=n_layers))
        if not heads:
            raise keys.error("attention.head_count", heads, "at least 1")
        kv_heads = set(
            keys.each("attention.head_count_kv", 0, MAX_HEADS, n_layers=n_layers, default=heads)
        ) - {0}  # of layers without attention
        for n in kv_heads or {0}:
            if not n or heads % n:
                raise keys.error("attention.head_count_kv", n, f"a divisor of {heads} heads")
        n_embd = keys.integer("embedding_length", 1, MAX_WIDTH)
        if not keys.has("attention.key_length") and n_embd % heads:
            raise keys.error("embedding_length", n_embd, f"a multiple of {heads} heads")
        head_dim = keys.integer("attention.key_length", 1, MAX_HEAD_DIM, default=n_embd // heads)
        value_dim = keys.integer("attention.value_length", 1, MAX_HEAD_DIM, default=head_dim)
        if value_dim != head_dim and not latent:
            raise keys.error("attention.value_length", value_dim, f"the key length, {head_dim}")
        stated_vocab = keys.integer("vocab_size", 0, MAX_CONTEXT, default=n_vocab)
        if stated_vocab != n_vocab:
            found = f"{keys.architecture}.vocab_size is {stated_vocab}"
            warnings.warn(
                f"{found}; token_embd.weight has {n_vocab} rows, which count", stacklevel=2
            )
        if not keys.flag("attention.causal", default=True):
            raise keys.error("attention.causal", False, "true: tokens see those before them only")
        has_experts = keys.integer("expert_count", 0, MOST_EXPERTS, default=0) > 0
        fewest = 0 if has_experts else 1
        return cls(
            architecture=keys.architecture,
            n_layers=n_layers,
            n_embd=n_embd,
            n_ff=max(keys.each("feed_forward_length", fewest, MAX_WIDTH, n_layers=n_layers)),
            n_heads=heads,
            n_kv_heads=max(kv_heads),
            head_dim=head_dim,
            n_rot=keys.rotated("rope.dimension_count", head_dim),
            n_ctx_train=keys.integer("context_length", 1, MAX_CONTEXT),
            n_vocab=n_vocab,
            norm_eps=keys.number(eps, 0.0, 1.0),
            rope_theta=keys.number("rope.freq_base", 1.0, 1e12, default=10000.0),
            pooling=keys.pooling(),
        )


class Keys:
    """Typed, range-checked access to the keys of one architecture; remembers those asked for."""

    def __init__(self, metadata: Mapping[str, object]) -> None:
        self._metadata, self._asked = metadata, set[str]()
        architecture = metadata.get("general.architecture")
        if not isinstance(architecture, str):
            raise ModelError("general.architecture is missing: this file does not hold a model")
        self.architecture = architecture

    def has(self, key: str) -> bool:
        return f"{self.architecture}.{key}" in self._metadata

    def is_array(self, key: str) -> bool:
        return isinstance(self._metadata.get(f"{self.architecture}.{key}"), np.ndarray)

    def integer(self, key: str, low: int, high: int, *, default: int | None = None) -> int:
        """An int within low..high; the default where the key is missing."""
        return self._whole(key, self._value(key, default), low, high)

    def each(
        self, key: str, low: int, high: int, *, n_layers: int, default: int | None = None
    ) -> tuple[int, ...]:
        """An int or a bool for each layer: the file has one for all, or one a block."""
        value = self._value(key, default)
        if not isinstance(value, np.ndarray):
            return (self._whole(key, value, low, high),) * n_layers
        if len(value) < n_layers:
            raise self.error(key, value, f"one number, or one for each of {n_layers} layers")
        numbers = [int(v) if isinstance(v, bool) else v for v in value[:n_layers].tolist()]
        return tuple(self._whole(key, number, low, high) for number in numbers)

    def rotated(self, key: str, head_dim: int) -> int:
        """How many numbers of a head are rotated, in pairs: all where the key is missing."""
        n_rot = self.integer(key, 2, head_dim, default=head_dim)
        if n_rot % 2:
            raise self.error(key, n_rot, "even")
        return n_rot

    def pooling(self) -> str:
        """One of POOLING_TYPES; "none" where the key is missing, or -1."""
        value = self._value("pooling_type", 0)
        if isinstance(value, int) and value in (-1, 0xFFFFFFFF):
            return "none"
        return POOLING_TYPES[self._whole("pooling_type", value, 0, len(POOLING_TYPES) - 1)]

    def number(self, key: str, low: float, high: float, *, default: float | None = None) -> float:
        """A finite number within low..high; the default where the key is missing."""
        value = self._value(key, default)
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not math.isfinite(value)
        ):
            raise self.error(key, value, "a finite number")
        if not low <= value <= high:
            raise self.error(key, value, f"from {low:g} to {high:g}")
        return float(value)

    def factor(self, key: str, *, default: float = 1.0) -> float:
        """A number from 1e-6 to 1e6, to multiply or divide by; the default where the key is
        missing, or 0, by which files mean none."""
        value = self.number(key, 0.0, 1e6, default=0.0)
        if 0.0 < value < 1e-6:
            raise self.error(key, value, "0 for none, or from 1e-06 to 1e+06")
        return value or default

    def text(self, key: str, *, default: str) -> str:
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self.error(key, value, "text")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self.error(key, value, "true or false")
        return value

    def unasked(self) -> Iterator[tuple[str, object]]:
        """The architecture's keys whose values nobody has asked for, and these."""
        prefix = f"{self.architecture}."
        for name in self._metadata:
            key = name.removeprefix(prefix)
            if key != name and key not in self._asked:
                yield key, self._metadata[name]

    def error(self, key: str, value: object, wanted: str) -> ModelError:
        return ModelError(f"{self.architecture}.{key} is {str(value)[:80]!r}; it must be {wanted}")

    def _whole(self, key: str, value: object, low: int, high: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(key, value, f"a whole number from {low} to {high}")
        return value

    def _value(self, key: str, default: object) -> object:
        self._asked.add(key)
        value = self._metadata.get(f"{self.architecture}.{key}", default)
        if value is None:
            raise ModelError(f"{self.architecture}.{key} is missing")
        return value

"""What all architectures share. An architecture is a subclass that says what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from linnet.kernels.runtime.program import Buffer
from linnet.models.parts.attention import Attention
from linnet.models.parts.blocks import Block, FeedForward, LayerNorm, Parallel, Residual, RmsNorm
from linnet.models.parts.config import MAX_CONTEXT, MAX_LAYERS, Config, Keys
from linnet.models.parts.graph import Graph
from linnet.models.parts.heads import HeadNorms
from linnet.models.parts.rotary import RotaryEmbedding
from linnet.models.parts.weights import Weights


class Transformer:
    """A decoder: token embeddings, layers of blocks, a last norm, the output.

    As it stands, the blocks of Llama and most others: attention and a feed-forward network, each
    with a norm before it and around it a residual (arXiv:2302.13971).
    """

    norm: ClassVar[type[RmsNorm] | type[LayerNorm]] = RmsNorm
    adjacent: ClassVar[bool] = False  # which columns rotate together: see `RotaryEmbedding`
    parallel: ClassVar[bool] = False  # attention and feed-forward network side by side: see `layer`
    attn_norm: ClassVar[str] = "attn_norm"
    attn_post_norm: ClassVar[str] = ""
    ffn_norm: ClassVar[str] = "ffn_norm"
    ffn_post_norm: ClassVar[str] = ""
    last_norm: ClassVar[str] = "output_norm"
    latent: ClassVar[bool] = False  # values are a part of the keys: see `LatentAttention`

    def __init__(self, metadata: Mapping[str, object], w: Weights) -> None:
        """Raises ModelError."""
        self.keys = Keys(metadata)
        n_vocab = w.n_rows("token_embd.weight")
        self.config = config = Config.from_keys(
            self.keys, n_vocab, eps=self.norm.eps_key, latent=self.latent
        )
        self.embedding_scale, self.logit_scale, self.logit_cap = 1.0, 1.0, 0.0
        self.read_keys()
        self.read_tensors(w)
        self.rope = self.main_rope(w)
        self.token_embd = w.matrix("token_embd", n_vocab, config.n_embd)
        self.layers = [self.layer(w.layer(i), i) for i in range(config.n_layers)]
        self.output_norm = self.norm.load(w, self.last_norm, config)
        tied = "output.weight" not in w
        self.output = self.token_embd if tied else w.matrix("output", n_vocab, config.n_embd)

    def read_keys(self) -> None:
        """Set what else the file says, before any layer is made."""

    def read_tensors(self, w: Weights) -> None:
        """Take tensors that no layer has, before any layer is made."""

    # -- what is in a layer; `w`: its tensors, `i`: its number -----------------------------------
    def layer(self, w: Weights, i: int) -> Sequence[Block]:
        """One block after the other; or, where an architecture is `parallel` and the layer has one
        norm, both on what it gives."""
        if self.parallel and f"{self.ffn_norm}.weight" not in w:
            both = Parallel([self.attention(w, i), self.feed_forward(w, i)])
            return [self.residual(w, both, self.attn_norm, self.attn_post_norm)]
        return [
            self.residual(w, self.attention(w, i), self.attn_norm, self.attn_post_norm),
            self.residual(w, self.feed_forward(w, i), self.ffn_norm, self.ffn_post_norm),
        ]

    def residual(self, w: Weights, block: Block, norm: str, post_norm: str) -> Block:
        """A block with norms of these names before and after it; no norm for no name."""
        before, after = (
            self.norm.load(w, name, self.config) if name else None for name in (norm, post_norm)
        )
        return Residual(block, before, after)

    def attention(self, w: Weights, i: int) -> Block:
        return Attention.load(w, self.config, self.rope)

    def feed_forward(self, w: Weights, i: int) -> Block:
        return FeedForward.load(w, self.config)

    # -- the forward pass ------------------------------------------------------------------------
    def record(self, g: Graph) -> Buffer:
        """Record a forward pass; returns the logits (n_outputs, n_vocab)."""
        return self.logits(g, self.hidden(g))

    def hidden(self, g: Graph) -> Buffer:
        """A forward pass up to the states that logits are made of (n_outputs, n_embd)."""
        x = self.embed(g)
        for blocks in self.layers:
            for block in blocks:
                x = block.record(g, x)
        return self.output_norm.record(g, g.outputs(x))

    def embed(self, g: Graph) -> Buffer:
        """The embeddings of this pass's tokens (n_tokens, n_embd)."""
        return g.scale(g.embed(self.token_embd), self.embedding_scale)

    def logits(self, g: Graph, x: Buffer) -> Buffer:
        """x (n_outputs, n_embd) -> (n_outputs, n_vocab)"""
        (logits,) = g.linear(x, self.output)
        return g.softcap(g.scale(logits, self.logit_scale), self.logit_cap)

    # -- what several have in common -------------------------------------------------------------
    def main_rope(self, w: Weights) -> RotaryEmbedding:
        return RotaryEmbedding.load(self.keys, w, self.config, adjacent=self.adjacent)

    def head_norms(self, w: Weights) -> HeadNorms:
        """Norms of queries and of keys, each with the same weights for every head."""
        n = self.config.head_dim
        q, k = (self.norm.load(w, name, self.config, n) for name in ("attn_q_norm", "attn_k_norm"))
        return HeadNorms(q, k)

    def own_head_norms(self, w: Weights) -> HeadNorms | None:
        """The same with weights of its own for every head; None where the file has none."""
        if "attn_q_norm.weight" not in w:
            return None
        c = self.config
        return HeadNorms(
            self.norm.load(w, "attn_q_norm", c, c.n_heads, c.head_dim),
            self.norm.load(w, "attn_k_norm", c, c.n_kv_heads, c.head_dim),
        )

    def window(self, i: int, *, every: int, default: int = 0) -> int | None:
        """How many positions layer i sees; None for all that come before.

        Where the file does not say for each layer, every so many-th sees all.
        """
        size = self.keys.integer("attention.sliding_window", 0, MAX_CONTEXT, default=default)
        key, n_layers = "attention.sliding_window_pattern", self.config.n_layers
        most = 1 if self.keys.is_array(key) else MAX_LAYERS
        pattern = self.keys.each(key, 0, most, n_layers=n_layers, default=every)
        if not self.keys.is_array(key):
            pattern = tuple(int(not n or j % n < n - 1) for j, n in enumerate(pattern))
        return size if size and pattern[i] else None

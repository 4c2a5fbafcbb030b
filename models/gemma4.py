"""Gemma 4 (Google)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from linnet.kernels.ops.elementwise import GeluMultiply
from linnet.kernels.runtime.program import Buffer
from linnet.models.gemma3 import Gemma3
from linnet.models.parts.attention import Attention, ScaledDotProduct
from linnet.models.parts.blocks import (
    Block,
    Chain,
    FeedForward,
    Parallel,
    Residual,
    RmsNorm,
    Scaled,
)
from linnet.models.parts.config import MAX_HEAD_DIM, MAX_HEADS, MAX_WIDTH
from linnet.models.parts.errors import ModelError
from linnet.models.parts.experts import Experts
from linnet.models.parts.graph import Graph
from linnet.models.parts.heads import HeadNorms
from linnet.models.parts.weights import Matrix, Weights


@dataclass(frozen=True, slots=True, eq=False)
class PerLayerEmbeddings:
    """Of a token and its embedding x, for each layer:
    (norm(project(x)) + table[token] * sqrt(width)) / sqrt(2)."""

    table: Matrix
    project: Matrix
    norm: RmsNorm
    width: int  # for a layer

    def record(self, g: Graph, x: Buffer) -> Buffer:
        """x (n_tokens, n_embd) -> (n_tokens, n_layers, width)"""
        (y,) = g.linear(x, self.project)
        y = self.norm.record(g, g.scale(y, 1 / math.sqrt(x.width)))
        of_token = g.scale(g.embed(self.table), math.sqrt(self.width))
        return g.scale(g.add(y, of_token), math.sqrt(0.5))


@dataclass(frozen=True, slots=True, eq=False)
class PerLayerInput:
    """down(gelu(gate(x)) * the token's embedding for this layer)."""

    embeddings: PerLayerEmbeddings
    layer: int
    gate: Matrix
    down: Matrix

    def record(self, g: Graph, x: Buffer) -> Buffer:
        (gate,) = g.linear(x, self.gate)
        embeddings, width = g.shared[self.embeddings], self.embeddings.width
        part = g.columns(embeddings, self.layer * width, width, every=embeddings.width)
        (out,) = g.linear(g.combine(GeluMultiply(), gate, part), self.down)
        return out


class Gemma4(Gemma3):
    """Wider heads where a layer sees all; norms of values; the last layers attend to keys and
    values of earlier ones; layers may take an embedding of their own, and may be scaled."""

    ffn_norm = ""  # that of the file belongs to the dense network alone

    def read_keys(self) -> None:
        super().read_keys()
        keys, n_layers = self.keys, self.config.n_layers
        pattern = "attention.sliding_window_pattern"
        self.local = keys.each(pattern, 0, 1, n_layers=n_layers)
        self.n_kv_heads = keys.each("attention.head_count_kv", 1, MAX_HEADS, n_layers=n_layers)
        self.n_ff = keys.each("feed_forward_length", 1, MAX_WIDTH, n_layers=n_layers)
        self.local_dim = keys.integer("attention.key_length_swa", 2, MAX_HEAD_DIM)
        value_dim = keys.integer(
            "attention.value_length_swa", 2, MAX_HEAD_DIM, default=self.local_dim
        )
        if value_dim != self.local_dim:
            raise keys.error("attention.value_length_swa", value_dim, f"{self.local_dim}, as keys")
        self.n_with_keys = n_layers - keys.integer(
            "attention.shared_kv_layers", 0, max(0, n_layers - 2), default=0
        )
        for local in set(self.local[self.n_with_keys :]):
            if self.local[self.source(local)] != local:
                wanted = f"{local} in layer {self.source(local)}, whose keys later ones share"
                raise keys.error(pattern, 1 - local, wanted)
        self.n_per_layer = keys.integer("embedding_length_per_layer_input", 0, MAX_WIDTH)
        self.attended: list[ScaledDotProduct] = []  # of each layer that is made

    @property
    def local_n_rot(self) -> int:
        return self.keys.rotated("rope.dimension_count_swa", self.local_dim)

    def source(self, local: int) -> int:
        """The layer whose keys later ones share: of the last two with keys, that of their kind."""
        return self.n_with_keys - (2 if local else 1)

    def read_tensors(self, w: Weights) -> None:
        c, width, self.embeddings = self.config, self.n_per_layer, None
        if n_all := width * c.n_layers:
            self.embeddings = PerLayerEmbeddings(
                table=w.matrix("per_layer_token_embd", c.n_vocab, n_all),
                project=w.matrix("per_layer_model_proj", n_all, c.n_embd),
                norm=RmsNorm.load(w, "per_layer_proj_norm", c, width),
                width=width,
            )

    def layer(self, w: Weights, i: int) -> Sequence[Block]:
        c, blocks = self.config, list(super().layer(w, i))
        if self.embeddings:
            gate = w.matrix("inp_gate", self.n_per_layer, c.n_embd)
            down = w.matrix("proj", c.n_embd, self.n_per_layer)
            block = PerLayerInput(self.embeddings, i, gate, down)
            blocks.append(Residual(block, post_norm=RmsNorm.load(w, "post_norm", c)))
        scale = w.optional("layer_output_scale.weight", 1)
        return blocks if scale is None else [*blocks, Scaled(float(scale[0]))]

    def attention(self, w: Weights, i: int) -> Block:
        c, local, n_kv_heads = self.config, self.local[i], self.n_kv_heads[i]
        head_dim = self.local_dim if local else c.head_dim
        n_q, n_kv = c.n_heads * head_dim, n_kv_heads * head_dim
        q_norm = RmsNorm.load(w, "attn_q_norm", c, head_dim)
        v_norm = RmsNorm(np.ones(head_dim, np.float32), c.norm_eps)
        source, k, v, k_norm = None, None, None, None
        if i >= self.n_with_keys:
            source = self.attended[self.source(local)]
            if (source.head_dim, source.n_kv_heads) != (head_dim, n_kv_heads):
                sizes = f"layer {i} takes {n_kv_heads} heads of {head_dim}"
                found = f"there are {source.n_kv_heads} of {source.head_dim}"
                raise ModelError(f"blk.{i}: of the keys of an earlier layer, {sizes}; {found}")
        else:
            k = w.matrix("attn_k", n_kv, c.n_embd)
            v = w.matrix("attn_v", n_kv, c.n_embd) if "attn_v.weight" in w else k
            k_norm = RmsNorm.load(w, "attn_k_norm", c, head_dim)
        window = self.window(i, every=0) if local else None
        attend = ScaledDotProduct(n_kv_heads, head_dim, scale=1.0, window=window, source=source)
        self.attended.append(attend)
        return Attention(
            q=w.matrix("attn_q", n_q, c.n_embd),
            k=k,
            v=v,
            steps=[HeadNorms(q_norm, k_norm, v_norm), self.local_rope if local else self.rope],
            attend=attend,
            output=w.matrix("attn_output", c.n_embd, n_q),
        )

    def feed_forward(self, w: Weights, i: int) -> Block:
        c, gelu = self.config, GeluMultiply()
        dense = FeedForward.load(w, c, n_ff=self.n_ff[i], activation=gelu, scaled=True)
        norm = RmsNorm.load(w, "ffn_norm", c)
        if "ffn_gate_inp.weight" not in w:
            return Chain([norm, dense])
        of_router = w.vector("ffn_gate_inp.scale", c.n_embd) / np.float32(math.sqrt(c.n_embd))
        experts = Experts.load(
            w, c, self.keys, activation=gelu, scaled=True,
            norm=RmsNorm.load(w, "pre_ffw_norm_2", c),
            router_norm=RmsNorm(of_router, c.norm_eps),
        )  # fmt: skip
        after, after_experts = (RmsNorm.load(w, f"post_ffw_norm_{n}", c) for n in (1, 2))
        return Parallel([Chain([norm, dense, after]), Chain([experts, after_experts])])

    def embed(self, g: Graph) -> Buffer:
        x = super().embed(g)
        if self.embeddings:
            g.shared[self.embeddings] = self.embeddings.record(g, x)
        return x

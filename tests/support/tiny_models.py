"""GGUF files with the tensors of language models, for tests that look at names and shapes."""

from __future__ import annotations

from support.gguf_builder import F16, F32, STRING, UINT32, GGUFBuilder


def model(
    layers: int = 2,
    *,
    arch: str = "llama",
    columns: int = 256,
    ffn: int = 256,
    experts: int = 0,
    kv_heads: int = 2,
    tied: bool = False,
    type: int = F16,
) -> GGUFBuilder:
    """The tensors of a language model, with few rows and zeros for weights."""
    builder = (
        GGUFBuilder()
        .kv("general.architecture", STRING, arch)
        .kv(f"{arch}.block_count", UINT32, layers)
        .kv(f"{arch}.attention.head_count", UINT32, 4)
        .kv(f"{arch}.attention.head_count_kv", UINT32, kv_heads)
        .kv(f"{arch}.expert_count", UINT32, experts)
        .tensor("token_embd.weight", type, (2, columns))
        .tensor("output_norm.weight", F32, (columns,))
    )
    if not tied:
        builder.tensor("output.weight", type, (2, columns))
    stack, suffix = ((2,), "_exps") if experts else ((), "")
    for layer in reversed(range(layers)):  # the order does not matter
        block = f"blk.{layer}"
        builder.tensor(f"{block}.attn_norm.weight", F32, (columns,))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            builder.tensor(f"{block}.{name}.weight", type, (2, columns))
        for name in ("ffn_gate", "ffn_up"):
            builder.tensor(f"{block}.{name}{suffix}.weight", type, (*stack, 2, columns))
        builder.tensor(f"{block}.ffn_down{suffix}.weight", type, (*stack, 2, ffn))
        if experts:
            builder.tensor(f"{block}.ffn_gate_inp.weight", F32, (experts, columns))
    return builder

"""Counts of tokens."""

from __future__ import annotations


def counts(n_prompt: int, n_generated: int) -> dict[str, int]:
    """Of a prompt, and of what followed it."""
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_generated,
        "total_tokens": n_prompt + n_generated,
    }

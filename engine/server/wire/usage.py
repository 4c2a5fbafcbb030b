"""What an answer took, as the wire formats say it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from linnet.engine.openai.usage import counts
from linnet.engine.running.generation import PromptProgress, Stats


def usage(
    each: Sequence[Stats], *, n_prompts: int = 1, n_reasoning: int = 0
) -> dict[str, Any]:  # fmt: skip
    """OpenAI's counts, of all answers to a prompt, or to each of several."""
    firsts = each[:: len(each) // n_prompts]
    n_prompt = sum(stats.n_prompt for stats in firsts)
    n_generated = sum(stats.n_generated for stats in each)
    return {
        **counts(n_prompt, n_generated),
        "prompt_tokens_details": {"cached_tokens": sum(stats.n_cached for stats in firsts)},
        "completion_tokens_details": {"reasoning_tokens": n_reasoning},
    }


def timings(stats: Stats, *, n_done: int | None = None) -> dict[str, Any]:
    """llama-server's figures of one answer; times in ms, rates in tokens a second. The rate of what
    was predicted is that after the first token, whose time is the prompt's. `n_done`: tokens of a
    prompt that is under way. Those of drafts only where there were any, as llama-server has it."""
    n_prompt = (stats.n_prompt if n_done is None else n_done) - stats.n_cached
    seconds, n = stats.prompt_seconds, stats.n_generated
    drafts = {"draft_n": stats.n_drafted, "draft_n_accepted": stats.n_accepted}
    return {
        "cache_n": stats.n_cached,
        "prompt_n": n_prompt,
        "prompt_ms": 1000 * seconds,
        "prompt_per_token_ms": 1000 * seconds / n_prompt if n_prompt else 0.0,
        "prompt_per_second": n_prompt / seconds if seconds else 0.0,
        "predicted_n": n,
        "predicted_ms": 1000 * stats.generate_seconds,
        "predicted_per_token_ms": 1000 * stats.generate_seconds / (n - 1) if n > 1 else 0.0,
        "predicted_per_second": stats.generate_rate,
        "queue_ms": 1000 * stats.queue_seconds,
        **(drafts if stats.n_drafted else {}),
    }


def progress(event: PromptProgress, stats: Stats) -> dict[str, Any]:
    """How far a prompt is, by llama-server's names."""
    return {
        "total": event.n_tokens,
        "cache": stats.n_cached,
        "processed": event.n_done,
        "time_ms": round(1000 * stats.prompt_seconds),
    }

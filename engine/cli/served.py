"""What commands share that answer requests in the server's wire formats, and the server's app: the
flags of the model and of its answers, and what these say."""

from __future__ import annotations

import argparse
from typing import Any

from linnet.engine.async_llm import AsyncLLM
from linnet.engine.cli.counts import count
from linnet.engine.cli.options import (
    add_drafts,
    add_running,
    add_sampling,
    add_template,
    chat_variables,
    draft_options,
    open_model,
    reasoning_budget,
    sampling_fields,
    set_template,
)
from linnet.engine.open_model import MOST_PARALLEL, N_PARALLEL, N_SLOTS
from linnet.engine.running.embedding import POOLINGS
from linnet.engine.sampling.parameter import MAX_INT
from linnet.engine.sampling.params import PARAMETERS
from linnet.engine.server.settings import Settings
from linnet.models.parts.config import MAX_CONTEXT


def add_served(parser: argparse.ArgumentParser, *, n_parallel: int = N_PARALLEL) -> None:
    """The flags that `settings` and `opened` read, but for those of `add_model`; `n_parallel`: the
    default of -np."""
    add = parser.add_argument_group("requests").add_argument
    add("-a", "--alias", metavar="NAME", help="the model's id; default the file's name")
    add("--strict-model", action="store_true", help="refuse requests for models of other names")
    add("-np", "--parallel", type=count(1, MOST_PARALLEL), default=n_parallel, metavar="N",
        help=f"requests that run at once; default {n_parallel}")  # fmt: skip
    add("--kv-tokens", type=count(1, MAX_CONTEXT * N_SLOTS), metavar="N",
        help="tokens that all sequences may hold; default half of the free memory")  # fmt: skip
    add("--prompt-cache", metavar="DIR", help="keep long prefixes on disk")
    add("--pooling", choices=POOLINGS, help="of embeddings; default as the file says")
    add("--reasoning-format", choices=("auto", "deepseek", "none"), default="auto",
        help="none: leave it in the content; else it has a field of its own")  # fmt: skip
    add_sampling(parser, without=("logprobs", "prompt_logprobs", "max_tokens"))
    parser.add_argument(
        *PARAMETERS["max_tokens"].flags, dest="max_tokens", type=count(-1, MAX_INT), metavar="N",
        default=-1, help="tokens at most, of requests that do not say; default -1: no limit",
    )  # fmt: skip
    add_running(
        parser, context="tokens of each sequence; 0: the model's; by default that, at most 8192"
    )
    add_drafts(parser)
    add_template(parser.add_argument_group("chat"))


def settings(arguments: argparse.Namespace, **others: Any) -> Settings:
    """What requests are answered by; `others`: fields that these flags do not give. Raises what
    `sampling_fields` raises."""
    return Settings(
        alias=arguments.alias, strict_model=arguments.strict_model,
        sampling=sampling_fields(arguments), variables=chat_variables(arguments),
        reasoning=arguments.reasoning_format != "none",
        reasoning_budget=reasoning_budget(arguments), pooling=arguments.pooling, **others,
    )  # fmt: skip


def opened(arguments: argparse.Namespace) -> AsyncLLM:
    """The model. Of this module, so that another process can be told to open it, too."""
    llm = open_model(
        arguments, n_parallel=arguments.parallel, kv_tokens=arguments.kv_tokens,
        prompt_cache=arguments.prompt_cache, **draft_options(arguments),
    )  # fmt: skip
    set_template(llm, arguments)
    return AsyncLLM(llm)

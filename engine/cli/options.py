"""The flags of commands that run a model: how to run it, how to sample, how to chat."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection
from typing import Any

from linnet.engine.chat.template import RESERVED, ChatTemplate
from linnet.engine.cli.conversation import Conversation
from linnet.engine.cli.counts import count
from linnet.engine.cli.machine import add_machine, numerics
from linnet.engine.cli.model import model_path
from linnet.engine.cli.reading import read_text
from linnet.engine.llm import LLM
from linnet.engine.open_model import SPEC_TYPES
from linnet.engine.running.drafts import MOST_DRAFTS
from linnet.engine.running.generation import Stats
from linnet.engine.running.runner import MOST_PROMPT_TOKENS, PROMPT_TOKENS
from linnet.engine.sampling.constraint import check_shape
from linnet.engine.sampling.parameter import MAX_INT
from linnet.engine.sampling.params import PARAMETERS, SamplingParams
from linnet.models.parts.config import MAX_CONTEXT

DEFAULTS = SamplingParams()
FILES = {"json_schema": ("-jf", "--json-schema-file"), "grammar": ("--grammar-file",)}
OURS = RESERVED | {"add_generation_prompt"}


def add_sampling(parser: argparse.ArgumentParser, *, without: Collection[str] = ()) -> None:
    """How tokens are chosen, and when to stop, in llama-cli's words; but for some fields of
    SamplingParams, of which the command would show nothing."""
    for name, parameter in PARAMETERS.items():
        if parameter.flags and name not in without:
            argument = {"dest": name, "default": argparse.SUPPRESS, **parameter.argument}
            parser.add_argument(*parameter.flags, **argument)
    for name, flags in FILES.items():
        what = f"a file with what {PARAMETERS[name].flags[-1]} takes"
        parser.add_argument(*flags, dest=_file(name), metavar="FILE", help=what)


def sampling_fields(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of SamplingParams that flags set, for `LLM.sampling_params`; checked already.

    -1 stands for None where that is the default. Raises ValueError, also for a shape that cannot be
    enforced; OSError for a file; ModuleNotFoundError without what enforces shapes.
    """
    given = {
        name: value
        for name, value in vars(arguments).items()
        if name in PARAMETERS and not (value == -1 and getattr(DEFAULTS, name) is None)
    }
    for name, flags in FILES.items():
        path = getattr(arguments, _file(name))
        if path is not None and name in given:
            raise ValueError(f"{PARAMETERS[name].flags[-1]} and {flags[-1]} are given; one will do")
        if path is not None:
            given[name] = read_text(path)
    check_shape(SamplingParams(**given))
    return given


def _file(name: str) -> str:
    """Where arguments have the file of a field of SamplingParams."""
    return f"{name}_file"


def add_running(
    parser: argparse.ArgumentParser,
    *,
    context: str = "tokens; 0: the model's; by default that, at most 8192",
) -> None:
    """The flags that `open_model` reads, but for the model's; `context`: the help of -c."""
    add = parser.add_argument
    add_machine(parser)
    add("-c", "--ctx-size", type=count(0, MAX_CONTEXT), metavar="N", help=context)
    add(
        "-b", "--batch-size", type=count(1, MOST_PROMPT_TOKENS), default=PROMPT_TOKENS, metavar="N",
        help=f"tokens in a prompt pass; default {PROMPT_TOKENS}",
    )  # fmt: skip
    add("--no-mmap", action="store_true", help="read the file into memory instead of mapping it")
    add(
        "--ignore-unknown", action="store_true",
        help="load a file that says more of its model than is used here; results may be wrong",
    )  # fmt: skip


def add_drafts(parser: argparse.ArgumentParser) -> None:
    """The flags that `draft_options` reads, in llama-server's words, older ones included."""
    add = parser.add_argument_group("drafts").add_argument
    add(
        "--spec-type", type=lambda text: text.removesuffix("-simple"), choices=SPEC_TYPES,
        help="who guesses the next tokens, which changes no answer; default draft with -md, ngram "
        "without, none for models with a state",
    )  # fmt: skip
    add(
        "-md", "--spec-draft-model", "--model-draft", dest="draft_model", metavar="FILE",
        help="a smaller model with the same vocabulary",
    )  # fmt: skip
    add(
        "--spec-draft-n-max", "--draft-max", "--draft", dest="draft_max",
        type=count(1, MOST_DRAFTS), default=MOST_DRAFTS, metavar="N",
        help=f"guesses at once, at most; default {MOST_DRAFTS}",
    )  # fmt: skip


def draft_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Arguments of LLM."""
    names = "spec_type", "draft_model", "draft_max"
    return {name: getattr(arguments, name) for name in names}


def drafted(stats: Stats) -> str:
    """What a line of figures says of drafts: nothing where there were none."""
    return f", {stats.n_accepted} of {stats.n_drafted} drafts right" if stats.n_drafted else ""


def open_model(
    arguments: argparse.Namespace, *, n_ctx: int | None = None, **options: Any
) -> LLM:  # fmt: skip
    """The model that `add_model` and `add_running` have flags for, of which `n_ctx` may stand in
    for -c; `options`: other arguments of LLM, whose errors are raised."""
    return LLM(
        model_path(arguments),
        n_threads=arguments.threads,
        n_ctx=arguments.ctx_size if n_ctx is None else n_ctx,
        n_batch=arguments.batch_size,
        isa=arguments.isa,
        mmap=not arguments.no_mmap,
        ignore_unknown=arguments.ignore_unknown,
        **numerics(arguments),
        **options,
    )


def add_chatting(parser: argparse.ArgumentParser) -> None:
    """The flags that `open_conversation` reads."""
    group = parser.add_argument_group("chat")
    group.add_argument(
        "-sys", "--system-prompt", "--system", dest="system", metavar="TEXT",
        help="the system prompt: what the model is to know or be",
    )  # fmt: skip
    add_template(group)


def add_template(parser: argparse._ActionsContainer) -> None:
    """The flags that `set_template`, `chat_variables` and `reasoning_budget` read."""
    add = parser.add_argument
    add(
        "-rea", "--reasoning", choices=("on", "off"),
        help="whether to think before the answer, for templates that ask (enable_thinking)",
    )  # fmt: skip
    add(
        "--reasoning-budget", type=count(-1, MAX_INT), metavar="N",
        help="tokens to think, at most, before the answer; 0: none; default -1: no limit",
    )  # fmt: skip
    add(
        "--chat-template-kwargs", type=_variables, metavar="JSON",
        help="an object of what else the template takes",
    )  # fmt: skip
    add("--chat-template-file", metavar="FILE", help="a template in place of the model's own")


def is_chat(arguments: argparse.Namespace) -> bool:
    """Whether any flag of `add_chatting` is given."""
    names = "system", "reasoning", "reasoning_budget", "chat_template_kwargs", "chat_template_file"
    return any(getattr(arguments, name) is not None for name in names)


def open_conversation(
    llm: LLM, params: SamplingParams, arguments: argparse.Namespace
) -> Conversation:
    """Raises TemplateError where there is no template, or it refuses what the flags give it."""
    set_template(llm, arguments)
    return Conversation(
        llm, params, system=arguments.system, variables=chat_variables(arguments),
        reasoning_budget=reasoning_budget(arguments),
    )  # fmt: skip


def set_template(llm: LLM, arguments: argparse.Namespace) -> None:
    """Raises TemplateError for a file that is none."""
    if arguments.chat_template_file is not None:
        source = read_text(arguments.chat_template_file)
        llm.chat_template = ChatTemplate(source, llm.tokenizer, name="--chat-template-file")


def chat_variables(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the flags give templates."""
    variables = dict(arguments.chat_template_kwargs or {})
    if arguments.reasoning is not None:
        variables["enable_thinking"] = arguments.reasoning == "on"
    return variables


def reasoning_budget(arguments: argparse.Namespace) -> int | None:
    """Tokens; None for no limit."""
    budget: int | None = arguments.reasoning_budget
    return None if budget == -1 else budget


def _variables(text: str) -> dict[str, Any]:
    try:
        variables = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from error
    if not isinstance(variables, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")
    for name in OURS & variables.keys():
        raise argparse.ArgumentTypeError(f"{name!r} is not for a template: linnet gives it")
    return variables

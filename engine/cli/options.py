"""The flags of commands that run a model: how to run it, how to sample, how to chat."""

from __future__ import annotations

import argparse
import json
import re
import warnings
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from linnet.engine.chat.builtin import TEMPLATES
from linnet.engine.chat.template import RESERVED, ChatTemplate
from linnet.engine.cli.conversation import Conversation
from linnet.engine.cli.counts import Smallest, count
from linnet.engine.cli.machine import add_machine, numerics
from linnet.engine.cli.model import model_path
from linnet.engine.cli.reading import read_prompt, read_text
from linnet.engine.llm import LLM
from linnet.engine.machine import usable_threads
from linnet.engine.open_model import SPEC_TYPES
from linnet.engine.running.drafts import MOST_DRAFTS
from linnet.engine.running.generation import Chunk, Stats
from linnet.engine.running.runner import MOST_PROMPT_TOKENS, PROMPT_TOKENS
from linnet.engine.sampling.constraint import ConstraintError, check_shape
from linnet.engine.sampling.parameter import MAX_INT
from linnet.engine.sampling.params import DEFAULT_ORDER, PARAMETERS, SHAPES, SamplingParams
from linnet.models.parts.config import MAX_CONTEXT

DEFAULTS = SamplingParams()
LIMIT = f"the text ends at {DEFAULTS.max_tokens} tokens: -n takes another limit, -n -1 none"
FILES = {"json_schema": ("-jf", "--json-schema-file"), "grammar": ("--grammar-file",)}
CHATTING = (
    "system", "system_file", "reasoning", "reasoning_effort", "reasoning_budget",
    "chat_template_kwargs", "chat_template", "chat_template_file",
)  # fmt: skip
OURS = RESERVED | {"add_generation_prompt"}
LETTERS = dict(zip("edskypmxt", DEFAULT_ORDER, strict=True))  # of samplers, as llama.cpp has them
NAME = re.compile(rf"\b({'|'.join(name for name in PARAMETERS if PARAMETERS[name].flags)})\b")


def add_sampling(parser: argparse.ArgumentParser, *, without: Collection[str] = ()) -> None:
    """How tokens are chosen, and when to stop, in llama-cli's words; but for some fields of
    SamplingParams, of which the command would show nothing."""
    sampling, shape = (parser.add_argument_group(title) for title in ("sampling", "shape"))
    for name, parameter in PARAMETERS.items():
        if parameter.flags and name not in without:
            argument = {"dest": name, "default": argparse.SUPPRESS, **parameter.argument}
            group = shape if name in SHAPES else sampling
            group.add_argument(*parameter.flags, **argument)
    sampling.add_argument(
        "--sampler-seq", "--sampling-seq", metavar="LETTERS",
        help="--samplers by a letter each, as in edskypmxt",
    )  # fmt: skip
    for name, flags in FILES.items():
        what = f"a file with what {PARAMETERS[name].flags[-1]} takes"
        shape.add_argument(*flags, dest=_file(name), metavar="FILE", help=what)


def sampling_fields(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of SamplingParams that flags set, for `LLM.sampling_params`; checked already.

    Raises ValueError, which names the flag, also for
    a shape that cannot be enforced; OSError for a file; ModuleNotFoundError without what enforces
    shapes.
    """
    given = {name: value for name, value in vars(arguments).items() if name in PARAMETERS}
    for name, flags in FILES.items():
        path = getattr(arguments, _file(name))
        if path is not None and name in given:
            raise ValueError(f"{PARAMETERS[name].flags[-1]} and {flags[-1]} are given; one will do")
        if path is not None:
            given[name] = read_text(path)
    if arguments.sampler_seq is not None:
        if "samplers" in given:
            raise ValueError("--samplers and --sampler-seq are given; one will do")
        given["samplers"] = _sequence(arguments.sampler_seq)
    variables = getattr(arguments, "variables", {})
    given = {
        name: _checked(name, value, variables.get(name, _flag(name)))
        for name, value in given.items()
    }
    try:
        params = SamplingParams(**given)
    except ValueError as error:  # about several together
        raise ValueError(NAME.sub(lambda found: _flag(found[0]), str(error))) from error
    try:
        check_shape(params)
    except ConstraintError as error:
        shape = str(params.shape)
        raise ConstraintError(_flag(shape) + str(error).removeprefix(shape)) from error
    return given


def _checked(name: str, value: object, called: str) -> Any:
    """Raises ValueError in the words of the command line, which has no None."""
    try:
        return PARAMETERS[name].check(called, value)
    except ValueError as error:
        raise ValueError(str(error).removesuffix(" or None").rstrip(",")) from error


def _flag(name: str) -> str:
    """What a field of SamplingParams is called on the command line."""
    return PARAMETERS[name].flags[0]


def _sequence(letters: str) -> list[str]:
    """Samplers by llama.cpp's letters. Raises ValueError."""
    if unknown := set(letters) - LETTERS.keys():
        known = ", ".join(f"{letter} {name}" for letter, name in LETTERS.items())
        raise ValueError(f"--sampler-seq has {min(unknown)!r}; there are {known}")
    return [LETTERS[letter] for letter in letters]


def _file(name: str) -> str:
    """Where arguments have the file of a field of SamplingParams."""
    return f"{name}_file"


def add_running(
    parser: argparse.ArgumentParser,
    *,
    context: str = "tokens; 0: the model's; by default that, at most 8192",
) -> None:
    """The flags that `open_model` reads, but for the model's; `context`: the help of -c."""
    group = parser.add_argument_group("running")
    add = group.add_argument
    add_machine(group)
    add("-c", "--ctx-size", type=count(0, MAX_CONTEXT), metavar="N", help=context)
    add(
        "-b", "-ub", "--batch-size", "--ubatch-size", type=count(1, MOST_PROMPT_TOKENS),
        action=Smallest, metavar="N",
        help=f"tokens in a prompt pass; of several numbers the smallest; default {PROMPT_TOKENS}",
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
        type=count(1, MAX_INT), default=MOST_DRAFTS, metavar="N",
        help=f"guesses at once, at most; default {MOST_DRAFTS}, and never more",
    )  # fmt: skip


def draft_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Arguments of LLM. Raises ValueError for a smaller model that is missing, or has no use."""
    spec_type, model = arguments.spec_type, arguments.draft_model
    if spec_type == "draft" and model is None:
        raise ValueError("--spec-type draft needs a smaller model: -md FILE")
    if spec_type not in (None, "draft") and model is not None:
        raise ValueError(f"-md is for --spec-type draft, not {spec_type}")
    n_most = min(arguments.draft_max, MOST_DRAFTS)
    return {"spec_type": spec_type, "draft_model": model, "draft_max": n_most}


def note_limit(last: Chunk, fields: Mapping[str, Any]) -> str | None:
    """What is to be said where a text ended at the limit that there is by default; `fields`: what
    `sampling_fields` gave."""
    at_limit = last.stats is not None and last.stats.n_generated == DEFAULTS.max_tokens
    is_ours = last.finish_reason == "length" and "max_tokens" not in fields
    return LIMIT if at_limit and is_ours else None


def drafted(stats: Stats) -> str:
    """What a line of figures says of drafts: nothing where there were none."""
    return f", {stats.n_accepted} of {stats.n_drafted} drafts right" if stats.n_drafted else ""


def open_model(
    arguments: argparse.Namespace, *, n_ctx: int | None = None,
    loading: AbstractContextManager[object] | None = None, **options: Any,
) -> LLM:  # fmt: skip
    """The model that `add_model` and `add_running` have flags for, of which `n_ctx` may stand in
    for -c; `loading`: within which the file is opened, once it is here; `options`: other arguments
    of LLM, whose errors are raised. Warns of more threads than there are cores."""
    if (arguments.threads or 0) > (n_cores := usable_threads()):
        warnings.warn(
            f"--threads is {arguments.threads}: slower than {n_cores}, the cores here", stacklevel=2
        )
    path = model_path(arguments)
    with loading or nullcontext():
        return LLM(
            path,
            n_threads=arguments.threads,
            n_ctx=arguments.ctx_size if n_ctx is None else n_ctx,
            n_batch=arguments.batch_size or PROMPT_TOKENS,
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
    group.add_argument(
        "-sysf", "--system-prompt-file", dest="system_file", metavar="FILE",
        help="a file with the system prompt, but for one last line feed",
    )  # fmt: skip
    add_template(group)


def add_template(parser: argparse._ActionsContainer) -> None:
    """The flags that `set_template`, `chat_variables` and `reasoning_budget` read."""
    add = parser.add_argument
    add(
        "-rea", "--reasoning", choices=("on", "off", "auto"),
        help="whether to think before the answer, for templates that ask (enable_thinking); "
        "default auto: as the template has it",
    )  # fmt: skip
    add(
        "--reasoning-effort", metavar="LEVEL",
        help="how much to think, for templates that ask: low, medium, high, or what it knows",
    )  # fmt: skip
    add(
        "--reasoning-budget", type=count(-1, MAX_INT), metavar="N",
        help="tokens to think, at most, before the answer; 0: none; default -1: no limit",
    )  # fmt: skip
    add(
        "--chat-template-kwargs", type=_variables, metavar="JSON",
        help="an object of what else the template takes",
    )  # fmt: skip
    add(
        "--chat-template", metavar="NAME",
        help=f"a template in place of the model's own: {', '.join(TEMPLATES)}; or one in Jinja",
    )  # fmt: skip
    add("--chat-template-file", metavar="FILE", help="the same from a file, in Jinja")


def is_chat(arguments: argparse.Namespace) -> bool:
    """Whether any flag of `add_chatting` is given."""
    return any(getattr(arguments, name) is not None for name in CHATTING)


def open_conversation(
    llm: LLM, params: SamplingParams, arguments: argparse.Namespace
) -> Conversation:
    """Raises TemplateError where there is no template, or it refuses what the flags give it;
    ValueError for two system prompts; OSError for a file."""
    set_template(llm, arguments)
    system: str | None = arguments.system
    if arguments.system_file is not None:
        if system is not None:
            raise ValueError("-sys and -sysf are given; one will do")
        system = read_prompt(arguments.system_file)
    return Conversation(
        llm, params, system=system, variables=chat_variables(arguments),
        reasoning_budget=reasoning_budget(arguments),
    )  # fmt: skip


def set_template(llm: LLM, arguments: argparse.Namespace) -> None:
    """Raises TemplateError for what is none, and ValueError for two."""
    name, file = arguments.chat_template, arguments.chat_template_file
    if name is not None and file is not None:
        raise ValueError("--chat-template and --chat-template-file are given; one will do")
    if file is not None:
        flag = "--chat-template-file"
        llm.chat_template = ChatTemplate(read_text(file), llm.tokenizer, name=flag)
    elif name is not None:
        llm.chat_template = ChatTemplate.given(name, llm.tokenizer, name="--chat-template")


def chat_variables(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the flags give templates."""
    variables = dict(arguments.chat_template_kwargs or {})
    if arguments.reasoning in ("on", "off"):
        variables["enable_thinking"] = arguments.reasoning == "on"
    if arguments.reasoning_effort is not None:
        variables["reasoning_effort"] = arguments.reasoning_effort
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

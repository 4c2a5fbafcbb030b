"""Measure what prompt lookup gives: tokens a second with drafts and without, in turns.

usage: python scripts/compare_drafts.py -m MODEL [--words MODEL] [--task NAME] [-n 160] [-r 3]

The texts are given: a file with names changed, records of JSON with a field more, a summary that
quotes its source, and free text, which the model of --words says at a temperature of 0.8. That
model's vocabulary cuts them into tokens, which are numbered anew, so that any model can be made to
say them: a logits processor has each of them drawn. So the share of drafts that are right is that
of the text, and the time that of the model. Each line has the medians, the ratio, and what was
drafted; a text that differs ends it.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path

from comparing import medians, take_turns

from linnet import LLM
from linnet.engine.running.drafts import Drafts
from linnet.engine.running.generation import Stats
from linnet.engine.running.prompt_lookup import PromptLookup
from linnet.engine.sampling.params import LogitsProcessor

ROOT = Path(__file__).parents[1]
FIRST_ID = 1000  # of tokens numbered anew: beyond those that control
ASIDES = (
    "On where the server listens, the text is plain:",
    "Keys are asked for if there are any, and it adds:",
    "What comes of slow readers is told, too:",
    "In short, the author wants nothing lost, and writes",
)


def edit() -> tuple[str, str]:
    """A file of this project, and the same with three names changed."""
    source = (ROOT / "engine/running/lead.py").read_text()
    edited = source.replace("callers", "waiting").replace("leader", "owner").replace("rest", "wait")
    return f"Rename callers, leader and rest in this file:\n\n{source}\nThe new file:\n\n", edited


def records() -> tuple[str, str]:
    """Records of JSON, and the same with a field more."""
    rng = random.Random(0)
    people = [
        {
            "id": rng.randrange(10**5),
            "name": rng.choice(["Ada King", "Grace Hopper", "Barbara Liskov", "Edsger Dijkstra"]),
            "email": f"user{rng.randrange(10**6)}@example.org",
            "score": rng.randrange(1000) / 10,
        }
        for _ in range(14)
    ]
    more = [person | {"active": True} for person in people]
    asked = f"Add active: true to each record:\n\n{json.dumps(people, indent=1)}\n\n"
    return asked, json.dumps(more, indent=1)


def summary() -> tuple[str, str]:
    """A chapter of a document, and sentences of it between words of our own."""
    chapter = (ROOT / "docs/serving.md").read_text().split("## Under load")[1][:3000]
    source = re.sub(r"(?<!\n)\n(?!\n)", " ", chapter)  # a paragraph a line
    sentences = [s for s in re.split(r"(?<=[.])\s+", source) if len(s) > 90]
    quoted = zip(ASIDES, sentences[1::2], strict=False)
    told = " ".join(f'{aside} "{sentence}"' for aside, sentence in quoted)
    return f"Summarise this, with quotes:\n\n{source}\n\nSummary:\n\n", told


def free(words: LLM, n: int) -> tuple[list[int], list[int]]:
    """What a model says."""
    prompt = words.prompt_ids("The keeper of the lighthouse had a cat, who")
    said = words.generate(prompt, temperature=0.8, seed=1, max_tokens=n, ignore_eos=True)
    return prompt, said.token_ids


TEXTS: dict[str, Callable[[], tuple[str, str]]] = {
    "edit": edit, "json": records, "summary": summary,
}  # fmt: skip


def forcing(ids: list[int], answer: list[int]) -> LogitsProcessor:
    """Has the answer drawn, after a prompt of these ids."""

    def force(so_far: list[int], logits: object) -> object:
        logits[answer[len(so_far) - len(ids)]] = 1e4  # type: ignore[index]
        return logits

    return force  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--words", metavar="MODEL", help="the vocabulary; default the model's")
    parser.add_argument("--task", choices=[*TEXTS, "free"], help="one of them alone")
    parser.add_argument("-n", type=int, default=160, help="tokens of an answer")
    parser.add_argument("-r", "--rounds", type=int, default=3)
    parser.add_argument("-t", "--threads", type=int)
    arguments = parser.parse_args()
    texts: dict[str, tuple[list[int], list[int]]] = {}
    with LLM(arguments.words or arguments.model, n_threads=arguments.threads) as words:
        for name in [arguments.task] if arguments.task else [*TEXTS, "free"]:
            if name == "free":
                texts[name] = free(words, arguments.n)
            else:
                prompt, answer = TEXTS[name]()
                texts[name] = words.prompt_ids(prompt), words.tokenizer.encode(answer)
    with LLM(arguments.model, n_threads=arguments.threads, n_ctx=4096) as llm:
        for name, (prompt, answer) in texts.items():
            measure(llm, name, prompt, answer[: arguments.n], arguments.rounds)


def measure(llm: LLM, name: str, prompt: list[int], answer: list[int], rounds: int) -> None:
    numbers = {each: FIRST_ID + i for i, each in enumerate(dict.fromkeys([*prompt, *answer]))}
    ids, expected = [numbers[each] for each in prompt], [numbers[each] for each in answer]
    force, last = forcing(ids, expected), list[Stats]()

    def said(drafts: Drafts | None) -> float:
        llm.scheduler.drafts = drafts
        output = llm.generate(
            ids,
            temperature=0,
            max_tokens=len(expected),
            ignore_eos=True,
            logits_processors=(force,),
        )
        if output.token_ids != expected:
            sys.exit(f"{name}: another text")
        last[:] = [output.stats]
        return output.stats.generate_rate

    drafts = Drafts([PromptLookup()])  # one for all rounds: it learns what passes take
    rates = medians(
        take_turns({"without": lambda: said(None), "with": lambda: said(drafts)}, rounds)
    )
    stats = last[0]
    print(
        f"{name}: prompt {len(ids)}, answer {len(expected)} tokens; {rates['without']:.1f} tok/s, "
        f"with drafts {rates['with']:.1f}: {rates['with'] / rates['without']:.2f}x; "
        f"{stats.n_accepted} of {stats.n_drafted} drafts right, in {stats.n_drafts} passes",
        flush=True,
    )


if __name__ == "__main__":
    main()

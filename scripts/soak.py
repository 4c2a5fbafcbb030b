"""Run mixed generations for a while, and see that nothing grows and nothing changes.

usage: python scripts/soak.py [--seconds 300] [-m FILE ...]

Prompts and samplers of all kinds, lists of prompts, prefixes that come again; streams that are
closed, stopped or interrupted midway; sessions and models opened and closed. Private memory, file
descriptors and threads are looked at between requests, once everything has been tried a few times.
Exits with 1 where the median of the last quarter is above that of the first, by more than 2% and
4 MiB of memory or by anything else at all, or where a request gives another answer than at first.
"""

from __future__ import annotations

import _thread
import argparse
import gc
import os
import random
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from linnet import LLM, Interrupted, SamplingParams

SAMPLERS = (
    SamplingParams(temperature=0),
    SamplingParams(temperature=0, repeat_penalty=1.2, repeat_last_n=-1),
    SamplingParams(seed=1),
    SamplingParams(seed=2, temperature=1.5, top_k=0, top_p=1, min_p=0),
    SamplingParams(seed=3, top_k=5, presence_penalty=0.5, frequency_penalty=0.5),
    SamplingParams(seed=4, min_p=0.2, logit_bias={5: -1.0}),
)
SLACK_BYTES, SLACK = 4 << 20, 1.02
Figures = dict[str, int]


class Model:
    """A model, the requests that come again and again, and what they gave at first."""

    def __init__(self, path: Path | None, n_ctx: int) -> None:
        self.path, self.n_ctx = path, n_ctx
        self.answers: dict[str, object] = {}
        self.llm = self.open()
        self.n_vocab = self.llm.config.n_vocab

    def open(self) -> LLM:
        return LLM(self.path, n_ctx=self.n_ctx, n_batch=64)

    def prompt(self, number: int) -> list[int]:
        """One of eight; every other one begins as the one before."""
        rng = random.Random(number // 2)
        return rng.choices(range(3, self.n_vocab), k=self.n_ctx // 2)[: 5 + 37 * number]

    def check(self, request: str, answer: object) -> None:
        if self.answers.setdefault(request, answer) != answer:
            raise SystemExit(f"{self.path or 'demo'}: {request} gave another answer than at first")


def params(rng: random.Random) -> tuple[int, SamplingParams]:
    number = rng.randrange(len(SAMPLERS))
    fields = {name: getattr(SAMPLERS[number], name) for name in SamplingParams.__slots__}
    return number, SamplingParams(**fields | {"max_tokens": 24, "ignore_eos": True})


# ---- what is done --------------------------------------------------------------------------------


def generate(model: Model, rng: random.Random) -> None:
    prompt, (sampler, how) = rng.randrange(8), params(rng)
    output = model.llm.generate(model.prompt(prompt), how)
    model.check(f"prompt {prompt}, sampler {sampler}", output.token_ids)


def generate_list(model: Model, rng: random.Random) -> None:
    """Each answer is what its prompt gives alone."""
    requests = [(rng.randrange(8), *params(rng)) for _ in range(rng.randrange(1, 11))]
    prompts = [model.prompt(prompt) for prompt, _, _ in requests]
    outputs = model.llm.generate(prompts, [how for _, _, how in requests])
    for (prompt, sampler, _), output in zip(requests, outputs, strict=True):
        model.check(f"prompt {prompt}, sampler {sampler}", output.token_ids)


def share(model: Model, rng: random.Random) -> None:
    """Threads that ask at once, each of which gets what it gets alone."""
    seeds = [rng.randrange(1000) for _ in range(3)]
    with ThreadPoolExecutor(len(seeds)) as threads:
        for done in [threads.submit(generate, model, random.Random(seed)) for seed in seeds]:
            done.result()


def leave(model: Model, rng: random.Random) -> None:
    """Close a stream midway, or forget it."""
    stream = model.llm.stream(model.prompt(rng.randrange(8)), params(rng)[1])
    for _ in range(rng.randrange(12)):
        next(stream)
    if rng.random() < 0.5:
        stream.close()  # type: ignore[attr-defined]


def stop(model: Model, rng: random.Random) -> None:
    end_early(model, rng, model.llm.stop)


def interrupt(model: Model, rng: random.Random) -> None:
    end_early(model, rng, _thread.interrupt_main)


def end_early(model: Model, rng: random.Random, ask: Callable[[], object]) -> None:
    """Ask for an end, from another thread and at any moment."""
    model.llm._session.reset()
    timer = threading.Timer(rng.uniform(0, 0.03), ask)
    try:
        timer.start()
        for _ in model.llm.stream(model.prompt(7), params(rng)[1]):
            pass
        timer.join()
        time.sleep(0.001)  # where it comes only now, it is heard here
    except (KeyboardInterrupt, Interrupted):
        timer.join()


def session(model: Model, rng: random.Random) -> None:
    n_slots, prompt = rng.randrange(1, 4), rng.randrange(8)
    session = model.llm.session(n_slots)
    rows = [session.prompt(model.prompt(prompt), slot=n_slots - 1).tobytes()]
    rows += [session.extend(5 + i, slot=n_slots - 1).tobytes() for i in range(3)]
    session.close()
    model.check(f"logits of prompt {prompt}", [hash(row) for row in rows])


def reopen(model: Model, rng: random.Random) -> None:
    model.llm.close()
    model.llm = model.open()


def refuse(model: Model, rng: random.Random) -> None:
    """Requests that are errors."""
    for prompt in ([[]], [model.n_vocab], [5] * (model.n_ctx + 1)):
        try:
            model.llm.generate(prompt)
        except ValueError:
            continue
        raise SystemExit(f"{str(prompt)[:80]} was not refused")


def vectors(model: Model, rng: random.Random) -> None:
    prompt = rng.randrange(8)
    vector = model.llm.embed([model.prompt(prompt)])
    model.check(f"vector of prompt {prompt}", hash(vector.tobytes()))


ACTIONS = {
    generate: 10, generate_list: 4, share: 2, leave: 4, stop: 2, interrupt: 2, session: 2,
    reopen: 1, refuse: 1, vectors: 1,
}  # fmt: skip


# ---- what is looked at ---------------------------------------------------------------------------


def figures() -> Figures:
    gc.collect()
    rollup = Path("/proc/self/smaps_rollup").read_text().splitlines()
    (anonymous,) = (line for line in rollup if line.startswith("Anonymous:"))  # no mapped files
    private = int(anonymous.split()[1]) << 10
    folders = {"descriptors": "/proc/self/fd", "threads": "/proc/self/task"}
    return {"private": private, **{n: len(os.listdir(folder)) for n, folder in folders.items()}}


def run(
    models: list[Model], seconds: float, rng: random.Random
) -> tuple[list[Figures], Counter[str]]:
    samples: list[Figures] = []
    counts: Counter[str] = Counter()
    started = time.monotonic()
    while (elapsed := time.monotonic() - started) < seconds:
        action = rng.choices(list(ACTIONS), list(ACTIONS.values()))[0]
        action(rng.choice(models), rng)
        counts[action.__name__] += 1
        if elapsed > seconds * len(samples) / 400:
            samples.append(figures())
    return samples[len(samples) // 10 :], counts  # without the first: caches have to fill


def grown(samples: list[Figures]) -> Iterator[str]:
    """What has grown, of each figure; prints the medians."""
    quarter = max(1, len(samples) // 4)
    for name in samples[0]:
        parts = samples[:quarter], samples[-quarter:]
        first, last = (statistics.median(sample[name] for sample in part) for part in parts)
        unit, scale = ("MB", 1e6) if name == "private" else ("", 1)
        print(
            f"{name:12} first quarter {first / scale:9.2f} {unit}, last {last / scale:9.2f} {unit}"
        )
        limit = max(first * SLACK, first + SLACK_BYTES) if name == "private" else first
        if last > limit:
            yield name


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("-m", "--model", type=Path, action="append", help="may be repeated")
    parser.add_argument("-c", "--ctx-size", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    models = [Model(path, arguments.ctx_size) for path in arguments.model or [None]]
    samples, counts = run(models, arguments.seconds, rng)
    print(f"{counts.total()} requests: {', '.join(f'{n} {name}' for name, n in counts.items())}")
    print(f"{sum(len(model.answers) for model in models)} answers, always the same")
    tenths = [samples[i * len(samples) // 10] for i in range(10)]
    print("private, in MB:", *(f"{sample['private'] / 1e6:.2f}" for sample in tenths))
    leaks = list(grown(samples))
    for model in models:
        model.llm.close()
    sys.exit(f"grown: {', '.join(leaks)}" if leaks else 0)


if __name__ == "__main__":
    main()

"""Servers that have `/completion`, as llama-server has, over one file, in turns.

usage: python scripts/compare_servers.py NAME=URL NAME=URL ... [--tests TEST,...] [-r ROUNDS] ...

    load     --clients at once, each with prompts of -p tokens and answers of -n: tokens a second of
             all answers, seconds to the first token (median, 99th percentile)
    gap      the longest that a stream waits for its next token while a prompt of --long arrives
    turns    a conversation of --long tokens and ten turns of 200: seconds to the first token from
             the second turn on, and of the 200 tokens alone behind the same tokens
    cancel   seconds until another request is served after one has gone, of a server that has one
             slot: start it so (-np 1)

The first server is held against the best of the others. For llama-server: -np as many as clients,
-c as many times the context, --no-webui.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain, count, pairwise

from comparing import Comparison, Figures, table, take_turns
from load_client import Stream, complete, tokens

TURN = 200  # tokens of a message
TURNS = 10
ANSWER = 32  # tokens of an answer between turns
PAUSE = 1.0  # seconds between turns
_seeds = count(int(time.time()))


def main() -> int:
    arguments = parsed()
    servers = dict(named.split("=", 1) for named in arguments.servers)
    for test in arguments.tests.split(","):
        for comparison in TESTS[test](servers, arguments):
            print(table(["", *servers, "ratio"], [comparison.row()]), flush=True)
    return 0


def load(servers: Mapping[str, str], arguments: argparse.Namespace) -> list[Comparison]:
    """Throughput and waiting, by the number of clients."""
    found = []
    for n in arguments.clients:
        rates: Figures = {name: [] for name in servers}
        firsts: Figures = {name: [] for name in servers}
        for i in range(arguments.rounds + 1):
            for name, url in servers.items():
                began = time.perf_counter()
                streams = asyncio.run(_clients(url, n, arguments))
                seconds = time.perf_counter() - began
                if i:
                    rates[name].append(sum(len(stream.ids) for stream in streams) / seconds)
                    firsts[name] += [stream.first for stream in streams]
        found += [
            Comparison(f"{n} clients", "tok/s", rates),
            Comparison(f"{n} clients, first token", "s", firsts, less_is_better=True),
            Comparison(
                f"{n} clients, first token, p99", "s",
                {name: [_percentile(values, 99)] for name, values in firsts.items()},
                less_is_better=True,
            ),
        ]  # fmt: skip
    return found


async def _clients(url: str, n: int, arguments: argparse.Namespace) -> list[Stream]:
    async def client() -> list[Stream]:
        return [
            await complete(url, tokens(arguments.prompt, next(_seeds)), arguments.answer)
            for _ in range(arguments.requests)
        ]

    return [*chain.from_iterable(await asyncio.gather(*(client() for _ in range(n))))]


def gap(servers: Mapping[str, str], arguments: argparse.Namespace) -> list[Comparison]:
    """The longest wait of a stream that a long prompt disturbs."""

    async def worst(url: str) -> float:
        running = asyncio.create_task(complete(url, tokens(32, next(_seeds)), 8 * arguments.answer))
        await asyncio.sleep(0.5)
        arrived = time.perf_counter()
        await complete(url, tokens(arguments.long, next(_seeds)), 4)
        stream = await running
        times = [t for t in stream.times if t >= arrived - 0.2]
        return max(b - a for a, b in pairwise(times))

    figures = _in_turns(servers, arguments.rounds, lambda url: asyncio.run(worst(url)))
    return [Comparison(f"gap, prompt of {arguments.long}", "s", figures, less_is_better=True)]


def turns(servers: Mapping[str, str], arguments: argparse.Namespace) -> list[Comparison]:
    """What a turn's first token costs beside what has to be computed for it."""

    async def conversation(url: str) -> tuple[float, float]:
        history = tokens(arguments.long, next(_seeds))
        firsts = []
        for _ in range(TURNS):
            history += tokens(TURN, next(_seeds))
            stream = await complete(url, history, ANSWER, cache=True)
            firsts.append(stream.first)
            history += stream.ids
            await asyncio.sleep(PAUSE)  # as somebody reads
        other = tokens(len(history), next(_seeds))
        await complete(url, other, 1, cache=True)
        alone = await complete(url, other + tokens(TURN, next(_seeds)), 1, cache=True)
        return statistics.median(firsts[1:]), alone.first

    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
    for _ in range(arguments.rounds):
        for name, url in servers.items():
            pairs[name].append(asyncio.run(conversation(url)))
    turn = {name: [a for a, _ in each] for name, each in pairs.items()}
    share = {name: [a / b for a, b in each] for name, each in pairs.items()}
    return [
        Comparison("a turn's first token", "s", turn, less_is_better=True),
        Comparison("of its new tokens alone", "", share, less_is_better=True),
    ]


def cancel(servers: Mapping[str, str], arguments: argparse.Namespace) -> list[Comparison]:
    """How long who comes next waits for the slot of one who has gone."""

    async def freed(url: str, n_prompt: int, pieces: int) -> float:
        went = asyncio.create_task(
            complete(url, tokens(n_prompt, next(_seeds)), 4096, stop_after=pieces)
        )
        if pieces:
            await went
        else:
            await asyncio.sleep(0.3)
            went.cancel()
        return (await complete(url, tokens(1, next(_seeds)), 1)).first

    n = arguments.long
    decode = _in_turns(servers, arguments.rounds, lambda url: asyncio.run(freed(url, 32, 8)))
    prompt = _in_turns(servers, arguments.rounds, lambda url: asyncio.run(freed(url, n, 0)))
    return [
        Comparison("after one that decoded", "s", decode, less_is_better=True),
        Comparison(f"after one amid {n} tokens", "s", prompt, less_is_better=True),
    ]


TESTS = {"load": load, "gap": gap, "turns": turns, "cancel": cancel}


def _in_turns(servers: Mapping[str, str], rounds: int, measure: Callable[[str], float]) -> Figures:
    return take_turns({name: partial(measure, url) for name, url in servers.items()}, rounds)


def _percentile(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("servers", nargs="+", metavar="NAME=URL")
    add("--tests", default="load,gap,turns", help="of load, gap, turns, cancel")
    add("--clients", type=int, nargs="+", default=[1, 4, 8, 16], metavar="N")
    add("--requests", type=int, default=1, metavar="N", help="of each client, one after another")
    add("-p", "--prompt", type=int, default=512, metavar="N", help="tokens of a prompt")
    add("-n", "--answer", type=int, default=128, metavar="N", help="tokens of an answer")
    add("--long", type=int, default=4096, metavar="N", help="tokens of a long prompt")
    add("-r", "--rounds", type=int, default=3, metavar="N")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

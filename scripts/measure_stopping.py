"""Measure how soon a generation ends that is told to: in decoding and amid a long prompt.

usage: python scripts/measure_stopping.py [-m FILE] [-n 200] [--prompt 4096] [--seconds 60]

By signal: from Ctrl-C until KeyboardInterrupt is caught; by flag: from `LLM.stop()` in another
thread until Interrupted is; by close: from the reader's wish until its `close()` of the stream has
returned or, amid a prompt, until the error is caught that its `progress` raised. Each begins at a
random moment. What was stopped is then begun again, and goes on where the last pass ended; at the
end the same request must give the same tokens as before.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import threading
import time
from collections.abc import Callable, Sequence

from linnet import LLM, Interrupted, SamplingParams

GREEDY = SamplingParams(temperature=0, ignore_eos=True, max_tokens=-1)


class Wish(Exception):
    """The reader has had enough."""


class Request:
    """Asks for an end, at a random moment within so many seconds from now."""

    def __init__(self, ask: Callable[[], object], seconds: float) -> None:
        self.at = float("inf")
        self._ask = ask
        self._timer = threading.Timer(random.uniform(0, seconds), self._send)
        self._timer.start()

    def _send(self) -> None:
        self.at = time.perf_counter()
        self._ask()

    def cancel(self) -> bool:
        """Whether it had not been sent, and will not be."""
        self._timer.cancel()
        self._timer.join()
        return self.at == float("inf")


def decoding(llm: LLM, how: str, asks: dict[str, Callable[[], object]]) -> float | None:
    """Seconds from a request amid a generation to its end; None where that ended by itself."""
    stream = llm.stream([1, 2, 3], GREEDY)
    next(stream)
    request = Request(asks[how], 0.1)
    try:
        for _ in stream:
            if how == "close" and request.at < float("inf"):
                stream.close()  # type: ignore[attr-defined]
                return time.perf_counter() - request.at
        request.cancel()
    except (KeyboardInterrupt, Interrupted):
        return time.perf_counter() - request.at
    return None


def prompt(
    llm: LLM, how: str, asks: dict[str, Callable[[], object]], ids: Sequence[int]
) -> float | None:
    """Seconds from a request amid a prompt to its end; None, and forgotten, where it was done."""
    request = Request(asks[how], 1.0)

    def progress(n_done: int, n_tokens: int) -> None:
        if how == "close" and request.at < float("inf"):
            raise Wish

    try:
        next(iter(llm.stream(ids, GREEDY, progress=progress)))
        if not request.cancel():  # it came between the prompt and here
            time.sleep(0.01)
    except (KeyboardInterrupt, Interrupted, Wish):
        return time.perf_counter() - request.at
    llm._session.reset()
    return None


def sample(once: Callable[[], float | None], n: int, seconds: float) -> list[float]:
    """Up to `n` of them, in about so many seconds."""
    found: list[float] = []
    started = time.perf_counter()
    while len(found) < n and time.perf_counter() - started < seconds:
        try:
            latency = once()
        except KeyboardInterrupt:  # which came too late for what it was meant for
            continue
        if latency is not None:
            found.append(latency)
    return found


def show(what: str, how: str, seconds: list[float]) -> None:
    ms = sorted(1e3 * s for s in seconds)
    p99 = ms[min(len(ms) - 1, int(0.99 * len(ms)))]
    print(
        f"{what:8} by {how:6}  n {len(ms):4}  p50 {statistics.median(ms):7.2f} ms"
        f"  p99 {p99:7.2f} ms  most {ms[-1]:7.2f} ms",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-m", "--model", help="a GGUF file; by default the model linnet ships")
    parser.add_argument("-n", type=int, default=200, help="samples of each, at most")
    parser.add_argument("--prompt", type=int, default=4096, metavar="N", help="tokens of a prompt")
    parser.add_argument("--seconds", type=float, default=60, help="for each, at most")
    parser.add_argument("--how", default="signal,flag,close", help="which; default all")
    parser.add_argument("--what", default="decode,prompt", help="which; default both")
    arguments = parser.parse_args()
    random.seed(0)
    with LLM(arguments.model, n_ctx=arguments.prompt + 1024) as llm:
        ids = random.choices(range(3, llm.config.n_vocab), k=arguments.prompt)
        limited = SamplingParams(temperature=0, ignore_eos=True, max_tokens=16)
        expected = llm.generate([1, 2, 3], limited).token_ids
        asks: dict[str, Callable[[], object]] = {
            "signal": lambda: os.kill(os.getpid(), signal.SIGINT),
            "flag": llm.stop,
            "close": lambda: None,
        }
        whats: dict[str, Callable[[str], float | None]] = {
            "decode": lambda how: decoding(llm, how, asks),
            "prompt": lambda how: prompt(llm, how, asks, ids),
        }
        for what in arguments.what.split(","):
            for how in arguments.how.split(","):
                llm._session.reset()
                once = whats[what]
                show(what, how, sample(lambda h=how, f=once: f(h), arguments.n, arguments.seconds))  # type: ignore[misc]
        if llm.generate([1, 2, 3], limited).token_ids != expected:
            raise SystemExit("the same request gave other tokens afterwards")


if __name__ == "__main__":
    main()

"""Decode and prefill speed of linnet and of llama.cpp (llama-cpp-python) on one file, alternated.

usage: python scripts/compare_llamacpp.py FILE [-t THREADS] [-n TOKENS] [-p PROMPT] [-r ROUNDS]

llama.cpp runs with its repacking of weights (use_extra_bufts) on and off; the better counts. Every
round measures each engine once, so that a change in the machine's speed meets all of them; the
medians and their ratios are printed. Needs `pip install llama-cpp-python`, which compiles.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import llama_cpp

from linnet import LLM

PROMPT_ID = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-n", "--n-gen", type=int, default=32)
    parser.add_argument("-p", "--n-prompt", type=int, default=512)
    parser.add_argument("-r", "--rounds", type=int, default=5)
    a = parser.parse_args()
    print(llama_cpp.llama_print_system_info().decode().strip())
    engines = {
        "linnet": linnet_engine(a.file, a.threads),
        "llama.cpp": llama_cpp_engine(a.file, a.threads, repack=False),
        "llama.cpp, repacked": llama_cpp_engine(a.file, a.threads, repack=True),
    }
    for test, n_tokens in (("decode", a.n_gen), ("prefill", a.n_prompt)):
        rates: dict[str, list[float]] = {name: [] for name in engines}
        for i in range(a.rounds + 1):
            for name, measure in engines.items():
                rate = measure(test, n_tokens)
                if i:  # the first round warms up
                    rates[name].append(rate)
        medians = {name: statistics.median(values) for name, values in rates.items()}
        for name, median in medians.items():
            low, high = min(rates[name]), max(rates[name])
            print(f"{test:8} {name:20} {median:9.2f} tok/s  ({low:.2f} to {high:.2f})")
        peer = max(median for name, median in medians.items() if name != "linnet")
        print(f"{test:8} linnet is {medians['linnet'] / peer:.2f} times llama.cpp at its better\n")


def linnet_engine(file: str, n_threads: int) -> Callable[[str, int], float]:
    """A function that measures tokens a second."""
    llm = LLM(file, n_threads=n_threads, n_ctx=2048)
    session = llm.session()

    def measure(test: str, n_tokens: int) -> float:
        session.reset()
        if test == "prefill":
            started = time.perf_counter()
            session.prompt([PROMPT_ID] * n_tokens)
        else:
            session.prompt([PROMPT_ID])
            started = time.perf_counter()
            for _ in range(n_tokens):
                session.extend(PROMPT_ID)
        return n_tokens / (time.perf_counter() - started)

    return measure


def llama_cpp_engine(file: str, n_threads: int, *, repack: bool) -> Callable[[str, int], float]:
    """A function that measures tokens a second."""
    defaults = llama_cpp.llama_model_default_params

    def with_repack() -> llama_cpp.llama_model_params:
        params = defaults()
        params.use_extra_bufts = repack
        return params

    llama_cpp.llama_cpp.llama_model_default_params = with_repack
    llama_cpp.llama_model_default_params = with_repack
    llm = llama_cpp.Llama(
        file, n_ctx=2048, n_threads=n_threads, n_threads_batch=n_threads, n_batch=512, verbose=False
    )
    llama_cpp.llama_cpp.llama_model_default_params = defaults
    llama_cpp.llama_model_default_params = defaults

    def measure(test: str, n_tokens: int) -> float:
        llm.reset()
        if test == "prefill":
            started = time.perf_counter()
            llm.eval([PROMPT_ID] * n_tokens)
        else:
            llm.eval([PROMPT_ID])
            started = time.perf_counter()
            for _ in range(n_tokens):
                llm.eval([PROMPT_ID])
        return n_tokens / (time.perf_counter() - started)

    return measure


if __name__ == "__main__":
    main()

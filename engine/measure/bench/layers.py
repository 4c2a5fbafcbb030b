"""Where a pass's time goes, step by step, with what threads wait for each other."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linnet.engine.machine import cpu_name
from linnet.engine.measure.bench.measure import BenchModel, BenchTest, fill, load
from linnet.engine.running.runner import Runner
from linnet.kernels.ops.work import Work
from linnet.kernels.runtime.probe import Entries, Probed
from linnet.kernels.runtime.program import Lowered
from linnet.models.parts.numerics import INT8, Numerics

Row = dict[str, Any]
Ticks = npt.NDArray[np.float64]

LEAST_SECONDS = 0.2  # of passes watched: clocks are compared over that time
OUTSIDE = "(outside)"  # what a pass takes before its first step and after its last


@dataclass(frozen=True, slots=True)
class Timeline:
    """For each step (n_steps,), in ticks: how long threads worked on it and waited for it, on
    average. Worked and waited, of all steps together, are `total`: a pass from first to last chunk.
    """

    worked: Ticks
    waited: Ticks
    total: float


def layers(
    model: BenchModel, test: BenchTest, *, repetitions: int = 5, isa: str | None = None,
    numerics: Numerics = INT8,
) -> list[Row]:  # fmt: skip
    """A row for every kind of step, of a pass as the test makes it; what takes most time first.

    That is one pass of its prompt, of `n_batch` tokens at most, or of one token for each sequence.
    Raises what `load` raises, and ValueError for a test of both.
    """
    if test.n_prompt and test.n_gen:
        raise ValueError(f"{test.name}: --layers takes prompts (-p) and generation (-n) one by one")
    with load(model, test, isa=isa, numerics=numerics) as loaded:
        workload, runner = loaded.workload, loaded.workload.runner
        fill(workload, test.n_depth)
        if test.n_prompt:
            n_tokens = min(test.n_prompt, workload.n_batch)
            batch = workload.prompt_batch(test.n_depth, n_tokens, n_outputs=1)
        else:
            n_tokens = test.n_parallel
            batch = workload.token_batch()
        runner.fill(batch)
        lowered = runner.lowered(batch)
        plain = _seconds(lambda: runner.team.run(lowered), repetitions)
        rows = _watched(runner, lowered, repetitions)
        known = {"isa": runner.library.isa.name, "cpu_info": cpu_name(), **loaded.facts}
        for row in rows:
            row |= {
                "test": _name(test, n_tokens), "n_threads": test.n_threads,
                "n_depth": test.n_depth, "n_tokens": n_tokens, "pass_us": plain * 1e6, **known,
            }  # fmt: skip
        return rows


def timeline(entries: Entries, n_steps: int) -> Timeline:
    """What one pass's entries say.

    While a thread has no work, it waits for the earliest step that another is working on; or else,
    if nobody works, for the next step to begin.
    """
    threads = np.unique(entries.thread)
    times = np.concatenate([entries.begin, entries.end])
    order = np.argsort(times, kind="stable")
    times, lengths = times[order], np.diff(times[order])
    nobody = n_steps  # is later than any step
    now = np.full((len(threads), len(lengths)), nobody)  # the step each thread is working on
    for row, thread in zip(now, threads, strict=True):
        own = entries.thread == thread
        begin, end, step = entries.begin[own], entries.end[own], entries.step[own]
        latest = np.searchsorted(begin, times[:-1], side="right") - 1
        busy = (latest >= 0) & (times[:-1] < end[latest])
        row[busy] = step[latest[busy]]
    # Where nobody works, the event that ends the interval is the beginning of a chunk.
    following = np.concatenate([entries.step, entries.step])[order][1:]
    awaited = np.where(now.min(axis=0) == nobody, following, now.min(axis=0))
    waited = np.zeros(n_steps)
    np.add.at(waited, awaited, (now == nobody).sum(axis=0) * lengths)
    worked = np.zeros(n_steps)
    np.add.at(worked, entries.step, entries.end - entries.begin)
    n = len(threads)
    return Timeline(worked / n, waited / n, float(times[-1] - times[0]))


def group_of(step_name: str) -> str:
    """What steps of all layers have in common: blk.3.attn_q.weight is attn_q."""
    return re.sub(r"^blk\.\d+\.|\.weight$", "", step_name)


def _watched(runner: Runner, lowered: Lowered, repetitions: int) -> list[Row]:
    steps = runner.program.steps
    probed = Probed(lowered, runner.library)
    runner.team.run(probed.lowered)  # once to warm up
    probed.take()
    passes: list[tuple[int, Timeline]] = []
    clocks: list[tuple[int, int]] = []  # nanoseconds and ticks as a pass ends
    begun = time.perf_counter()
    while len(passes) < max(repetitions, 2) or time.perf_counter() - begun < LEAST_SECONDS:
        started = time.perf_counter_ns()
        runner.team.run(probed.lowered)
        ended = time.perf_counter_ns()
        entries = probed.take()
        clocks.append((ended, int(entries.end.max())))
        passes.append((ended - started, timeline(entries, len(steps))))
    (first_ns, first_tick), (last_ns, last_tick) = clocks[0], clocks[-1]
    us_a_tick = (last_ns - first_ns) / (last_tick - first_tick) / 1e3
    # The faster half of the passes, so that other processes count less.
    passes = sorted(passes, key=lambda timed: timed[0])[: -(-len(passes) // 2)]
    worked, waited, inside = (
        sum(getattr(timed, name) for _, timed in passes) * (us_a_tick / len(passes))
        for name in ("worked", "waited", "total")
    )
    left = max(statistics.fmean(ns for ns, _ in passes) / 1e3 - inside, 0.0)
    rows: dict[str, Row] = {}
    works: dict[str, Work] = {}
    for step, us, wait_us in zip(steps, worked, waited, strict=True):
        name = group_of(step.name)
        row = rows.setdefault(name, {"step": name, "calls": 0, "us": 0.0, "wait_us": 0.0})
        row["calls"] += 1
        row["us"] += float(us + wait_us)
        row["wait_us"] += float(wait_us)
        works[name] = works.get(name, Work(0, 0)) + runner.program.work(step)
    rows[OUTSIDE] = {"step": OUTSIDE, "calls": 1, "us": left, "wait_us": left}
    total = sum(row["us"] for row in rows.values())
    for name, row in rows.items():
        done = works.get(name, Work(0, 0))
        row["share"] = row["us"] / total
        row["n_bytes"], row["n_operations"] = done.n_bytes, done.n_operations
        row["gb_s"], row["gflop_s"] = (
            n / row["us"] / 1e3 if row["us"] and n else None
            for n in (done.n_bytes, done.n_operations)
        )
    return sorted(rows.values(), key=lambda row: row["us"], reverse=True)


def _seconds(run: Callable[[], None], repetitions: int) -> float:
    """The median, after one run to warm up."""
    run()
    samples = []
    for _ in range(repetitions):
        started = time.perf_counter()
        run()
        samples.append(time.perf_counter() - started)
    return statistics.median(samples)


def _name(test: BenchTest, n_tokens: int) -> str:
    kind = f"pp{n_tokens}" if test.n_prompt else "tg1"
    times = f" x{test.n_parallel}" if test.n_gen and test.n_parallel > 1 else ""
    return kind + times + (f" @ d{test.n_depth}" if test.n_depth else "")

"""Work that Ctrl-C ends: it ends before anything else begins, however often Ctrl-C comes."""

from __future__ import annotations

import _thread
import random
import signal
import threading
from collections.abc import Callable
from types import FrameType

import pytest
from support.systems import needs_timers

from linnet.engine.running import interruptible
from linnet.engine.running.interruptible import Interruptible


class Work:
    """A function that goes on until it is told to stop."""

    def __init__(self) -> None:
        self.begun, self.told = threading.Event(), threading.Event()
        self.n_running = self.most_running = self.n_ended = 0

    def __call__(self) -> None:
        self.n_running += 1
        self.most_running = max(self.most_running, self.n_running)
        self.begun.set()
        in_time = self.told.wait(60)
        self.n_running -= 1
        self.n_ended += in_time

    def interrupt_once_begun(self) -> threading.Thread:
        """Send Ctrl-C when it has begun."""

        def send() -> None:
            self.begun.wait(60)
            _thread.interrupt_main()

        thread = threading.Thread(target=send)
        thread.start()
        return thread


def never() -> bool:
    return False


def test_it_ends_by_itself_and_what_it_raises_is_raised() -> None:
    done: list[int] = []
    runner = Interruptible(lambda: done.append(-1))
    runner.run(lambda: done.append(1), never)
    for error in (ZeroDivisionError, KeyboardInterrupt):

        def fail(error: type[BaseException] = error) -> None:
            raise error

        with pytest.raises(error):
            runner.run(fail, never)
    runner.settle()
    assert done == [1]


def test_ctrl_c_ends_it() -> None:
    work = Work()
    runner = Interruptible(work.told.set)
    sender = work.interrupt_once_begun()
    with pytest.raises(KeyboardInterrupt):
        runner.run(work, never)
    assert (work.n_running, work.n_ended) == (0, 1)
    sender.join()


def test_a_flag_ends_it_whenever_it_is_set() -> None:
    work = Work()
    Interruptible(work.told.set).run(work, work.begun.is_set)
    assert (work.n_running, work.n_ended) == (0, 1)


def test_what_a_second_ctrl_c_leaves_is_ended_before_the_next() -> None:
    """The second comes while the first is being acted on."""
    work = Work()

    def stop_when_asked_twice() -> None:
        stops.append(1)
        if len(stops) == 1:
            raise KeyboardInterrupt
        work.told.set()

    stops: list[int] = []
    runner = Interruptible(stop_when_asked_twice)
    sender = work.interrupt_once_begun()
    with pytest.raises(KeyboardInterrupt):
        runner.run(work, never)
    sender.join()
    assert work.n_running == 1
    runner.run(lambda: stops.append(work.n_running), never)
    assert stops == [1, 1, 0]


def test_nothing_runs_that_ctrl_c_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it comes before the thread has begun: that thread, come late, does nothing."""
    late: list[Callable[[], None]] = []

    def start(function: Callable[[], None], _: tuple[()]) -> None:
        late.append(function)
        raise KeyboardInterrupt

    done: list[int] = []
    runner = Interruptible(lambda: done.append(-1))
    monkeypatch.setattr(_thread, "start_new_thread", start)
    with pytest.raises(KeyboardInterrupt):
        runner.run(lambda: done.append(1), never)
    monkeypatch.undo()
    late[0]()
    assert done == []
    runner.run(lambda: done.append(2), never)
    assert done == [2]


@pytest.mark.usefixtures("signals_anywhere")
@needs_timers
def test_storms_of_ctrl_c_never_have_two_run_at_once() -> None:
    work, rng, n_interrupted = Work(), random.Random(0), 0
    runner = Interruptible(work.told.set)

    def interrupt(_: int, frame: FrameType | None) -> None:
        if frame and frame.f_code.co_filename == interruptible.__file__:  # not our own lines here
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(300):
            work.told.clear()
            interval = rng.uniform(1e-4, 1e-3)
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 3e-4), interval)
            try:
                runner.run(work, never)
            except KeyboardInterrupt:
                n_interrupted += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            runner.settle()
            assert work.n_running == 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert n_interrupted == 300
    assert work.most_running == 1

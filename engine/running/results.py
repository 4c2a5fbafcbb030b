"""What callers get of a scheduler: the chunks of one request, or the outputs of many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from linnet.engine.running.generation import Chunk, Event, Generation, Output
from linnet.engine.running.scheduler import Scheduler
from linnet.engine.running.session import Progress
from linnet.kernels.runtime.team import Interrupted


def chunks(
    scheduler: Scheduler, generation: Generation, progress: Progress | None = None
) -> Iterator[Chunk]:
    """A request's chunks as they are made; `progress` is told how far its prompt is.

    Raises what `Scheduler.events` raises, and the error that ends the request.
    """
    for _, event in scheduler.events([generation]):
        if chunk := chunk_of(event, progress):
            yield chunk


def chunk_of(event: Event, progress: Progress | None) -> Chunk | None:
    """An event's chunk; where it tells how far a prompt is, None, once `progress` is told. Raises
    the error that it is."""
    if isinstance(event, Exception):
        raise event
    if isinstance(event, Chunk):
        return event
    if progress:
        progress(*event)
    return None


def outputs(
    scheduler: Scheduler, requests: Sequence[Generation | Exception]
) -> Iterator[tuple[int, Output | Exception]]:
    """Each request's index, and its output or the error that ended it, as they end; first, what was
    wrong with those that are none. Raises Interrupted, and what `Scheduler.events` raises."""
    yield from ((i, error) for i, error in enumerate(requests) if isinstance(error, Exception))
    indexed = [(i, each) for i, each in enumerate(requests) if isinstance(each, Generation)]
    parts: dict[int, list[Chunk]] = {i: [] for i, _ in indexed}
    for n, event in scheduler.events([generation for _, generation in indexed]):
        index = indexed[n][0]
        if isinstance(event, Interrupted):
            raise event
        if isinstance(event, Exception):
            yield index, event
        elif isinstance(event, Chunk):
            parts[index].append(event)
            if event.finish_reason is not None:
                yield index, Output.of(parts.pop(index))

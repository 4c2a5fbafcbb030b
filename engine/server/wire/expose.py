"""`/metrics`, as Prometheus reads them: vLLM's names with a prefix of our own.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from linnet.engine.machine import peak_memory
from linnet.engine.server.errors import APIError
from linnet.engine.server.metrics import Histogram
from linnet.engine.server.service import Service
from linnet.engine.server.wire.endpoint import Endpoint, get

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Labels = Mapping[str, str]


class Family(NamedTuple):
    """Figures of one name; `text`: what they are."""

    name: str
    kind: str
    text: str
    samples: Sequence[tuple[Labels, float | Histogram]]


def routes(service: Service) -> list[Endpoint]:
    async def metrics(_: Request) -> Response:
        """What the server has counted."""
        if not service.settings.has_metrics:
            raise APIError(501, "/metrics is off: start the server without --no-metrics")
        families = [*_of_requests(service), *_of_process(service)]
        if service.settings.metrics_compat:
            families += _as_llama_server(service)
        text = "".join(f"{line}\n" for family in families for line in _lines(family))
        started = {"Process-Start-Time-Unix": str(service.started)}  # as llama-server has it
        return Response(text, headers=started, media_type=MEDIA_TYPE)

    return get(["/metrics", "/v1/metrics"], metrics, MEDIA_TYPE)


def _of_requests(service: Service) -> Iterator[Family]:
    metrics, scheduler = service.metrics, service.llm.llm.scheduler
    model = {"model_name": service.model_id}
    requests = scheduler.requests
    running = [request.sequence for request in requests if request.sequence is not None]
    held = sum(len(sequence.ids) for sequence in running) / scheduler.session.runner.kv_tokens
    for name, text, level in (
        ("num_requests_running", "Requests that have a slot.", len(running)),
        ("num_requests_waiting", "Requests that wait for one.", len(requests) - len(running)),
        ("kv_cache_usage_perc", "Tokens that running requests hold, 1 for all that fit.", held),
    ):
        yield Family(f"linnet:{name}", "gauge", text, [(model, level)])
    n_given = metrics.prompt_tokens + metrics.embedded_tokens
    for name, text, n in (
        ("prompt_tokens_total", "Tokens of prompts and embedded texts, cached ones too.", n_given),
        ("generation_tokens_total", "Tokens generated.", metrics.generated_tokens),
        ("prefix_cache_queries_total", "Tokens of prompts looked up.", metrics.prompt_tokens),
        ("prefix_cache_hits_total", "Those found in the cache.", metrics.cached_tokens),
        ("spec_decode_num_drafts_total", "Times that tokens were drafted.", metrics.drafts),
        ("spec_decode_num_draft_tokens_total", "Tokens drafted.", metrics.draft_tokens),
        ("spec_decode_num_accepted_tokens_total", "Those that came.", metrics.accepted_tokens),
        ("num_preemptions_total", "Slots taken from slow readers.", scheduler.n_preempted),
    ):
        yield Family(f"linnet:{name}", "counter", text, [(model, n)])
    for name, text, histogram in (
        ("time_to_first_token_seconds", "From a request to its first.", metrics.first_token),
        ("inter_token_latency_seconds", "Between tokens of an answer.", metrics.next_token),
        ("e2e_request_latency_seconds", "From a request to its end.", metrics.whole),
        ("request_queue_time_seconds", "Until its prompt began.", metrics.queued),
        ("request_prompt_tokens", "Tokens of a prompt.", metrics.prompts),
        ("request_generation_tokens", "Tokens of an answer.", metrics.answers),
        ("iteration_tokens_total", "Tokens in a pass.", metrics.pass_tokens),
    ):
        yield Family(f"linnet:{name}", "histogram", text, [(model, histogram)])
    yield Family(
        "linnet:pass_seconds", "histogram", "Of a pass over the weights.",
        [({**model, "kind": kind}, histogram) for kind, histogram in metrics.passes.items()],
    )  # fmt: skip
    yield Family(
        "linnet:request_success_total", "counter", "Requests that ended, by how.",
        [({**model, "finished_reason": reason}, n) for reason, n in metrics.finished.items()],
    )  # fmt: skip
    yield Family(
        "linnet:http_requests_total", "counter", "HTTP requests answered.",
        [
            ({"route": route, "status": str(status)}, n)
            for (route, status), n in metrics.answered.items()
        ],
    )  # fmt: skip


def _of_process(service: Service) -> Iterator[Family]:
    for name, kind, text, value in (
        ("cpu_seconds_total", "counter", "CPU time.", time.process_time()),
        ("max_resident_memory_bytes", "gauge", "The most so far.", peak_memory()),
        ("start_time_seconds", "gauge", "Unix time.", service.started),
    ):
        if value is not None:
            yield Family(f"process_{name}", kind, text, [({}, value)])


def _as_llama_server(service: Service) -> Iterator[Family]:
    """The names that dashboards for llama-server ask for."""
    metrics, scheduler = service.metrics, service.llm.llm.scheduler
    n_prompt, n_generated = metrics.prompt_tokens - metrics.cached_tokens, metrics.generated_tokens
    prompt, decode = metrics.passes["prompt"], metrics.passes["decode"]
    requests = scheduler.requests
    n_running = sum(request.sequence is not None for request in requests)
    for name, kind, text, value in (
        ("prompt_tokens_total", "counter", "Tokens of prompts computed.", n_prompt),
        ("prompt_tokens_cached_total", "counter", "Those cached.", metrics.cached_tokens),
        ("prompt_seconds_total", "counter", "Of passes over prompts.", prompt.total),
        ("tokens_predicted_total", "counter", "Tokens generated.", n_generated),
        ("tokens_predicted_seconds_total", "counter", "Of passes that decode.", decode.total),
        ("n_decode_total", "counter", "Passes.", prompt.cumulative[-1] + decode.cumulative[-1]),
        ("spec_decode_num_drafts_total", "counter", "Drafts.", metrics.drafts),
        ("spec_decode_num_draft_tokens_total", "counter", "Tokens drafted.", metrics.draft_tokens),
        ("spec_decode_num_accepted_tokens_total", "counter", "Accepted.", metrics.accepted_tokens),
        ("prompt_tokens_seconds", "gauge", "Tokens a second.", _rate(n_prompt, prompt.total)),
        ("predicted_tokens_seconds", "gauge", "The same.", _rate(n_generated, decode.total)),
        ("requests_processing", "gauge", "Requests that have a slot.", n_running),
        ("requests_deferred", "gauge", "Requests that wait.", len(requests) - n_running),
    ):
        yield Family(f"llamacpp:{name}", kind, text, [({}, value)])


def _rate(n: int, seconds: float) -> float:
    return n / seconds if seconds else 0.0


def _lines(family: Family) -> Iterator[str]:
    name = family.name
    yield f"# HELP {name} {family.text}"
    yield f"# TYPE {name} {family.kind}"
    for labels, value in family.samples:
        if not isinstance(value, Histogram):
            yield _line(name, labels, value)
            continue
        counts = value.cumulative
        for bound, n in zip([*map(repr, value.bounds), "+Inf"], counts, strict=True):
            yield _line(f"{name}_bucket", {**labels, "le": bound}, n)
        yield _line(f"{name}_sum", labels, value.total)
        yield _line(f"{name}_count", labels, counts[-1])


def _line(name: str, labels: Labels, value: float) -> str:
    told = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{told}}} {value!r}" if told else f"{name} {value!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

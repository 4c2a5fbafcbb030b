"""`/metrics`, `/props` and `/slots`: true figures, and nothing of what requests say."""

from __future__ import annotations

import re

import pytest
from support.known_drafts import at_fixed_costs
from support.serving import Running, serving, until

from linnet.engine.server.errors import APIError
from linnet.engine.server.metrics import Histogram
from linnet.engine.server.service import Service
from linnet.engine.server.settings import Settings

SAMPLE = re.compile(r'([a-z0-9_:]+)(\{(?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)*\})? (\S+)')


def samples(server: Running) -> dict[str, float]:
    """By name and labels, the model's left out; each line must be one of the format."""
    response = server.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    found, families = {}, {}
    for line in response.text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, families[name] = line.split(" ")
        elif not line.startswith("# HELP "):
            match = SAMPLE.fullmatch(line)
            assert match, line
            name = match[1]
            family = name if name in families else re.sub("_(bucket|sum|count)$", "", name)
            assert family in families, line
            labels = re.sub('model_name="[^"]*",?', "", match[2] or "").replace("{}", "")
            assert name + labels not in found
            found[name + labels] = float(match[3])
    return found


def grown(server: Running, before: dict[str, float]) -> dict[str, float]:
    """What has grown since, and by how much."""
    server.rests()
    after = samples(server)
    return {name: n - before.get(name, 0) for name, n in after.items() if n != before.get(name)}


def test_requests_are_counted(server: Running) -> None:
    server.answer("/completion", prompt="def g(y):", n_predict=0)
    before = samples(server)
    server.answer("/v1/completions", prompt="def g(y):", max_tokens=8, temperature=0, n=2)
    more = grown(server, before)
    n = len(server.llm.tokenizer.encode("def g(y):"))
    assert more["linnet:prompt_tokens_total"] == 2 * n
    assert more["linnet:prefix_cache_queries_total"] == 2 * n
    hits = more["linnet:prefix_cache_hits_total"]
    assert n - 1 <= hits <= 2 * (n - 1)  # the last one's logits are wanted
    assert more["linnet:generation_tokens_total"] == 16
    assert more['linnet:request_success_total{finished_reason="length"}'] == 2
    assert more["linnet:time_to_first_token_seconds_count"] == 2
    assert more["linnet:inter_token_latency_seconds_count"] == 14
    assert more["linnet:e2e_request_latency_seconds_count"] == 2
    assert more["linnet:request_queue_time_seconds_count"] == 2
    assert more["linnet:request_prompt_tokens_sum"] == 2 * n
    assert more['linnet:request_generation_tokens_bucket{le="10"}'] == 2
    assert 'linnet:request_generation_tokens_bucket{le="5"}' not in more
    assert more['linnet:pass_seconds_count{kind="decode"}'] >= 7
    assert more["linnet:iteration_tokens_total_sum"] == 2 * n - hits + 14
    assert more['linnet:http_requests_total{route="/v1/completions",status="200"}'] == 1
    assert more["process_cpu_seconds_total"] > 0


def test_embedded_tokens_are_counted(server: Running) -> None:
    before = samples(server)
    server.answer("/v1/embeddings", input=["def f(x):", [1, 2]])
    n = len(server.llm.tokenizer.encode("def f(x):")) + 2
    assert grown(server, before)["linnet:prompt_tokens_total"] == n


def test_who_runs_is_told(server: Running) -> None:
    before = samples(server)
    assert before["linnet:num_requests_running"] == 0
    with server.stream("/completion", prompt="x", n_predict=-1, ignore_eos=True) as frames:
        next(frames)
        during = samples(server)
        busy = [slot["is_processing"] for slot in server.get("/slots").json()]
    assert during["linnet:num_requests_running"] == 1
    assert during["linnet:num_requests_waiting"] == 0
    assert during["linnet:kv_cache_usage_perc"] > 0
    assert sum(busy) == 1
    until(lambda: samples(server)["linnet:num_requests_running"] == 0)
    assert grown(server, before)['linnet:request_success_total{finished_reason="abort"}'] == 1


def test_props_and_slots_say_nothing_of_prompts(server: Running) -> None:
    server.answer("/completion", prompt="def secret(x):", n_predict=2)
    llm = server.llm
    props, slots = server.get("/props"), server.get("/v1/slots")
    told = props.json()
    assert told["total_slots"] == llm.n_parallel == len(slots.json())
    assert told["model_path"] == str(llm.path)
    assert told["chat_template"] == llm.chat_template.source
    assert told["bos_token"] == llm.tokenizer.vocabulary.texts[1]
    defaults = told["default_generation_settings"]
    assert defaults["n_ctx"] == llm.n_ctx
    assert defaults["params"]["temperature"] == llm.sampling_params().temperature
    assert defaults["params"]["n_predict"] == -1
    assert {(slot["n_ctx"], slot["is_processing"]) for slot in slots.json()} == {(llm.n_ctx, False)}
    for text in (props.text, slots.text, server.get("/metrics").text):
        assert "secret" not in text
    assert server.refusal("/props", 501, n_ctx=1)["type"] == "not_supported_error"


def test_they_can_be_off() -> None:
    with serving(has_metrics=False, has_slots=False, alias='a "name"\\') as server:
        for path in ("/metrics", "/slots"):
            response = server.get(path)
            assert response.status_code == 501
            assert response.json()["error"]["type"] == "not_supported_error"


def test_llama_servers_names_are_there_for_who_asks() -> None:
    with serving(metrics_compat=True) as server:
        server.answer("/completion", prompt="def f", n_predict=4, temperature=0)
        found = samples(server)
    computed = found["linnet:prompt_tokens_total"] - found["linnet:prefix_cache_hits_total"]
    assert found["llamacpp:prompt_tokens_total"] == computed > 0
    assert found["llamacpp:tokens_predicted_total"] == 4
    assert found["llamacpp:n_decode_total"] == found["linnet:iteration_tokens_total_count"]
    seconds = found["llamacpp:tokens_predicted_seconds_total"]
    assert found["llamacpp:predicted_tokens_seconds"] == pytest.approx(4 / seconds)
    assert found["llamacpp:requests_processing"] == 0


def test_drafts_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    at_fixed_costs(monkeypatch)
    with serving(metrics_compat=True) as server:
        assert all(slot["speculative"] for slot in server.get("/slots").json())
        body = {"prompt": "x = 1\n" * 20, "n_predict": 40, "temperature": 0, "ignore_eos": True}
        timings = server.answer("/completion", **body)["timings"]
        found = samples(server)
    assert 0 < timings["draft_n_accepted"] <= timings["draft_n"]
    for prefix in ("linnet", "llamacpp"):
        assert found[f"{prefix}:spec_decode_num_draft_tokens_total"] == timings["draft_n"]
        n_accepted = found[f"{prefix}:spec_decode_num_accepted_tokens_total"]
        assert n_accepted == timings["draft_n_accepted"]
        n_passes = 39 - n_accepted  # after the first token, which is the prompt's
        assert 0 < found[f"{prefix}:spec_decode_num_drafts_total"] <= n_passes


def test_a_model_that_is_loading_has_no_name_yet() -> None:
    """By which /health tells that it is."""
    with pytest.raises(APIError) as raised:
        _ = Service(Settings(alias="a")).model_id
    assert raised.value.status == 503


def test_a_busy_server_says_so() -> None:
    with serving(alias='a "name"\\\n') as server:
        samples(server)  # whose labels are escaped
        assert server.get("/slots?fail_on_no_slot=1").status_code == 200


@pytest.mark.parametrize(
    ("values", "counts"),
    [([], [0, 0, 0]), ([1, 2, 2.5, 4], [1, 2, 4]), ([9, 9], [0, 0, 2])],
)
def test_a_histogram_counts_up_to_its_bounds(values: list[float], counts: list[int]) -> None:
    histogram = Histogram((1, 2))
    for value in values:
        histogram.observe(value)
    assert histogram.cumulative == counts
    assert histogram.total == sum(values)

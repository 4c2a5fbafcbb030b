"""What runs on Ray: `linnet batch --ray`, on a cluster of two nodes in this machine; programs in
`examples/`. Ray is in no extra of `dev`: without it all of this is skipped."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import ROOT
from support.gguf_builder import STRING
from support.serving import TEMPLATE, frames, until
from support.tiny_llama import TinyLlama

ray = pytest.importorskip("ray")
N = 40
MEMORY = 100 << 20  # bytes, of each node's object store


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with a CPU each, in processes that find linnet where this one does."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "examples")]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        node = {"num_cpus": 1, "object_store_memory": MEMORY}
        cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
        cluster.add_node(**node)
        yield cluster
        cluster.shutdown()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    bodies = [{"prompt": f"def f{i}(", "max_tokens": 8, "temperature": 0} for i in range(N - 1)]
    bodies.append({"prompt": "x", "max_tokens": -7})
    lines = [
        {"custom_id": str(i), "method": "POST", "url": "/v1/completions", "body": body}
        for i, body in enumerate(bodies)
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def batch(*arguments: object) -> subprocess.Popen[str]:
    """`linnet batch`, begun."""
    command = [sys.executable, "-m", "linnet", "batch", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def answers(path: Path) -> dict[str, Any]:
    """By custom_id, what is the same in two runs; each is there once."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = {line["custom_id"]: line["response"] for line in lines}
    assert len(found) == len(lines)
    return {
        custom_id: (response["status_code"], response["body"].get("choices"))
        for custom_id, response in found.items()
    }


def worker_processes() -> list[int]:
    """Of those that linnet has on the cluster."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            name = path.read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::Host"):
            found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("lost", [False, True])
def test_answers_on_a_cluster_are_those_of_one_process_even_where_a_worker_is_lost(
    lost: bool, cluster: Any, source: Path, tmp_path: Path
) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert batch(source, alone, "-q").wait() == 0
    running = batch(source, together, "-t", 1, "-np", 2, "--ray", cluster.address)
    if lost:
        until(lambda: together.exists() and len(together.read_text().splitlines()) > 3)
        os.kill(worker_processes()[0], signal.SIGKILL)
    _, err = running.communicate()
    assert running.returncode == 0, err
    assert f"{N} answers, 1 error" in err
    assert answers(together) == answers(alone)
    assert answers(together)[str(N - 1)][0] == 400
    until(lambda: not worker_processes())


def test_a_model_that_no_node_has_is_one_line_with_the_nodes_name(
    cluster: Any, source: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"none")
    running = batch(source, tmp_path / "out", "-m", model, "-q", "--ray", cluster.address)
    _, err = running.communicate()
    assert running.returncode == 2
    last = err.splitlines()[-1]
    assert last.startswith(f"linnet: {os.uname().nodename}: ")
    assert "model.gguf" in last
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-t", "8"], "a worker takes 8 CPUs (-t); no node has more than 1"),
        (["--ray", "127.0.0.1:1"], "no Ray cluster can be had"),
    ],
)
def test_a_cluster_that_cannot_do_it_is_one_line(
    arguments: list[str], message: str, cluster: Any, source: Path, tmp_path: Path
) -> None:
    running = batch(source, tmp_path / "out", "-q", "--ray", cluster.address, *arguments)
    _, err = running.communicate()
    assert running.returncode == 2
    assert message in err.splitlines()[-1]


def test_a_table_is_answered_by_ray_data(cluster: Any) -> None:
    command = [sys.executable, str(ROOT / "examples/ray_data.py")]
    env = os.environ | {"RAY_ADDRESS": cluster.address}
    printed = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert len(re.findall(r"^'.*' -> '.*'$", printed, re.MULTILINE)) == 5


@pytest.fixture(scope="module")
def client(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Of two engines on Ray Serve."""
    from ray import serve

    metadata = (("tokenizer.chat_template", STRING, TEMPLATE),)
    tiny = TinyLlama(type="Q4_K", n_ctx=2048, metadata=metadata)
    model = tiny.write(tmp_path_factory.mktemp("model") / "tiny.gguf")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "examples"))
        import ray_serve

        ray.init(cluster.address, log_to_driver=False)
        serve.start(http_options={"host": "127.0.0.1", "port": 8127})
        serve.run(ray_serve.build({"model": str(model), "threads": "1", "replicas": "2"}))
        with httpx.Client(base_url="http://127.0.0.1:8127", trust_env=False, timeout=60) as client:
            yield client
        serve.shutdown()
        ray.shutdown()


def chat(client: httpx.Client, messages: list[dict[str, str]], **fields: Any) -> Any:
    body = {"messages": messages, "max_tokens": 12, "temperature": 0, **fields}
    return client.post("/v1/chat/completions", json=body).raise_for_status().json()


def test_a_server_on_ray_answers_as_linnet_serve_does(client: httpx.Client) -> None:
    assert client.get("/health").json()["status"] == "ok"
    for path, status in (("/nowhere", 404), ("/v1/chat/completions", 405)):
        answer = client.get(path)
        assert answer.status_code == status
        assert answer.json()["error"]["message"]
    answer = client.post(
        "/v1/chat/completions", json={"messages": 3}, headers={"x-request-id": "mine"}
    )
    assert (answer.status_code, answer.headers["x-request-id"]) == (400, "mine")
    assert answer.json()["error"]["param"] == "messages"
    assert client.post("/v1/chat/completions", content=b"{").status_code == 400


def test_streams_through_it_are_the_same_answer(client: httpx.Client) -> None:
    messages = [{"role": "user", "content": "hello"}]
    whole = chat(client, messages)["choices"][0]["message"]["content"]
    body = {"messages": messages, "max_tokens": 12, "temperature": 0, "stream": True}
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        *chunks, last = (frame.data for frame in frames(response.iter_lines()))
    assert last == "[DONE]"
    texts = [chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks]
    assert "".join(texts) == whole
    assert len([text for text in texts if text]) > 3


def test_turns_of_a_conversation_find_the_one_before_them(client: httpx.Client) -> None:
    talks = {letter: [{"role": "user", "content": letter * 60}] for letter in "abcdefgh"}
    first = {}
    for letter, messages in talks.items():
        answer = chat(client, messages)
        first[letter] = answer["usage"]["prompt_tokens"]
        messages.append(
            {"role": "assistant", "content": answer["choices"][0]["message"]["content"]}
        )
        messages.append({"role": "user", "content": letter * 20})
    for letter, messages in talks.items():
        cached = chat(client, messages)["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert cached > first[letter] - 20  # a token of text that ends otherwise, and the like

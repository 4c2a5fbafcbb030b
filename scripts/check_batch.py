"""Kill a batch at random moments, have it go on, and see that all answers are there and the same.

usage: python scripts/check_batch.py [-m FILE] [--lines 2000] [--kills 2] [--max-tokens 16]

Requests of four kinds are answered twice by `linnet batch`: once undisturbed, and once by processes
of which all but the last are killed (SIGKILL). Each answer must be there once, and say the same.
Exits with 1 where one does not.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

URLS = {
    "chat": "/v1/chat/completions", "completion": "/v1/completions",
    "embedding": "/v1/embeddings", "response": "/v1/responses",
}  # fmt: skip
WORDS = ["river", "stone", "light", "code", "tree", "music", "night", "garden", "city", "engine"]
POLL_SECONDS = 0.02


def asking(custom_id: str, kind: str, text: str, max_tokens: int) -> dict[str, Any]:
    """A line that asks about a text, and gets the same answer each time."""
    limits = {"temperature": 0, "max_tokens": max_tokens}
    bodies: dict[str, dict[str, Any]] = {
        "chat": {"messages": [{"role": "user", "content": text}], **limits},
        "completion": {"prompt": text, **limits},
        "embedding": {"input": [text, "a"]},
        "response": {"input": text, "temperature": 0, "max_output_tokens": max_tokens},
    }
    body = {"model": "any", **bodies[kind]}
    return {"custom_id": custom_id, "method": "POST", "url": URLS[kind], "body": body}


def said(answer: Mapping[str, Any]) -> Any:
    """What is the same each time a request is asked: its status, and its error or what the model
    has made."""
    response = answer["response"]
    if response is None:
        return answer["error"]["message"]
    body = response["body"]
    output = [item["content"] for item in body.get("output", ())]
    made = body.get("choices") or body.get("data") or output or body["error"]
    return response["status_code"], made


def by_id(path: Path) -> dict[str | None, Any]:
    """What each answer says. Raises ValueError where one is there twice."""
    found: dict[str | None, Any] = {}
    for line in path.read_bytes().splitlines():
        answer = json.loads(line)
        if answer["custom_id"] in found:
            raise ValueError(f"two answers to {answer['custom_id']!r}")
        found[answer["custom_id"]] = said(answer)
    return found


def run(argv: Sequence[str], out: Path, until: int | None = None) -> None:
    """A process that ends by itself, or is killed once `out` has so many lines. Raises
    CalledProcessError where it fails."""
    command = [sys.executable, "-m", "linnet", "batch", *argv[:1], str(out), *argv[1:]]
    if until is None:
        subprocess.run(command, check=True)
        return
    with subprocess.Popen([*command, "-q"]) as process:
        while process.poll() is None and n_lines(out) < until:
            time.sleep(POLL_SECONDS)
        process.kill()
    print(f"killed at {n_lines(out)} answers, behind which are {n_cut(out)} bytes of another")


def n_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def n_cut(path: Path) -> int:
    return len(path.read_bytes().rpartition(b"\n")[2])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-m", "--model", help="default: the model linnet ships")
    for name, value in (("lines", 2000), ("kills", 2), ("max-tokens", 16), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    arguments = parser.parse_args(argv)
    rng, n = random.Random(arguments.seed), arguments.lines
    model = ["-m", arguments.model] if arguments.model else ["--chat-template", "chatml"]
    with TemporaryDirectory() as folder:
        source, whole, killed = (Path(folder) / name for name in ("in", "whole", "killed"))
        with source.open("w") as file:
            for i in range(n):
                text = f"Number {i}: write about the {' and the '.join(rng.sample(WORDS, 3))}."
                line = asking(f"id-{i}", rng.choice(list(URLS)), text, arguments.max_tokens)
                file.write(json.dumps(line) + "\n")
        run([str(source), *model], whole)
        for until in sorted(rng.sample(range(1, n), arguments.kills)):
            run([str(source), *model], killed, until)
        run([str(source), *model], killed)
        expected, found = by_id(whole), by_id(killed)
    wrong = [name for name in expected if found.get(name) != expected[name]]
    wrong += found.keys() - expected.keys()
    print(f"{len(found)} answers to {n} requests, {len(wrong)} of them others than undisturbed")
    return int(len(expected) != n or bool(wrong))


if __name__ == "__main__":
    sys.exit(main())

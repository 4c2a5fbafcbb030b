"""Whoever else asks, and whatever for: each answer is what it is alone, bit for bit."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from soak_serve import PATH, request
from support.serving import Running

N_REQUESTS, N_CLIENTS = 40, 8


def texts(server: Running, body: dict[str, Any], *, streams: bool) -> dict[int, str]:
    if not streams:
        choices = server.answer(PATH, **body)["choices"]
        return {choice["index"]: choice["message"]["content"] for choice in choices}
    found: dict[int, str] = {}
    for _, chunk in server.streamed(PATH, **body)[:-1]:
        (choice,) = chunk["choices"]
        piece = choice["delta"].get("content") or ""
        found[choice["index"]] = found.get(choice["index"], "") + piece
    return found


def leave(server: Running, body: dict[str, Any], n: int) -> None:
    """Take so many frames, and go."""
    with server.stream(PATH, **body | {"max_tokens": 200, "ignore_eos": True}) as frames:
        for _ in range(n):
            next(frames)


def test_answers_of_many_clients_are_those_of_one(server: Running) -> None:
    alone = [texts(server, request(number), streams=False) for number in range(N_REQUESTS)]

    def ask(number: int) -> dict[int, str]:
        if number % 5 == 0:
            leave(server, request(number), number % 4)
        return texts(server, request(number), streams=number % 3 > 0)

    order = random.Random(0).sample(range(N_REQUESTS), N_REQUESTS)
    with ThreadPoolExecutor(N_CLIENTS) as clients:
        together = dict(zip(order, clients.map(ask, order), strict=True))
    assert [together[number] for number in range(N_REQUESTS)] == alone
    server.rests()

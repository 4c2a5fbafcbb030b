"""`/openapi.json`: true of every route, and readable by what reads OpenAPI."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.routing import Route
from support.serving import Running, serving

from linnet.engine.server.app import application
from linnet.engine.server.gate import OPEN_PATHS

PARTS = {"openapi", "info", "paths", "components", "security"}
STATUS = re.compile(r"default|[1-5]\d\d")


@pytest.fixture(scope="module")
def document(server: Running) -> Any:
    response = server.get("/openapi.json")
    assert response.status_code == 200
    return response.json()


def references(value: Any) -> Iterator[str]:
    """All that a document refers to."""
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for name, item in value.items():
            yield from item.values() if name == "mapping" else references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_it_has_every_route(server: Running, document: Any) -> None:
    routes = application(server.server.service).routes
    assert routes
    served = set()
    for route in routes:
        assert isinstance(route, Route)
        served |= {(route.path_format, each) for each in (route.methods or set()) - {"HEAD"}}
    described = {
        (path, method.upper()) for path, item in document["paths"].items() for method in item
    }
    assert described == served


def test_it_is_openapi(document: Any) -> None:
    """By the rules of version 3.1.1 for the objects that it has."""
    assert document.keys() == PARTS
    assert document["openapi"] == "3.1.1"
    names = []
    for path, item in document["paths"].items():
        for operation in item.values():
            names.append(operation["operationId"])
            assert operation["summary"][-1].isalnum()  # a whole sentence
            given = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
            assert given == set(re.findall("{(.*?)}", path))
            assert all(map(STATUS.fullmatch, operation["responses"]))
            for response in operation["responses"].values():
                assert response["description"]
                assert response["content"]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in document["components"]["schemas"])


def test_what_it_refers_to_is_there(document: Any) -> None:
    found = set(references(document))
    schemas = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert found == schemas


@pytest.mark.parametrize(
    ("path", "fields", "required"),
    [
        ("/v1/chat/completions", {"temperature", "tools", "dry_base"}, {"messages"}),
        ("/v1/completions", {"response_format", "structured_outputs", "guided_json"}, {"prompt"}),
        ("/v1/responses", {"text", "tool_choice", "grammar"}, {"input"}),
        ("/v1/messages", {"stop_sequences", "system"}, {"messages", "max_tokens"}),
        ("/detokenize", {"tokens"}, {"tokens"}),
    ],
)
def test_bodies_are_described(
    document: Any, path: str, fields: set[str], required: set[str]
) -> None:
    content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    body = document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
    assert fields <= body["properties"].keys()
    assert set(body["required"]) == required


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/", "/health"])
def test_types_of_answers_are_those_told(server: Running, document: Any, path: str) -> None:
    [told] = document["paths"][path]["get"]["responses"]["200"]["content"]
    assert server.get(path).headers["content-type"].startswith(told)


def test_two_shapes_at_a_path_are_both_told(document: Any) -> None:
    content = document["paths"]["/completions"]["post"]["requestBody"]["content"]
    assert len(content["application/json"]["schema"]["anyOf"]) == 2


def test_it_tells_who_needs_a_key(document: Any) -> None:
    assert document["security"] == []
    with serving(api_keys=("one",)) as guarded:
        assert guarded.get("/openapi.json", authorization="").status_code == 401
        found = guarded.get("/openapi.json").json()
    assert found["security"] == [{"bearer": []}, {"x-api-key": []}]
    needs_none = {
        path
        for path, item in found["paths"].items()
        if any(operation.get("security") == [] for operation in item.values())
    }
    assert needs_none == OPEN_PATHS

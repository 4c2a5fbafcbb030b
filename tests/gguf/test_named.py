"""What a text means where a model is wanted: a file, a name on the hub, or a URL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.hub_server import Hub

from linnet.engine.gguf import url
from linnet.engine.gguf.located import located
from linnet.engine.gguf.named import HubError, HubModel, is_model, parsed

REPO = "user/model"
MIRROR = "https://mirror.example/hf"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("user/model", HubModel(REPO)),
        ("user/model:Q8_0", HubModel(REPO, "Q8_0")),
        ("hf.co/user/model:Q8_0", HubModel(REPO, "Q8_0")),
        ("hf://user/model", HubModel(REPO)),
        ("https://huggingface.co/user/model", HubModel(REPO)),
        ("https://huggingface.co/user/model/", HubModel(REPO)),
        ("https://huggingface.co/user/model/tree/main", HubModel(REPO, None, None, "main")),
        (
            "https://huggingface.co/user/model/resolve/v1/a/b%20c.gguf?download=true",
            HubModel(REPO, None, "a/b c.gguf", "v1"),
        ),
        ("http://www.hf.co/user/model/blob/main/b.gguf", HubModel(REPO, None, "b.gguf", "main")),
        (f"{MIRROR}/user/model/blob/main/b.gguf", HubModel(REPO, None, "b.gguf", "main")),
        ("https://example.com/a/b.GGUF?x=y", "https://example.com/a/b.GGUF?x=y"),
        ("model", None),
        ("/a/b", None),
        ("what is and/or?", None),
        ("https://huggingface.co/user/model/resolve/main/README.md", ValueError),
        ("https://huggingface.co/datasets/user/model", ValueError),
        ("https://example.com/a/b.bin", ValueError),
        ("hf://user", ValueError),
    ],
)
def test_what_a_text_is_spelled_as(
    text: str, meant: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", MIRROR)
    if meant is ValueError:
        with pytest.raises(ValueError, match=r"no model on the hub|no URL of a GGUF file"):
            parsed(text)
    else:
        assert parsed(text) == meant


@pytest.mark.parametrize("endpoint", ["", None])
def test_no_mirror_is_the_hub(endpoint: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    if endpoint is not None:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert parsed("/user/model") is None
    assert parsed("https://huggingface.co/user/model") == HubModel(REPO)


def test_what_can_hardly_be_a_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my model.gguf").touch()
    models = """x.gguf ./x.GGUF https://huggingface.co/a/b hf.co/a/b:Q4_K_M a/b:Q4_K_M a/b:bf16
        unsloth/SmolLM2-135M-Instruct-GGUF"""
    assert all(map(is_model, [*models.split(), "my model.gguf"]))
    for prompt in (
        "",
        "and/or",
        "a/b:c",
        "km/h",
        "what is x.gguf",
        "read hf.co/a/b",
        "and/or Q8_0",
    ):
        assert not is_model(prompt)


def test_a_file_that_is_there_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "model").touch()
    assert located(REPO) == REPO
    assert located(Path("nowhere/model")) == Path("nowhere/model")  # a path is never a name
    for text in ("user/other", "./user/other", "nowhere/other.gguf"):
        with pytest.raises(FileNotFoundError):
            located(text)
    with pytest.raises(ValueError, match="is not on the hub"):
        located(REPO, file="*Q8_0*")


# ---- URLs ----------------------------------------------------------------------------------------


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A server that knows some files, where downloads go to a folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    data = np.random.default_rng(0).bytes(5 << 20)
    files = {"a.gguf": data, "b-00001-of-00002.gguf": b"one", "b-00002-of-00002.gguf": b"two"}
    with Hub({"some/folder": files}).serving() as hub:
        yield hub


def address(web: Hub, file: str) -> str:
    return f"{web.url}/some/folder/resolve/main/{file}"


@pytest.mark.parametrize("breaks", [[], [3 << 20], [1 << 20, 1 << 20, 0]])
def test_a_file_of_the_web_is_downloaded_once(web: Hub, breaks: list[int]) -> None:
    web.breaks = list(breaks)
    if 0 in breaks:  # nothing came at all
        with pytest.raises(HubError, match="the download failed"):
            located(address(web, "a.gguf"))
        assert [*url.models()] == []
        return
    for _ in range(2):
        path = Path(located(address(web, "a.gguf?token=x")))
        assert path.read_bytes() == web.repos["some/folder"]["a.gguf"]
    ranges = [range for _, _, range in web.requests]
    assert ranges == [None, *(f"bytes={n}-" for n in breaks)]
    assert path == Path(located(address(web, "a.gguf#here"), offline=True))
    assert [each.name for each in url.models()] == [address(web, "a.gguf")]


def test_all_parts_of_the_web_are_taken(web: Hub) -> None:
    first = Path(located(address(web, "b-00001-of-00002.gguf")))
    assert [path.read_bytes() for path in sorted(first.parent.iterdir())] == [b"one", b"two"]
    (model,) = url.models()
    assert model.n_bytes == 6
    model.remove()
    assert not first.parent.exists()
    assert [*url.models()] == []


def test_what_cannot_be_had_is_named(web: Hub) -> None:
    with pytest.raises(HubError, match=r"none\.gguf: 404"):
        located(address(web, "none.gguf"))
    with pytest.raises(HubError, match="is not in the cache"):
        located(address(web, "a.gguf"), offline=True)
    with pytest.raises(ValueError, match="no URL of a file"):
        located(f"{web.url}/a/../../b.gguf")
    assert not [path for path in url.folder().rglob("*") if path.is_file()]
    assert os.path.isdir(url.folder().parent)

"""Models from the hub: which file is taken, what is cached, and what is said when it fails."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from support import ROOT
from support.hub_server import Hub
from support.tiny_llama import TinyLlama

from linnet import LLM
from linnet.engine.gguf.hub_files import choose, matching, parts
from linnet.engine.gguf.named import HubError, HubModel, hub_model

REPO = "somebody/tiny-GGUF"
FILE = f"/{REPO}/resolve/main/tiny-q8_0.gguf"
FILES = {
    "README.md": b"a model",
    "mmproj-Q4_K_M.gguf": b"for pictures",
    "tiny-IQ4_XS.gguf": b"iq4_xs",
    "tiny-Q4_K_M.gguf": b"q4_k_m" * 100_000,
    "tiny-q8_0.gguf": b"q8_0",
    "F16/tiny-F16-00001-of-00002.gguf": b"f16, one",
    "F16/tiny-F16-00002-of-00002.gguf": b"f16, two",
}


@dataclass(frozen=True, slots=True)
class Result:
    status: int
    out: str
    err: str


Fetch = Callable[..., Result]


@pytest.fixture
def hub() -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub")
    with Hub({REPO: dict(FILES), "a/gated": {}, "a/empty": {"README.md": b""}}).serving() as hub:
        hub.gated.add("a/gated")
        yield hub


@pytest.fixture
def linnet(hub: Hub, tmp_path: Path) -> Fetch:
    """Runs `linnet ARGUMENTS` in a process of its own, which knows no other hub and cache."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    env |= {"PYTHONPATH": str(ROOT), "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}

    def run(*argv: str, **more: str) -> Result:
        command = [sys.executable, "-m", "linnet", *argv]
        done = subprocess.run(command, env=env | more, capture_output=True, text=True, check=False)
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def fetch(linnet: Fetch) -> Fetch:
    """`linnet -hf NAME`, of a file that is no model: what is said of it names the file."""
    return lambda name, *more, **env: linnet("tokenize", "-p", "x", "-hf", name, *more, **env)


def check_fetched(result: Result, file: str) -> None:
    assert result.status == 2
    assert f"/{file}" in result.err
    assert "linnet: " in result.err


# ---- which file ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quant", "file"),
    [
        (None, "tiny-Q4_K_M.gguf"),
        ("latest", "tiny-Q4_K_M.gguf"),
        ("tiny-IQ4_XS.gguf", "tiny-IQ4_XS.gguf"),
        ("Q4_K_M", "tiny-Q4_K_M.gguf"),
        ("q4_k_m", "tiny-Q4_K_M.gguf"),
        ("Q8_0", "tiny-q8_0.gguf"),
        ("IQ4_XS", "tiny-IQ4_XS.gguf"),
        ("F16", "F16/tiny-F16-00001-of-00002.gguf"),
    ],
)
def test_the_file_of_a_type_is_chosen_by_its_name(quant: str | None, file: str) -> None:
    assert choose(REPO, list(FILES)[::-1], quant) == file


def test_without_the_default_the_first_file_is_taken() -> None:
    assert choose(REPO, ["b-Q8_0.gguf", "a-Q5_K_M.gguf", "a.txt"], None) == "a-Q5_K_M.gguf"


@pytest.mark.parametrize("quant", ["Q4_K", "Q4_XS", "Q4_K_M.gguf.x", "Q6_K"])
def test_a_type_that_is_not_there_is_refused_with_those_that_are(quant: str) -> None:
    there = f"{REPO} has no {re.escape(quant)}; it has F16, IQ4_XS, Q4_K_M, q8_0"
    with pytest.raises(HubError, match=f"^{there}$"):
        choose(REPO, list(FILES), quant)


def test_a_repository_without_models_is_refused() -> None:
    with pytest.raises(HubError, match="has no GGUF file"):
        choose(REPO, ["README.md", "mmproj-F16.gguf"], None)


def test_all_parts_of_a_split_file_are_wanted() -> None:
    assert parts("a/b-00001-of-00003.gguf") == [f"a/b-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    assert parts("b-Q8_0.gguf") == ["b-Q8_0.gguf"]


@pytest.mark.parametrize(
    ("pattern", "file"),
    [
        ("*Q4_K_M.gguf", "has 2 files for .*: mmproj-Q4_K_M.gguf, tiny"),
        ("tiny-Q4*", "tiny-Q4_K_M.gguf"),
        ("tiny-q8_0.gguf", "tiny-q8_0.gguf"),
        ("*F16*", "F16/tiny-F16-00001-of-00002.gguf"),
        ("tiny-F16-*", "F16/tiny-F16-00001-of-00002.gguf"),
        ("*.gguf", "has 5 files for"),
        ("*Q6_K*", "it has F16/tiny-F16-00001-of-00002.gguf, mmproj"),
    ],
)
def test_a_pattern_means_one_file(pattern: str, file: str) -> None:
    if file in FILES:
        assert matching(REPO, list(FILES)[::-1], pattern) == file
    else:
        with pytest.raises(HubError, match=file):
            matching(REPO, list(FILES), pattern)


def test_compat_takes_a_repository_and_a_pattern(hub: Hub, tmp_path: Path) -> None:
    """In a process of its own, which knows no other hub; its cache is the one that is named."""
    hub.repos[REPO]["tiny-Q4_K_M.gguf"] = TinyLlama().write(tmp_path / "tiny.gguf").read_bytes()
    program = (
        "import sys; from linnet.compat import Llama; repo, cache = sys.argv[1:]\n"
        "with Llama.from_pretrained(repo, 'tiny-Q4*', cache_dir=cache, n_ctx=64) as llama:\n"
        "    print(llama.n_ctx(), llama.model_path)"
    )
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    env |= {"PYTHONPATH": str(ROOT), "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", program, REPO, str(tmp_path / "cache")]
    for offline in ({}, {"HF_HUB_OFFLINE": "1"}):
        said = subprocess.check_output(command, env=env | offline, text=True)
        n_ctx, path = said.split()
        assert n_ctx == "64"
        assert Path(path).is_relative_to(tmp_path / "cache")
        assert Path(path).name == "tiny-Q4_K_M.gguf"


@pytest.mark.parametrize("name", ["", "model", "a/b/c", "a/b:", "a/b:Q4:1", "/b", "a b/c"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no name on the hub"):
        hub_model(name)


def test_the_api_takes_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, asked = TinyLlama().write(tmp_path / "tiny.gguf"), []
    monkeypatch.setattr(
        "linnet.engine.gguf.hub.fetch", lambda model, **how: asked.append((model, how)) or path
    )
    for llm in (LLM(f"{REPO}:Q8_0", n_ctx=64), LLM(f"hf.co/{REPO}:Q8_0", n_ctx=64)):
        with llm:
            assert (llm.path, llm.n_ctx, asked.pop()) == (path, 64, (HubModel(REPO, "Q8_0"), {}))
    how = {"token": "hf_x", "cache_dir": tmp_path, "local_dir": None}
    with LLM.from_pretrained(
        repo_id=REPO, filename="*Q8_0*", token="hf_x", cache_dir=tmp_path, n_ctx=64
    ) as llm:
        assert (llm.n_ctx, asked.pop()) == (64, (HubModel(REPO, file="*Q8_0*"), how))
    with LLM.from_pretrained(f"{REPO}:Q8_0", revision="v1") as llm:
        assert asked.pop()[0] == HubModel(REPO, "Q8_0", revision="v1")


# ---- downloads -----------------------------------------------------------------------------------


def test_a_model_is_downloaded_once(hub: Hub, linnet: Fetch, tmp_path: Path) -> None:
    model = TinyLlama().write(tmp_path / "tiny.gguf")
    hub.repos[REPO]["tiny-Q4_K_M.gguf"] = model.read_bytes()
    expected = linnet("tokenize", "-m", str(model), "-p", "to be", "--ids")
    for _ in range(2):
        found = linnet("tokenize", "-hf", REPO, "-p", "to be", "--ids")
        assert (found.status, found.out) == (0, expected.out), found.err
    assert hub.downloads == [f"/{REPO}/resolve/main/tiny-Q4_K_M.gguf"]
    assert json.loads(expected.out)
    n_requests = len(hub.requests)
    for flags, env in (([], {"HF_HUB_OFFLINE": "1"}), (["--offline"], {})):
        offline = linnet("tokenize", REPO, "to be", "--ids", *flags, **env)
        assert (offline.status, offline.out) == (0, expected.out), offline.err
    assert len(hub.requests) == n_requests


def test_a_file_is_asked_for_by_its_name(hub: Hub, fetch: Fetch) -> None:
    check_fetched(fetch(REPO, "-hff", "tiny-IQ4*"), "tiny-IQ4_XS.gguf")
    check_fetched(fetch(REPO, "-hft", "hf_abc"), "tiny-Q4_K_M.gguf")
    assert hub.tokens[-1] == "Bearer hf_abc"
    check_fetched(fetch(f"{hub.url}/{REPO}/blob/main/tiny-q8_0.gguf?a=b"), "tiny-q8_0.gguf")


def test_parts_lie_beside_each_other(hub: Hub, fetch: Fetch, tmp_path: Path) -> None:
    check_fetched(fetch(f"{REPO}:f16"), "F16/tiny-F16-00001-of-00002.gguf")
    snapshot = next(tmp_path.rglob("*-00001-of-00002.gguf")).parent
    assert sorted(path.read_bytes() for path in snapshot.iterdir()) == [b"f16, one", b"f16, two"]
    assert len(hub.downloads) == 2


def test_a_download_goes_on_where_the_connection_broke(
    hub: Hub, fetch: Fetch, tmp_path: Path
) -> None:
    data = hub.repos[REPO]["tiny-q8_0.gguf"] = np.random.default_rng(0).bytes(12 << 20)
    hub.breaks = [11 << 20]
    check_fetched(fetch(f"{REPO}:Q8_0"), "tiny-q8_0.gguf")
    gets = [range for method, path, range in hub.requests if (method, path) == ("GET", FILE)]
    assert gets[0] is None
    assert 0 < int(str(gets[1]).removeprefix("bytes=").split("-")[0]) < len(data)
    (path,) = tmp_path.rglob("tiny-q8_0.gguf")
    assert path.read_bytes() == data


def test_without_a_hub_the_cache_is_all_there_is(hub: Hub, fetch: Fetch) -> None:
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:1"}
    nothing = fetch(REPO, **nowhere)
    assert nothing.status == 2
    assert f"{REPO} is not in the cache" in nothing.err
    check_fetched(fetch(f"{REPO}:Q8_0"), "tiny-q8_0.gguf")
    for name in (f"{REPO}:Q8_0", REPO):
        check_fetched(fetch(name, **nowhere), "tiny-q8_0.gguf")
    other = fetch(f"{REPO}:F16", **nowhere)
    assert other.status == 2
    assert f"{REPO} in the cache has no F16; it has q8_0" in other.err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no/body", "'no/body' is not on the hub"),
        ("a/gated", "a/gated: accept its terms"),
        ("a/empty", "a/empty has no GGUF file"),
        (f"{REPO}:Q3_K", "has no Q3_K; it has F16, IQ4_XS, Q4_K_M, q8_0"),
        ("one", "'one' is no name on the hub"),
        (f"http://127.0.0.1/{REPO}", "'http://127.0.0.1/somebody/tiny-GGUF' is no URL of a GGUF"),
    ],
)
def test_what_cannot_be_had_is_one_line(fetch: Fetch, name: str, said: str) -> None:
    result = fetch(name)
    assert (result.status, result.out) == (2, "")
    (line,) = result.err.splitlines()
    assert line.startswith("linnet: ")
    assert said in line


def test_a_file_and_a_name_are_one_too_many(linnet: Fetch) -> None:
    result = linnet("tokenize", "-m", "x.gguf", "-hf", REPO, "-p", "x")
    assert result.status == 2
    assert "not allowed with" in result.err


# ---- what was downloaded -------------------------------------------------------------------------


def test_models_are_pulled_listed_and_removed(hub: Hub, linnet: Fetch, tmp_path: Path) -> None:
    assert linnet("list").out.split() == ["name", "type", "size", "modified"]
    pulled = linnet("pull", REPO, f"{REPO}:Q8_0", f"{REPO}:F16")
    paths = [Path(line) for line in pulled.out.splitlines()]
    names = "tiny-Q4_K_M.gguf", "tiny-q8_0.gguf", "tiny-F16-00001-of-00002.gguf"
    assert tuple(path.name for path in paths) == names
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": "http://127.0.0.1:1"}
    url = f"{hub.url}/{REPO}/resolve/main/tiny-IQ4_XS.gguf"
    (path,) = linnet("pull", "-mu", url, **env).out.splitlines()
    assert Path(path).read_bytes() == FILES["tiny-IQ4_XS.gguf"]
    listed = json.loads(linnet("list", "-o", "json", **env).out)
    sizes = [len(FILES["tiny-Q4_K_M.gguf"]), 4, 16, 6]
    assert [each["n_bytes"] for each in listed] == [16, sizes[0], 4, 6]
    named = [each["name"] for each in listed]
    assert named == [f"{REPO}:F16", f"{REPO}:Q4_K_M", f"{REPO}:q8_0", url]
    rows = linnet("list", **env).out.splitlines()[1:]
    assert [row.split()[:2] for row in rows] == [
        [name, type] for name, type in zip(named, ["F16", "Q4_K_M", "Q8_0", "IQ4_XS"], strict=True)
    ]
    asked = linnet("rm", REPO, **env)
    assert asked.status == 2
    assert f"{REPO}:q8_0" in asked.err
    assert "-y says yes" in asked.err
    assert "was not downloaded" in linnet("rm", "-y", f"{REPO}:Q2_K", **env).err
    assert linnet("rm", "-y", f"{REPO}:Q8_0", url, **env).status == 0
    assert not Path(path).exists()
    assert [path.exists() for path in paths] == [True, False, True]
    assert linnet("rm", "--yes", f"hf.co/{REPO}", **env).status == 0
    assert not [*tmp_path.rglob("*.gguf"), *tmp_path.rglob("blobs/*")]
    assert linnet("list", "-o", "json", **env).out == "[]\n"

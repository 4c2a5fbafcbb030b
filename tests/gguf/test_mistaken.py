"""What people give for a model that is none: the message says what it is, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.gguf_builder import F32, STRING, GGUFBuilder

from linnet import LLM
from linnet.engine.cli.main import main
from linnet.engine.gguf.reader import GGUFError, GGUFFile
from linnet.models import ModelError

FILES = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 987654321\n",
            "a git-lfs pointer to 987,654,321 bytes, .*git lfs pull"),
    "lfs cut": (b"version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer, not the file"),
    "page": (b"\n  <!doctype HTML><title>404</title>", "a web page, from a download that failed"),
    "page without type": (b"<html lang='en'>", "a web page"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML, from"),
    "json": (b'{"error":"Invalid credentials"}', "JSON, .*download.*Invalid credentials"),
    "text": (b"Entry not found", "text, maybe of a download that failed: 'Entry not found'"),
    "text cut in a character": ("é".encode() * 200 + b"\xc3", "text, "),
    "zip": (b"PK\x03\x04" + bytes(30), "a zip archive, .*converted to GGUF"),
    "pickle": (b"\x80\x02}q\x00", "a pickle"),
    "safetensors": (b"\x40" + bytes(7) + b'{"__metadata__":{}}', "weights in safetensors; "),
    "gzip": (b"\x1f\x8b\x08" + bytes(9), "a compressed file; it has to be unpacked"),
    "nothing": (b"", "an empty file"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_gguf_is_named_for_what_it_is(tmp_path: Path, name: str) -> None:
    data, message = FILES[name]
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(GGUFError, match=rf"m\.gguf': {message}.*; not a GGUF file"):
        GGUFFile(path)


@pytest.mark.parametrize("data", [bytes(64), b"\xff" * 64, b"GGUF", b"GG", b"\x1b[2J" + bytes(9)])
def test_what_cannot_be_told_is_not_guessed(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(GGUFError) as caught:
        GGUFFile(path)
    assert "not a GGUF file" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "'': the path is empty"),
        ("https://huggingface.co/a/b/resolve/main/x.gguf", "a URL, which has to be downloaded"),
        ("hf://a/b", "a URL, which has to be downloaded"),
    ],
)
def test_a_path_that_is_none_is_named_for_what_it_is(path: str, message: str) -> None:
    with pytest.raises(GGUFError, match=message):
        GGUFFile(path)


def test_a_path_that_is_not_there_says_what_may_be_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "SmolLM2-135M.gguf").touch()
    for path, said in (
        ("models/SmolLM-135M.gguf", "did you mean 'models/SmolLM2-135M.gguf'?"),
        ("models/smollm2-135m", "did you mean 'models/SmolLM2-135M.gguf'?"),
        ("models/other", "-hf models/other is for the hub"),  # their folder is there
        ("models/other.gguf", "No such file"),
        ("llama3", "a model is a GGUF file, user/model[:QUANT] on the Hugging Face hub, or a URL"),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            LLM(path)
        assert said in str(caught.value)
        assert main(["generate", path, "a text"]) == 2
        assert said in capsys.readouterr().err or path == "llama3"


def test_a_folder_says_what_is_in_it(tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match="a folder; no GGUF file is in it"):
        GGUFFile(tmp_path)
    (tmp_path / "b.gguf").touch()
    (tmp_path / "a.gguf").touch()
    with pytest.raises(GGUFError, match=r"a folder; in it: 'a\.gguf', 'b\.gguf'"):
        GGUFFile(tmp_path)


RELATIVES = {
    "adapter": ({"general.architecture": "llama", "general.type": "adapter"}, "an adapter"),
    "old adapter": ({"general.architecture": "llama", "adapter.type": "lora"}, "an adapter"),
    "projector": ({"general.architecture": "clip", "general.type": "mmproj"}, "a projector"),
    "old projector": ({"general.architecture": "clip"}, "a projector"),
    "matrix": ({"general.type": "imatrix"}, "an importance matrix"),
    "vector": ({"general.architecture": "controlvector"}, "a control vector"),
    "vocabulary": ({"general.architecture": "llama"}, "a vocabulary without weights"),
}


@pytest.mark.parametrize("name", RELATIVES)
def test_what_goes_with_models_is_named_for_what_it_is(tmp_path: Path, name: str) -> None:
    metadata, message = RELATIVES[name]
    file = GGUFBuilder()
    for key, value in metadata.items():
        file.kv(key, STRING, value)
    if name != "vocabulary":
        file.tensor("blk.0.attn_q.weight.lora_a", F32, (8, 4))
    with pytest.raises(ModelError, match=rf"m\.gguf': {message}"):
        LLM(file.write(tmp_path / "m.gguf"))

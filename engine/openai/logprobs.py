"""Log-probabilities, in the shapes of OpenAI's and llama-server's APIs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from linnet.engine.sampling.logprobs import TokenLogprob
from linnet.engine.text.tokenizer import Tokenizer


def entry(tokenizer: Tokenizer, logprob: TokenLogprob) -> dict[str, Any]:
    """A token of a chat's `logprobs.content`; with its `id`, as llama-server has it."""
    top = [_one(tokenizer, token_id, each) for token_id, each in logprob.top]
    return {**_one(tokenizer, logprob.token_id, logprob.logprob), "top_logprobs": top}


def _one(tokenizer: Tokenizer, token_id: int, logprob: float) -> dict[str, Any]:
    """`bytes`: of which `token` has U+FFFD where they are no whole characters."""
    data = tokenizer.token_bytes(token_id)
    token = data.decode(errors="replace")
    return {"id": token_id, "token": token, "bytes": [*data], "logprob": logprob}


class Row(NamedTuple):
    """A token in the columns of `/v1/completions`."""

    token: str
    logprob: float | None
    top: dict[str, float] | None
    offset: int


def columns(rows: Sequence[Row]) -> dict[str, Any]:
    """The rows as OpenAI's older API has them."""
    return {
        "tokens": [row.token for row in rows],
        "token_logprobs": [row.logprob for row in rows],
        "top_logprobs": [row.top for row in rows],
        "text_offset": [row.offset for row in rows],
    }


class Rows:
    """Rows of one answer. An offset is where in the choice's text, the echo included, what the
    token adds begins, in characters."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool, offset: int = 0) -> None:
        self._tokenizer = tokenizer
        self._detokenizer = tokenizer.detokenizer(skip_special=skip_special, continues=True)
        self._offset = offset

    def of_prompt(
        self, text: str, ids: Sequence[int], logprobs: Iterable[TokenLogprob | None]
    ) -> list[Row]:
        """Those of a prompt that is echoed as `text`; tokens put around it have no length. The
        first has no logprob: nothing comes before it."""
        detokenizer = self._tokenizer.detokenizer(skip_special=False)
        pieces = [*map(detokenizer.push, ids)]
        at = -max(0, "".join(pieces).find(text))  # of the first, where it is not in the text
        rows = []
        for token_id, piece, logprob in zip(ids, pieces, logprobs, strict=True):
            offset = min(max(0, at), len(text))
            rows.append(
                Row(self._name(token_id), None, None, offset)
                if logprob is None
                else self._row(logprob, offset)
            )
            at += len(piece)
        self._offset = len(text)
        return rows

    def of_token(self, logprob: TokenLogprob) -> Row:
        """That of a generated token."""
        row = self._row(logprob, self._offset)
        self._offset += len(self._detokenizer.push(logprob.token_id))
        return row

    def _row(self, logprob: TokenLogprob, offset: int) -> Row:
        """The likeliest, and the token itself where it is none of them."""
        top: dict[str, float] = {}
        for token_id, each in (*logprob.top, (logprob.token_id, logprob.logprob)):
            top.setdefault(self._name(token_id), each)
        return Row(self._name(logprob.token_id), logprob.logprob, top, offset)

    def _name(self, token_id: int) -> str:
        """A token's text; its bytes, as OpenAI writes them, where they are no whole characters."""
        data = self._tokenizer.token_bytes(token_id)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

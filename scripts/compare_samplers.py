"""What samplers leave of random logits against what llama.cpp's leave.

    python scripts/compare_samplers.py [FILE] [-n 2000] [--seed 0] [--record FILE]

A case is a prompt, parameters that switch some samplers on, perhaps in another order, and logits;
both give the probability of each token. With Mirostat, llama.cpp draws tokens and we follow. DRY's
sequence breakers are looked for in a GGUF FILE's vocabulary, or in a small one.

`--record` writes the cases and what llama.cpp made of them, for `tests/sampling/test_llamacpp.py`:

    python scripts/compare_samplers.py -n 60 --record tests/data/samplers.json

Needs `pip install llama-cpp-python`, which compiles.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from comparing import require_llamacpp

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.sampler_cases import MERGES, TOKENS, Run, distribution  # noqa: E402

from linnet import SamplingParams, Tokenizer  # noqa: E402
from linnet.engine.sampling.candidates import Candidates  # noqa: E402
from linnet.engine.sampling.params import DEFAULT_ORDER  # noqa: E402

OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
WORDS = ("ab", "abcd", "cd", "a", ":", "\n", "*", "**", "##", "a#", "x", " y")
BREAKERS = ("\n", ":", "*", "a:b", "##", "ab*", ":\na", "**cd")
MOST_ERROR = 1e-3  # of a probability, relative: theirs are float32
Logits = npt.NDArray[np.float32]


def make_params(source: random.Random) -> dict[str, Any]:
    """Up to four samplers switched on, in llama-cli's order or another; or Mirostat."""
    pick = source.choice
    choices: dict[str, dict[str, Any]] = {
        "penalties": {
            "repeat_penalty": pick([1.3, 0.8]),
            "presence_penalty": pick([0.0, 0.5]),
            "frequency_penalty": pick([0.0, 0.25]),
            "repeat_last_n": pick([3, 64]),
        },
        "dry": {
            "dry_multiplier": pick([0.5, 3.0]),
            "dry_base": pick([1.0, 1.75, 4.0]),
            "dry_allowed_length": pick([1, 2, 4]),
            "dry_penalty_last_n": pick([5, 16, 200]),
            "dry_sequence_breakers": source.sample(BREAKERS, pick([0, 1, 2, 4])),
        },
        "top_n_sigma": {"top_n_sigma": pick([0.5, 1.0, 2.0])},
        "top_k": {"top_k": pick([1, 3, 40, 9999])},
        "typ_p": {"typ_p": pick([0.2, 0.6, 0.95])},
        "top_p": {"top_p": pick([0.2, 0.7, 0.95])},
        "min_p": {"min_p": pick([0.02, 0.2])},
        "xtc": {"xtc_probability": 1.0, "xtc_threshold": pick([0.01, 0.1, 0.3])},
        "temperature": pick(
            [
                {"temperature": pick([0.0, 0.5, 1.7])},
                {
                    "temperature": pick([0.3, 0.8]),
                    "dynatemp_range": pick([0.3, 0.5]),
                    "dynatemp_exponent": pick([0.5, 1.0, 2.0]),
                },
            ]
        ),
        "mirostat": {
            "mirostat": 2,
            "mirostat_tau": pick([1.0, 3.0]),
            "mirostat_eta": pick([0.1, 0.7]),
            "temperature": pick([0.5, 1.0]),
        },
    }
    chosen = source.sample([*choices], source.randint(1, 4))
    params = dict(OFF)
    for name in chosen:
        params |= choices[name]
    if "typ_p" in chosen:  # llama.cpp's entropy is NaN where a probability is 0
        some_heat = params["temperature"] or 1.0
        params |= {"top_n_sigma": -1.0, "dry_base": 1.0, "temperature": some_heat}
        params.pop("dynatemp_range", None)
    order = source.sample(DEFAULT_ORDER, len(DEFAULT_ORDER))
    return params | {"samplers": pick([list(DEFAULT_ORDER), order])}


def make_case(source: random.Random, tokenizer: Tokenizer) -> dict[str, Any]:
    """Parameters, a prompt that repeats itself, and logits for each step, no two equal."""
    params = make_params(source)
    phrases = ["".join(source.choices(WORDS, k=source.randint(1, 6))) for _ in range(3)]
    text = "".join(source.choices(phrases, k=source.randint(1, 12)))
    prompt = tokenizer.encode(text, add_special=False)
    n_steps = 8 if "mirostat" in params else 1
    logits = [make_logits(source, tokenizer.n_vocab, prompt) for _ in range(n_steps)]
    return {
        "params": params,
        "prompt": prompt,
        "logits": logits,
    }


def make_logits(source: random.Random, n_vocab: int, likely: Sequence[int]) -> list[float]:
    """One for each token: up to 50, those in `likely` first, have some probability. In sums over
    more, llama.cpp's float32 would decide."""
    spread = source.choice([2, 8])
    shares = [number / 1e6 for number in source.sample(range(1_000_000), n_vocab)]
    logits = [-30 - share for share in shares]
    others = source.sample(range(n_vocab), min(n_vocab, 50))
    for token_id in [*dict.fromkeys([*likely, *others])][:50]:
        logits[token_id] = spread * (2 * shares[token_id] - 1)
    return [round(logit, 6) for logit in logits]


class TheirChain:
    """llama.cpp's samplers, as llama-cli makes them of its parameters (common/sampling.cpp)."""

    def __init__(self, params: SamplingParams, model: Any) -> None:
        self._api = api = require_llamacpp().llama_cpp
        vocab = api.llama_model_get_vocab(model.model)
        texts = [text.encode() for text in params.dry_sequence_breakers]
        breakers = (ctypes.c_char_p * len(texts))(*texts)
        dry = params.dry_multiplier, params.dry_base, params.dry_allowed_length
        strengths = params.repeat_penalty, params.frequency_penalty, params.presence_penalty
        dynamic = params.temperature, params.dynatemp_range, params.dynatemp_exponent
        make = {
            "penalties": lambda: api.llama_sampler_init_penalties(
                api.llama_vocab_n_tokens(vocab), params.repeat_last_n, *strengths
            ),
            "dry": lambda: api.llama_sampler_init_dry(
                vocab, *dry, params.dry_penalty_last_n, breakers, len(texts)
            ),
            "top_n_sigma": lambda: api.llama_sampler_init_top_n_sigma(params.top_n_sigma),
            "top_k": lambda: api.llama_sampler_init_top_k(params.top_k),
            "typ_p": lambda: api.llama_sampler_init_typical(params.typ_p, 0),
            "top_p": lambda: api.llama_sampler_init_top_p(params.top_p, 0),
            "min_p": lambda: api.llama_sampler_init_min_p(params.min_p, 0),
            "xtc": lambda: api.llama_sampler_init_xtc(
                params.xtc_probability, params.xtc_threshold, 0, 0
            ),
            "temperature": lambda: api.llama_sampler_init_temp_ext(*dynamic),
        }
        mirostat = [
            lambda: api.llama_sampler_init_temp(params.temperature),
            lambda: api.llama_sampler_init_mirostat_v2(7, params.mirostat_tau, params.mirostat_eta),
        ]
        self._chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        for one in mirostat if params.mirostat else [make[name] for name in params.samplers]:
            api.llama_sampler_chain_add(self._chain, one())

    def step(self, logits: Logits) -> tuple[dict[int, float], int | None]:
        """The probability of each token that may follow, and the one chosen where any is."""
        data = (self._api.llama_token_data * len(logits))()
        for i, logit in enumerate(logits.tolist()):
            data[i].id, data[i].logit = i, logit
        left = self._api.llama_token_data_array(data, len(logits), -1, False)
        self._api.llama_sampler_apply(self._chain, ctypes.byref(left))
        ids = [left.data[i].id for i in range(left.size)]
        chosen = None if left.selected < 0 else ids[left.selected]
        if chosen is not None:
            self.accept(chosen)
        after = np.array([left.data[i].logit for i in range(left.size)], np.float64)
        return distribution(Candidates(np.array(ids), after)), chosen

    def accept(self, token_id: int) -> None:
        self._api.llama_sampler_accept(self._chain, token_id)

    def close(self) -> None:
        self._api.llama_sampler_free(self._chain)


def theirs(case: dict[str, Any], model: Any) -> list[dict[str, Any]]:
    """For each step, what llama.cpp leaves and chooses."""
    chain = TheirChain(SamplingParams(**case["params"]), model)
    for token_id in case["prompt"]:
        chain.accept(token_id)
    steps = [chain.step(np.array(logits, np.float32)) for logits in case["logits"]]
    chain.close()
    return [
        {
            "expected": {token_id: float(f"{p:.6g}") for token_id, p in left.items()},
            "chosen": chosen,
        }
        for left, chosen in steps
    ]


def differs(case: dict[str, Any], steps: list[dict[str, Any]], tokenizer: Tokenizer) -> str:
    """What we leave otherwise; nothing where all is alike."""
    run = Run(SamplingParams(**case["params"]), case["prompt"], tokenizer)
    for i, (logits, step) in enumerate(zip(case["logits"], steps, strict=True)):
        expected = step["expected"]
        found = run.step(np.array(logits, np.float32), step["chosen"])
        if found.keys() != expected.keys():
            return f"step {i}: tokens {sorted(found.keys() ^ expected.keys())} are only in one"
        error = max(abs(found[token_id] / p - 1) for token_id, p in expected.items())
        if error > MOST_ERROR:
            return f"step {i}: a probability is off by {error:.2g}"
    return ""


def write_vocabulary(path: Path) -> None:
    """The small vocabulary, as a file."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(list(TOKENS))
    writer.add_token_types([gguf.TokenType.NORMAL] * len(TOKENS))
    writer.add_token_merges(list(MERGES))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare samplers with llama.cpp's.")
    parser.add_argument("file", nargs="?", type=Path, help="a GGUF file; none for a small one")
    parser.add_argument("-n", type=int, default=2000, help="cases (default 2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, metavar="FILE", help="write what llama.cpp says")
    arguments = parser.parse_args()
    llama_cpp = require_llamacpp()
    source = random.Random(arguments.seed)
    records, n_failed = [], 0
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.file
        if path is None:
            write_vocabulary(path := Path(folder, "small.gguf"))
        model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
        tokenizer = Tokenizer.from_gguf(path)
        for i in range(arguments.n):
            case = make_case(source, tokenizer)
            steps = theirs(case, model)
            if wrong := differs(case, steps, tokenizer):
                n_failed += 1
                print(f"case {i}: {wrong}\n    {case['params']}", flush=True)
            records.append(case | {"steps": steps})
        model.close()
    print(f"{arguments.n - n_failed} of {arguments.n} alike")
    if arguments.record:
        version = f"llama-cpp-python {llama_cpp.__version__}"
        lines = ",\n".join(json.dumps(record) for record in records)
        arguments.record.write_text(f'{{"made_by": "{version}", "cases": [\n{lines}\n]}}\n')
    return 1 if n_failed else 0


if __name__ == "__main__":
    sys.exit(main())

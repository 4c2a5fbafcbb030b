"""Load the models named on standard input and let them speak, and report on each in a line of JSON.

Run as a process of its own, as gguf_probe.py. A line is a path, or a path and a text to encode.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import time
import warnings

import sentencepiece
import tokenizers

import linnet.engine.chat.template
from linnet import LLM, SamplingParams
from linnet.engine.chat.sandbox import TemplateError
from linnet.engine.gguf.reader import GGUFError
from linnet.engine.sampling.candidates import NonFiniteLogits
from linnet.engine.text.tokenizer import TokenizerError
from linnet.models import ModelError
from support.gguf_probe import WALL_SECONDS, forget_peak, peak_mib

IMPORTED = sentencepiece, tokenizers  # so that no file is charged with it
TYPED = (GGUFError, ModelError, TokenizerError, TemplateError, NonFiniteLogits)
TEMPLATE_SECONDS = 1.0
MESSAGES = [{"role": "user", "content": "an <s> and {{ 7 * 7 }}"}]


def speak(path: str, text: str | None) -> str:
    """What the model says, or how a text is encoded."""
    with LLM(path, n_threads=1, n_ctx=64, n_batch=32) as llm:
        if text is not None:
            return f"{len(llm.tokenizer.encode(text))} tokens"
        params = SamplingParams(max_tokens=4, temperature=0.0)
        if "tokenizer.chat_template" in llm._file.metadata:
            prompt = llm.chat_template.render(MESSAGES)
            ids = llm.chat_template.encode(MESSAGES)
            llm.chat(MESSAGES, params)
            return f"prompt {prompt!r}, ids {ids}"
        return f"said {llm.generate('an and to', params).token_ids}"


def probe(line: str) -> dict[str, object]:
    path, _, text = line.partition("\t")
    n_descriptors = len(os.listdir("/proc/self/fd"))
    before, start = forget_peak(), time.process_time()
    try:
        outcome = speak(path, json.loads(text) if text else None)
    except TYPED as error:
        outcome = f"{type(error).__name__}: {error}"
    except Exception as error:
        outcome = f"untyped: {error!r}"
    seconds, mib = time.process_time() - start, peak_mib() - before
    gc.collect()  # errors refer to frames, and these to errors
    for thread in threading.enumerate():  # that maps pages, which keeps the file open
        if thread is not threading.current_thread():
            thread.join()
    return {
        "outcome": outcome,
        "seconds": seconds,
        "mib": mib,
        "leaked": len(os.listdir("/proc/self/fd")) - n_descriptors,
    }


def main() -> None:
    linnet.engine.chat.template.SECONDS = TEMPLATE_SECONDS
    gc.freeze()
    warnings.simplefilter("error")  # a second line on stderr is one too many
    warnings.simplefilter("ignore", UserWarning)  # but for our own
    for line in sys.stdin:
        signal.alarm(WALL_SECONDS)
        print(json.dumps(probe(line.rstrip("\n"))), flush=True)
        signal.alarm(0)


if __name__ == "__main__":
    main()

"""Run command lines that the documents of other programs show, and say what becomes of each.

    python scripts/check_command_lines.py MODEL [--draft FILE] [--only TEXT]

MODEL is a model with a chat template and stands wherever theirs stood; linnet's commands stand for
their programs. A line runs as it is typed, with one note of what is ignored, or is refused.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = {
    "llama-cli": "run", "llama-completion": "run", "llama-server": "serve",
    "llama-perplexity": "perplexity", "llama-bench": "bench", "mlx_lm.generate": "generate",
    "mlx_lm.chat": "chat", "mlx_lm.server": "serve", "ollama": "",
}  # fmt: skip
LINES = {
    "llama.cpp: README.md (2025)": r"""
        llama-cli -m MODEL
        llama-cli -m MODEL -cnv --chat-template chatml
        llama-cli -m MODEL -cnv --in-prefix 'User: ' --reverse-prompt 'User:'
        llama-cli -m MODEL -p "I believe the meaning of life is" -n 128 -no-cnv
        llama-cli -m MODEL -n 256 --grammar-file json.gbnf \
            -p 'Request: schedule a call at 8pm; Command:'
        llama-server -m MODEL --port 8080
        llama-server -m MODEL -c 16384 -np 4
        llama-server -m MODEL -md DRAFT
        llama-server -m MODEL --embedding --pooling cls -ub 8192
        llama-server -m MODEL --reranking
        llama-server -m MODEL --grammar-file json.gbnf
        llama-perplexity -m MODEL -f text.txt
        llama-bench -m MODEL""",
    "llama.cpp: tools/completion/README.md": r"""
        llama-completion -m MODEL -no-cnv --prompt "Once upon a time"
        llama-completion -m MODEL --chat-template gemma
        llama-completion -m MODEL --jinja
        llama-completion -m MODEL --jinja --single-turn \
            -sys "You are a helpful assistant" -p "Hello"
        llama-completion -m MODEL --ignore-eos -n -1""",
    "llama.cpp: docs/build.md, backend/CANN.md, docker.md": r"""
        llama-cli -m MODEL -p "Hi you how are you" -ngl 99
        llama-cli -m MODEL -p "Building a website can be done in 10 simple steps:" -n 400 -e \
            -ngl 33 -sm none -mg 0
        llama-completion -m MODEL -no-cnv \
            -p "Building a mobile app can be done in 15 steps:" -n 512""",
    "llama.cpp: docs/multi-gpu.md, backend/snapdragon/README.md": r"""
        llama-cli -m MODEL -ts 3,1
        llama-cli -m MODEL -sm tensor -ctk f16 -ctv f16
        llama-cli --load-mode none -m MODEL -t 4 --ctx-size 8192 --batch-size 128 \
            -ctk q8_0 -ctv q8_0 -fa on -ngl 99 -no-cnv -f text.txt""",
    "llama.cpp: docs/function-calling.md, speculative.md": r"""
        llama-server --jinja -fa -m MODEL
        llama-server -m MODEL --spec-type ngram-simple --spec-draft-n-max 64""",
    "llama.cpp: tools/llama-bench/README.md": r"""
        llama-bench -m MODEL -m MODEL -p 0 -n 128,256,512
        llama-bench -m MODEL -n 0 -p 1024 -b 128,256,512,1024
        llama-bench -m MODEL -ngl 10,20,30,31,32,33,34,35
        llama-bench -m MODEL -d 0,512""",
    "mlx-lm: README.md, SERVER.md": r"""
        mlx_lm.generate --prompt "How tall is Mt Everest?"
        mlx_lm.chat --model MODEL
        mlx_lm.generate --model MODEL --prompt "hello"
        mlx_lm.generate --prompt-cache-file a.safetensors --prompt "\nSummarize the above text."
        mlx_lm.server --model MODEL
        mlx_lm.server --model MODEL --kv-bits 4 --prefill-step-size 512""",
    "ollama: docs/cli.mdx, capabilities/thinking.mdx": r"""
        ollama run MODEL
        ollama run MODEL --think "Where should I visit in Lisbon?"
        echo "Hello world" | ollama run MODEL
        ollama ls""",
}
PORT = 18080
GRAMMAR = 'root ::= "{\\"time\\": \\"" [0-9]+ "pm\\"}"\n'
TEXT = "The sky is blue because air scatters short waves of light. " * 150
ENOUGH = 40  # characters of text, after which Ctrl-C ends it
SECONDS = 60.0


class Outcome(NamedTuple):
    """What became of a line: "as typed", "one note", "refused" or "failed", and what was said."""

    what: str
    said: str


def lines() -> list[tuple[str, str]]:
    """Each line and where it is from."""
    found = []
    for source, text in LINES.items():
        joined = re.sub(r"\\\n\s+", "", text)
        found += [(source, line.strip()) for line in joined.splitlines() if line.strip()]
    return found


def words(line: str, model: str, draft: str) -> tuple[list[str], str | None]:
    """The arguments of `linnet` that it comes to, and what is piped into it."""
    piped = None
    if " | " in line:
        before, line = line.split(" | ")
        piped = shlex.split(before)[1] + "\n"
    program, *rest = shlex.split(line)
    command = [PROGRAMS[program]] if PROGRAMS[program] else []
    return [*command, *({"MODEL": model, "DRAFT": draft}.get(w, w) for w in rest)], piped


def attempt(argv: list[str], piped: str | None, folder: Path) -> Outcome:
    """Run it where somebody would: at a terminal, with Ctrl-C once there is enough."""
    is_server, env = argv[0] == "serve", os.environ | {"PYTHONPATH": str(ROOT)}
    if is_server and "--port" not in argv:
        env["LINNET_ARG_PORT"] = str(PORT)
    import pty  # not for Windows, where tests read the lines above

    terminal, child = pty.openpty()
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "linnet", *argv], cwd=folder, env=env, stdout=out, stderr=err,
            stdin=child if piped is None else subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        if piped is None:
            os.write(terminal, b"Why is the sky blue?\n")
        elif process.stdin:
            process.stdin.write(piped.encode())
            process.stdin.close()
        worked = _watch(process, folder / "out", argv if is_server else None)
        status = _end(process, terminal if piped is None else None)
    os.close(terminal)
    os.close(child)
    said = (folder / "err").read_text()
    if status == 2:
        return Outcome("refused", said.strip().splitlines()[-1])
    noted = re.search(r"^linnet: ignored: .*$", said, re.MULTILINE)
    has_figures = "tok/s" in said  # where an answer has no text
    if not worked and not has_figures and not (folder / "out").read_text().strip():
        return Outcome("failed", " ".join(said.split())[-200:])
    return Outcome("one note" if noted else "as typed", noted[0] if noted else "")


def _watch(process: subprocess.Popen[bytes], out: Path, served: list[str] | None) -> bool:
    """Wait for enough text, or a server that is ready; whether it came."""
    port = served[served.index("--port") + 1] if served and "--port" in served else PORT
    for _ in range(int(SECONDS * 10)):
        if process.poll() is not None:
            return False
        if served is None:
            if len(out.read_text()) > ENOUGH:
                return True
        else:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                return True
            except (urllib.error.URLError, TimeoutError, ConnectionError):
                pass
        time.sleep(0.1)
    return False


def _end(process: subprocess.Popen[bytes], terminal: int | None) -> int:
    """Ctrl-C, and Ctrl-D for what asks for more."""
    for _ in range(3):
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            if terminal is not None:
                os.write(terminal, b"\n\x04")
        try:
            return process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            continue
    process.kill()
    return process.wait()


def main() -> None:
    """A table on stdout."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--draft", metavar="FILE", help="for the line with a draft; default MODEL")
    parser.add_argument("--only", metavar="TEXT", default="", help="lines that contain this")
    given = parser.parse_args()
    model = str(Path(given.model).resolve())
    draft = str(Path(given.draft).resolve()) if given.draft else model
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "json.gbnf").write_text(GRAMMAR)
        (Path(name) / "text.txt").write_text(TEXT)
        for source, line in lines():
            if given.only in line:
                outcome = attempt(*words(line, model, draft), Path(name))
                outcomes[outcome.what] += 1
                said = outcome.said.replace(model, "MODEL").removeprefix("linnet: ")
                print(f"| {source} | `{line}` | {outcome.what} | {said} |", flush=True)
    print(f"\n{sum(outcomes.values())} lines: " + ", ".join(
        f"{n} {what}" for what, n in outcomes.most_common()
    ))  # fmt: skip


if __name__ == "__main__":
    main()

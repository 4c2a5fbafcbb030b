"""Train linnet's model in the box: a 6.8 M-parameter Llama that writes Python-like text.

The text is the source of the standard library of the running interpreter, less its tests and its
tables of data; about one file in forty, chosen by a hash of its path, is held out to measure the
loss. Everything happens on the CPU, and the result is an F32 GGUF file:

    python3.11 -m venv venv
    venv/bin/pip install torch==2.13.0 numpy gguf sentencepiece
    venv/bin/python scripts/train_demo.py --out OUT

OUT then holds tokenizer.model, heldout.txt, checkpoints and demo-F32.gguf. The learning rate warms
up, stays level, and falls to zero over the last 40 % of the steps, so that a run can be stretched
or cut short without starting over: `--resume OUT/step-002000.pt --steps 5000`. With as many steps
as the checkpoint has behind it, nothing is trained, only exported.
"""

import argparse
import hashlib
import math
import sysconfig
import time
from pathlib import Path

import gguf
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from torch import Tensor, nn

VOCAB, WIDTH, LAYERS, HEADS, KV_HEADS, HEAD, HIDDEN = 2048, 256, 8, 4, 2, 64, 768
CONTEXT, ROPE_THETA, NORM_EPS = 512, 10000.0, 1e-5
UNK, BOS, EOS = 0, 1, 2
WARMUP, DECAY = 50, 0.4  # steps, and fraction of all steps
PROMPTS = ("def fibonacci(n):\n", "class ", "import ")

# Folders and files of the standard library that are tests, other people's code or data.
SKIP_FOLDERS = {"site-packages", "test", "tests", "idle_test", "encodings", "pydoc_data"}
SKIP_FILES = {"html/entities.py", "locale.py", "__phello__.foo.py"}
MAX_DIGITS = 0.06  # a file with a greater share of digits is a table


def main() -> None:
    """Read the library, make the vocabulary, train, sample and export."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for everything written")
    parser.add_argument("--steps", type=int, default=3400, help="optimiser steps in all")
    parser.add_argument("--batch", type=int, default=8, help="windows of 512 tokens per step")
    parser.add_argument("--muon-lr", type=float, default=3e-3, help="peak rate of the matrices")
    parser.add_argument("--adam-lr", type=float, default=3e-3, help="peak rate of everything else")
    parser.add_argument("--seed", type=int, default=0, help="what all random choices follow from")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--save-every", type=int, default=250, help="steps per checkpoint")
    parser.add_argument("--resume", type=Path, help="checkpoint to go on from")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)

    train_files, heldout_files = read_library()
    heldout = "".join(heldout_files)
    (args.out / "heldout.txt").write_text(heldout, encoding="utf-8", newline="")
    tokenizer = make_tokenizer(train_files, args.out / "tokenizer.model")
    stream = np.array([t for file in train_files for t in (BOS, *tokenizer.encode(file), EOS)])
    print(
        f"train: {len(train_files)} files, {sum(map(len, train_files))} characters, "
        f"{len(stream)} tokens; held out: {len(heldout_files)} files, "
        f"{len(heldout.encode())} bytes",
        flush=True,
    )

    model = Llama()
    train(model, Windows(stream, tokenizer.piece_to_id("\n"), args.seed), heldout, tokenizer, args)
    for prompt in PROMPTS:
        for temperature in (0.0, 0.8):
            text = generate(model, tokenizer, prompt, 120, temperature)
            print(f"--- {prompt!r} at temperature {temperature}\n{text}", flush=True)
    export(model, tokenizer, args.out / "demo-F32.gguf")


# --- Text and vocabulary ---------------------------------------------------------------------


def read_library() -> tuple[list[str], list[str]]:
    """Return the texts of the files to train on and of those held out, each in order of path."""
    root = Path(sysconfig.get_paths()["stdlib"])
    train_files: list[str] = []
    heldout_files: list[str] = []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if SKIP_FOLDERS & set(name.parts) or name.as_posix() in SKIP_FILES:
            continue
        if name.name.startswith("_sysconfigdata"):
            continue
        try:
            text = path.read_text(encoding="utf-8")  # with universal newlines
        except UnicodeDecodeError:
            continue
        if len(text) < 100 or sum(map(str.isdigit, text)) > MAX_DIGITS * len(text):
            continue
        digest = hashlib.sha256(name.as_posix().encode()).digest()
        (heldout_files if digest[0] < 7 else train_files).append(text.rstrip("\n") + "\n")
    return train_files, heldout_files


def make_tokenizer(files: list[str], path: Path) -> SentencePieceProcessor:
    """Train the vocabulary, unless `path` has it already, and return it.

    A line break is a token of its own, so no piece spans lines, and each line's indentation is
    shown to the trainer apart from the rest, so pieces are indentation or text, not both.
    """
    if not path.exists():
        lines = (line for file in files for line in file.split("\n"))
        parts = (p for s in lines for p in (s[: len(s) - len(s.lstrip(" "))], s.lstrip(" ")) if p)
        SentencePieceTrainer.train(
            sentence_iterator=parts,
            model_prefix=str(path.with_suffix("")),
            model_type="bpe",
            vocab_size=VOCAB,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            character_coverage=0.9999,
            required_chars="$~",
            user_defined_symbols=["\n"],
            max_sentence_length=100_000,
            num_threads=1,
            minloglevel=2,
        )
    return SentencePieceProcessor(model_file=str(path))


class Windows:
    """Training windows: BOS and then 511 tokens from the start of some line.

    Each epoch cuts the stream at every 512th token from a random offset, moves each cut back to
    the start of its line, and shuffles the windows. What a step sees depends on nothing but the
    seed and the step's number, so a resumed run sees what it would have seen.
    """

    def __init__(self, stream: np.ndarray, newline: int, seed: int) -> None:
        self.stream = stream
        self.line_starts = np.flatnonzero((stream[:-1] == newline) | (stream[:-1] == BOS)) + 1
        self.count = len(stream) // CONTEXT - 2
        self.seed = seed

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Return the inputs and the targets of one step."""
        starts = [self.start(i) for i in range(step * size, (step + 1) * size)]
        targets = np.stack([self.stream[s : s + CONTEXT] for s in starts])
        inputs = np.roll(targets, 1, axis=1)
        inputs[:, 0] = BOS
        return torch.from_numpy(inputs), torch.from_numpy(targets)

    def start(self, index: int) -> int:
        """Return where in the stream the window with this number in the whole run begins."""
        epoch, place = divmod(index, self.count)
        rng = np.random.default_rng((self.seed, epoch))
        offset = int(rng.integers(CONTEXT))
        cut = offset + CONTEXT * int(rng.permutation(self.count)[place])
        line = int(np.searchsorted(self.line_starts, cut, side="right")) - 1
        return int(self.line_starts[max(line, 0)])


# --- Model -----------------------------------------------------------------------------------


class Block(nn.Module):
    """One layer: grouped-query attention and a SiLU-gated feed-forward network."""

    def __init__(self) -> None:
        super().__init__()
        self.attn_norm = nn.RMSNorm(WIDTH, eps=NORM_EPS)
        self.attn_q = nn.Linear(WIDTH, HEADS * HEAD, bias=False)
        self.attn_k = nn.Linear(WIDTH, KV_HEADS * HEAD, bias=False)
        self.attn_v = nn.Linear(WIDTH, KV_HEADS * HEAD, bias=False)
        self.attn_output = nn.Linear(HEADS * HEAD, WIDTH, bias=False)
        self.ffn_norm = nn.RMSNorm(WIDTH, eps=NORM_EPS)
        self.ffn_gate = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.ffn_up = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.ffn_down = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Add to the residual stream x what attention and the feed-forward network make of it."""
        n, t, _ = x.shape
        h = self.attn_norm(x)
        q = rotate(self.attn_q(h).view(n, t, HEADS, HEAD), cos, sin).transpose(1, 2)
        k = rotate(self.attn_k(h).view(n, t, KV_HEADS, HEAD), cos, sin).transpose(1, 2)
        v = self.attn_v(h).view(n, t, KV_HEADS, HEAD).transpose(1, 2)
        k, v = (a.repeat_interleave(HEADS // KV_HEADS, dim=1) for a in (k, v))
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_output(h.transpose(1, 2).reshape(n, t, -1))
        h = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h))


class Llama(nn.Module):
    """A plain Llama; its modules have the names of the tensors in a GGUF file."""

    def __init__(self) -> None:
        super().__init__()
        self.token_embd = nn.Embedding(VOCAB, WIDTH)  # and, tied to it, the output matrix
        self.blk = nn.ModuleList(Block() for _ in range(LAYERS))
        self.output_norm = nn.RMSNorm(WIDTH, eps=NORM_EPS)
        rates = ROPE_THETA ** (-torch.arange(0, HEAD, 2) / HEAD)
        angles = torch.arange(CONTEXT)[:, None, None] * rates
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for name, weight in self.named_parameters():
            if name.endswith(("attn_output.weight", "ffn_down.weight")):
                nn.init.zeros_(weight)
            elif weight.ndim == 2:
                nn.init.normal_(weight, std=0.02 if "embd" in name else WIDTH**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of each token's successor."""
        x = self.token_embd(tokens)
        cos, sin = self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]]
        for block in self.blk:
            x = block(x, cos, sin)
        return F.linear(self.output_norm(x), self.token_embd.weight)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each adjacent pair of x's last dimension by its position's angle."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(x.dtype)


# --- Training --------------------------------------------------------------------------------


def train(
    model: Llama,
    windows: Windows,
    heldout: str,
    tokenizer: SentencePieceProcessor,
    args: argparse.Namespace,
) -> None:
    """Train with Muon on the layers' matrices and AdamW on the embedding and the norms."""
    matrices = [p for p in model.blk.parameters() if p.ndim == 2]
    norms = [p for p in model.parameters() if p.ndim == 1]
    groups = [
        {"params": [model.token_embd.weight], "weight_decay": 0.1},
        {"params": norms, "weight_decay": 0.0},
    ]
    optimizers = {
        torch.optim.Muon(matrices, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"): args.muon_lr,
        torch.optim.AdamW(groups, betas=(0.9, 0.95)): args.adam_lr,
    }
    first = 0
    if args.resume:
        saved = torch.load(args.resume)
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        first = saved["step"]

    step_loss = torch.compile(loss_of, dynamic=False)
    mean, began = 0.0, time.monotonic()
    for step in range(first, args.steps):
        for optimizer, peak in optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = peak * schedule(step, args.steps)
        loss = step_loss(model, *windows.batch(step, args.batch))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

        mean += loss.item() / 10
        done = step + 1
        if done % 10 == 0:
            rate = (done - first) * args.batch * CONTEXT / (time.monotonic() - began)
            print(f"step {done}/{args.steps} loss {mean:.4f} {rate:.0f} tokens/s", flush=True)
            mean = 0.0
        if done % args.save_every == 0 and done < args.steps:
            report(f"step {done}", model, heldout, tokenizer)
        if done % args.save_every == 0 or done == args.steps:
            states = [optimizer.state_dict() for optimizer in optimizers]
            path = args.out / f"step-{done:06d}.pt"
            torch.save({"step": done, "model": model.state_dict(), "optimizers": states}, path)
    report("final", model, heldout, tokenizer)


def schedule(step: int, steps: int) -> float:
    """Return the fraction of the peak learning rate: a rise, a plateau, a fall to zero."""
    return min(1.0, (step + 1) / WARMUP, (steps - step) / (DECAY * steps))


def loss_of(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats per token, computed mostly in bfloat16."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(inputs)
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


@torch.no_grad()
def report(label: str, model: Llama, text: str, tokenizer: SentencePieceProcessor) -> None:
    """Print the loss on `text`, cut into windows of 511 tokens that each follow a BOS."""
    tokens = torch.tensor(tokenizer.encode(text))
    nats = 0.0
    for targets in tokens.split(CONTEXT - 1):
        inputs = torch.cat((torch.tensor([BOS]), targets[:-1]))
        nats += F.cross_entropy(model(inputs[None])[0], targets, reduction="sum").item()
    bits = nats / math.log(2) / len(text.encode())
    loss = f"{nats / len(tokens):.4f} nats per token ({len(tokens)} tokens)"
    print(f"{label}: held-out loss {loss}, {bits:.4f} bits per byte", flush=True)


@torch.no_grad()
def generate(
    model: Llama, tokenizer: SentencePieceProcessor, prompt: str, count: int, temperature: float
) -> str:
    """Return the prompt and up to `count` more tokens, the likeliest ones at temperature 0."""
    tokens = [BOS, *tokenizer.encode(prompt)]
    while count > 0 and tokens[-1] != EOS:
        logits = model(torch.tensor([tokens]))[0, -1]
        if temperature == 0:
            token = logits.argmax()
        else:
            token = torch.multinomial((logits / temperature).softmax(-1), 1)
        tokens.append(int(token))
        count -= 1
    return str(tokenizer.decode(tokens))


# --- Export ----------------------------------------------------------------------------------


def export(model: Llama, tokenizer: SentencePieceProcessor, path: Path) -> None:
    """Write the model and its vocabulary to an F32 GGUF file."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("linnet demo")
    writer.add_description("A small Llama trained on the Python standard library's source")
    writer.add_license("MIT")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(VOCAB)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(ROPE_THETA)
    writer.add_layer_norm_rms_eps(NORM_EPS)

    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([tokenizer.id_to_piece(i).encode() for i in range(VOCAB)])
    writer.add_token_scores([tokenizer.get_score(i) for i in range(VOCAB)])
    writer.add_token_types([token_type(tokenizer, i) for i in range(VOCAB)])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_unk_token_id(UNK)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)

    for name, weight in model.state_dict().items():
        writer.add_tensor(name, np.ascontiguousarray(weight.numpy(), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{path}: {path.stat().st_size} bytes")


def token_type(tokenizer: SentencePieceProcessor, token: int) -> int:
    """Return the GGUF type of a token of the vocabulary."""
    if tokenizer.is_unknown(token):
        return gguf.TokenType.UNKNOWN
    if tokenizer.is_control(token):
        return gguf.TokenType.CONTROL
    if tokenizer.is_byte(token):
        return gguf.TokenType.BYTE
    if tokenizer.id_to_piece(token) == "\n":
        return gguf.TokenType.USER_DEFINED
    return gguf.TokenType.NORMAL


if __name__ == "__main__":
    main()

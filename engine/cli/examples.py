"""What the help of each command shows at its end."""

from __future__ import annotations

from typing import Final

EXAMPLES: Final = {
    "generate": (
        'linnet generate model.gguf --raw "Once upon a time" -n 64 --temp 0.7',
        'linnet generate model.gguf "What is a quine?"',
        "git diff | linnet generate model.gguf -sys 'Write a commit message.'",
        "linnet generate model.gguf -jf person.json 'Ann is 31 and lives in Bergen.'",
    ),
    "chat": (
        "linnet chat model.gguf",
        "linnet chat user/model:Q4_K_M -sys 'Answer in one sentence.' --temp 0.3",
        "printf 'Why is the sky blue?\\nAnd at night?\\n' | linnet chat model.gguf",
    ),
    "run": (
        "linnet run model.gguf",
        "linnet run model.gguf -sys 'Be brief.' 'What is a quine?'",
    ),
    "list": ("linnet list",),
    "pull": ("linnet pull user/model:Q4_K_M",),
    "rm": ("linnet rm user/model:Q4_K_M",),
    "serve": (
        "linnet serve model.gguf                   # http://127.0.0.1:8080",
        "linnet serve model.gguf --host 0.0.0.0 --api-key-file keys -np 16",
        'curl localhost:8080/v1/chat/completions -d \'{"messages": [{"role": "user", '
        '"content": "Hi"}]}\'',
    ),
    "batch": (
        "linnet batch in.jsonl out.jsonl -m model.gguf -n 256",
        "linnet batch in.jsonl out-3.jsonl -m model.gguf --shard 3/8",
        "linnet batch in.jsonl out.jsonl -m model.gguf --retry-errors --ordered",
    ),
    "inspect": (
        "linnet inspect model.gguf",
        "linnet inspect model.gguf --check         # looks for NaN and infinity",
        "linnet inspect model.gguf --json          # the same for programs",
    ),
    "tokenize": ('linnet tokenize model.gguf "Hello world"',),
    "quantize": (
        "linnet quantize model-f16.gguf model-q4.gguf Q4_K_M",
        "linnet quantize model-f16.gguf Q3_K_M --imatrix imatrix.gguf",
        "linnet quantize model-f16.gguf IQ4_XS --tensor-type attn_v=Q8_0 --dry-run",
    ),
    "bench": (
        "linnet bench model.gguf -p 512 -n 128 -d 0,8192 -t 1,2",
        "linnet bench --synthetic llama-3.2-1b:Q4_K_M -npl 1,4 -o json",
        "linnet bench --ops Q4_K,attend",
    ),
    "dump": ("linnet dump matvec Q4_K --isa avx2", "linnet dump attend --emit ir"),
    "tune": ("linnet tune", "linnet tune --reset"),
    "perplexity": (
        "linnet perplexity model.gguf -f wiki.test.raw",
        "linnet perplexity big.gguf -f wiki.test.raw --kl-base base.kld",
        "linnet perplexity small.gguf --kl base.kld",
    ),
    "logits": ('linnet logits model.gguf "Once upon" --top 5',),
    "completion": ("source <(linnet completion bash)      # in ~/.bashrc",),
}

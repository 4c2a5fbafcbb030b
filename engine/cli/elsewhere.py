"""Flags of other programs: which of ours they stand for, which have no meaning here, which are not
to be had. One table each; a flag that a command itself has comes before all of them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import Final, NamedTuple

# Optional values of flags as -fa [on|off|auto]; without one of them, the next word is not theirs.
ON_OFF: Final = ("on", "off", "auto", "true", "false", "enabled", "disabled", "1", "0")
OPTIONAL: Final = "[on|off|auto]"

_GENERATE: Final = ("generate", "run")
_COMMAND_LINE: Final = (*_GENERATE, "chat")
_TALK: Final = (*_COMMAND_LINE, "serve")
_HERE: Final = (*_COMMAND_LINE, "perplexity", "logits")
_REQUESTED: Final = ("serve", "batch")
_RUN: Final = (*_HERE, *_REQUESTED)
_ALL: Final = (*_RUN, "tokenize", "bench")
_NO_GPU: Final = "no GPU"
_DRAFTS: Final = "drafts change no answer, and are as many as pay"
_THREADS: Final = "the system places threads"
_MEMORY: Final = "memory is taken as it is needed"
_FILE: Final = "weights are mapped"
_LOG: Final = "there is no such log"
_REQUESTS: Final = "requests share passes and prefixes by themselves"

# Our flags, and how llama.cpp, mlx-lm, vLLM and ollama spell them, some with their value.
_STAND_FOR: Final = {
    "--threads": "-tb --threads-batch",
    "--n-predict": "--max-tokens --max-new-tokens --num-predict",
    "--ctx-size": """
        --max-kv-size --max-model-len --context-size --context-length --n-ctx --num-ctx""",
    "--batch-size": "--prefill-step-size --max-num-batched-tokens",
    "--repeat-penalty": "--repetition-penalty",
    "--spec-draft-model": "--draft-model",
    "--spec-draft-n-max": "--num-draft-tokens --draft-n",
    "--help": "--usage",
    "--chat": "-st --single-turn -cnv --conversation",
    "--raw": "-no-cnv --no-conversation --ignore-chat-template",
    "--json-schema={}": "--format=json",
    "--reasoning=on": "--think --think=true",
    "--reasoning=off": "--think=false",
    "--chat-template-kwargs": """
        --chat-template-config --chat-template-args --default-chat-template-kwargs""",
    "--alias": "--served-model-name",
    "--parallel": "--max-num-seqs --decode-concurrency",
    "--cors-origins": "--allowed-origins",
    "--ui": "--webui",
    "--no-ui": "--no-webui",
}  # fmt: skip
_OURS: Final = {theirs: ours for ours, flags in _STAND_FOR.items() for theirs in flags.split()}

# Commands; how many values; the reason; and the flags that have no meaning for it.
_IGNORED: Final[list[tuple[tuple[str, ...], int | str, str, str]]] = [
    (_ALL, 1, _NO_GPU, """
        -ngl --gpu-layers --n-gpu-layers -sm --split-mode -ts --tensor-split -mg --main-gpu
        -dev --device -ot --override-tensor -ncmoe --n-cpu-moe -ncffn --n-cpu-ffn
        -fitt --fit-target -fitc --fit-ctx -ngld --gpu-layers-draft --n-gpu-layers-draft
        --spec-draft-ngl -devd --device-draft --spec-draft-device -otd --override-tensor-draft
        --spec-draft-override-tensor -ncmoed --n-cpu-moe-draft --spec-draft-n-cpu-moe
        --spec-draft-ncmoe -mmdev --mmproj-device"""),
    (_ALL, 0, _NO_GPU, """
        -cmoe --cpu-moe -cmoed --cpu-moe-draft --spec-draft-cpu-moe -bs --backend-sampling
        --spec-draft-backend-sampling --no-spec-draft-backend-sampling"""),
    (_RUN, 0, _NO_GPU, """
        -kvo --kv-offload -nkvo --no-kv-offload --op-offload --no-op-offload --no-host"""),
    (_ALL, OPTIONAL, _NO_GPU, "-fit --fit -fitp --fit-print"),
    (_ALL, OPTIONAL, "attention is always fused", "-fa --flash-attn"),
    (_ALL, 1, _THREADS, """
        -C --cpu-mask -Cr --cpu-range --cpu-strict --prio --poll -Cb --cpu-mask-batch
        -Crb --cpu-range-batch --cpu-strict-batch --prio-batch --poll-batch --numa
        -Cd --cpu-mask-draft --spec-draft-cpu-mask -Crd --cpu-range-draft --spec-draft-cpu-range
        --cpu-strict-draft --spec-draft-cpu-strict --prio-draft --spec-draft-prio --poll-draft
        --spec-draft-poll -Cbd --cpu-mask-batch-draft --spec-draft-cpu-mask-batch
        -Crbd --cpu-range-batch-draft --spec-draft-cpu-range-batch --cpu-strict-batch-draft
        --spec-draft-cpu-strict-batch --prio-batch-draft --spec-draft-prio-batch
        --poll-batch-draft --spec-draft-poll-batch"""),
    (_RUN, 0, _FILE, "--mmap --mlock -dio --direct-io -ndio --no-direct-io"),
    (_ALL, 1, f"{_FILE}; --no-mmap reads them", "-lm --load-mode -lzm --lazy-mode"),
    (_RUN, 0, "weights stay packed as they are", "--repack -nr --no-repack"),
    (_RUN, 0, "linnet inspect --check does it", "--check-tensors"),
    (_RUN, 0, _MEMORY, "--swa-full -kvu --kv-unified -no-kvu --no-kv-unified"),
    (_RUN, 1, _MEMORY, """
        -dt --defrag-thold -ctxcp --ctx-checkpoints --swa-checkpoints -cms --checkpoint-min-step
        -cram --cache-ram --kv-unified-per-slot"""),
    (_RUN, 0, "no context is ever shifted", "--no-context-shift"),
    (_RUN, 1, "no context is ever shifted", "--keep"),
    (("serve",), 0, "it is warm before it is ready", "--warmup --no-warmup"),
    (_HERE, 0, "there is none", "--warmup --no-warmup"),
    (_ALL, 0, _LOG, """
        --log-disable --log-jsonl --no-log-jsonl --log-prefix --no-log-prefix --log-timestamps
        --no-log-timestamps --log-verbose"""),
    (_ALL, 1, _LOG, "--log-file -lv --verbosity --log-verbosity --log-level --log-prompts-dir"),
    (_ALL, OPTIONAL, _LOG, "--log-colors"),
    (_RUN, 0, "the last line on stderr has the timings", """
        --perf --no-perf --show-timings --no-show-timings"""),
    (_RUN, 0, "linnet tokenize shows a prompt's tokens", "--verbose-prompt"),
    (_RUN, 0, _DRAFTS, "--spec-default"),
    (_RUN, 1, _DRAFTS, """
        -td --threads-draft --spec-draft-threads -tbd --threads-batch-draft
        --spec-draft-threads-batch -ctkd --cache-type-k-draft --spec-draft-type-k
        -ctvd --cache-type-v-draft --spec-draft-type-v --draft-min --draft-n-min
        --spec-draft-n-min --draft-p-min --spec-draft-p-min --draft-p-split --spec-draft-p-split
        -cd --ctx-size-draft --spec-ngram-mod-n-min --spec-ngram-mod-n-max
        --spec-ngram-mod-n-match --spec-ngram-simple-size-n --spec-ngram-simple-size-m
        --spec-ngram-simple-min-hits --spec-ngram-map-k-size-n --spec-ngram-map-k-size-m
        --spec-ngram-map-k-min-hits --spec-ngram-map-k4v-size-n --spec-ngram-map-k4v-size-m
        --spec-ngram-map-k4v-min-hits -lcs --lookup-cache-static -lcd --lookup-cache-dynamic"""),
    (_TALK, 0, "templates are Jinja", "--jinja --no-jinja --use-default-chat-template"),
    (_TALK, 0, "it has a template where its model has one", "-cnv --conversation"),
    (_TALK, 0, "the prompt is continued as it is", """
        -no-cnv --no-conversation --ignore-chat-template"""),
    (_TALK, 0, "a template says what of old reasoning it keeps", """
        --reasoning-preserve --no-reasoning-preserve"""),
    (_TALK, 0, "models have text alone", """
        --mmproj-auto --no-mmproj --no-mmproj-auto --mmproj-offload --no-mmproj-offload"""),
    ((*_COMMAND_LINE, *_REQUESTED), 0, "no code comes with a model", "--trust-remote-code"),
    (_TALK, OPTIONAL, "see NO_COLOR", "-co --color"),
    (_TALK, 0, "terminals and pipes get what each can take", "--simple-io --nowordwrap"),
    (_TALK, 0, "a line that ends with \\ goes on", "-mli --multiline-input"),
    (_TALK, 0, "linnet chat is interactive, generate is not", """
        -i --interactive -if --interactive-first"""),
    (_TALK, 0, "tools are called by clients", """
        -no-ag --no-agent --no-ui-mcp-proxy --no-webui-mcp-proxy"""),
    (_TALK, 1, "a command ends with its model", "--keepalive"),
    (_COMMAND_LINE, 1, "it is one sequence", "-np --parallel"),
    (_GENERATE, 0, "the prompt is shown by default", "--display-prompt"),
    (_COMMAND_LINE, 0, "prompts alone are kept", "--prompt-cache-all"),
    (_GENERATE, 1, "the last line on stderr counts", "-ptc --print-token-count"),
    (_REQUESTED, 0, _REQUESTS, """
        -cb --cont-batching -nocb --no-cont-batching --cache-prompt --no-cache-prompt
        --cache-idle-slots --no-cache-idle-slots --enable-prefix-caching
        --enable-chunked-prefill"""),
    (_REQUESTED, 1, _REQUESTS, """
        --cache-reuse -sps --slot-prompt-similarity --prompt-concurrency"""),
    (("serve",), 1, _MEMORY, """
        --prompt-cache-size --prompt-cache-bytes --sleep-idle-seconds --swap-space"""),
    (("serve",), 0, "embeddings are always served", "--embedding --embeddings"),
    (("serve",), 1, "threads for HTTP are few, and wait for nothing", "--threads-http"),
    (("serve",), 1, "a stream that is quiet has a comment every 15 s", "--sse-ping-interval"),
    (("serve",), 1, "nobody asks for it", "--tags"),
    (("serve",), 1, "the page remembers its own", """
        --ui-config --webui-config --ui-config-file --webui-config-file"""),
    (_REQUESTED, 1, _NO_GPU, """
        --gpu-memory-utilization -tp --tensor-parallel-size -pp --pipeline-parallel-size"""),
    (_REQUESTED, 0, _NO_GPU, "--enforce-eager --pipeline"),
    (_REQUESTED, 1, "weights stay packed as they are", "--dtype"),
    (_REQUESTED, 0, "the chat template tells", "--enable-auto-tool-choice"),
    (_REQUESTED, 1, "the chat template tells", "--tool-call-parser --reasoning-parser"),
    (("bench",), 1, _NO_GPU, """
        -nkvo --no-kv-offload -nopo --no-op-offload --no-host -rpc --rpc"""),
    (("bench",), 1, _FILE, "-mmp --mmap -dio --direct-io"),
    (("bench",), 1, "weights stay packed as they are", "--repack"),
    (("bench",), 1, "tests follow each other at once", "--delay"),
    (("bench",), 0, "a terminal shows it", "--progress"),
    (("quantize",), 1, "one tensor at a time is in memory", "--max-buffer-size"),
    (("perplexity",), 1, "the estimate is the same", "--ppl-output-type"),
]  # fmt: skip

# Flags that would change what comes out, and cannot be had, by what is to be said of them.
_REFUSED: Final = {
    "adapters (LoRA) have to be merged into the model first": """
        --lora --lora-scaled --lora-init-without-apply --adapter-path --enable-lora
        --lora-modules""",
    "nothing is added to a model's states": """
        --control-vector --control-vector-scaled --control-vector-layer-range""",
    "positions are rotated as the model's file says": """
        --rope-scaling --rope-scale --rope-freq-base --rope-freq-scale --yarn-orig-ctx
        --yarn-ext-factor --yarn-attn-factor --yarn-beta-slow --yarn-beta-fast
        -gan --grp-attn-n -gaw --grp-attn-w""",
    "a model is what its file says": "--override-kv --hf-overrides",
    "a full context ends the answer, and nothing of it is dropped; see -c": "--context-shift",
    "models read text alone": """
        --image --audio --video -mm --mmproj -mmu --mmproj-url --image-min-tokens
        --image-max-tokens --video-fps --video-timestamp-interval --video-ffmpeg-dir
        --media-path --mtmd-batch-max-tokens""",
    "--samplers names those there are": "--adaptive-target --adaptive-decay",
    "samplers keep one token, whatever they drop": "--min-tokens-to-keep",
    "a prompt is text; see -f": "-bf --binary-file",
    "the chat template says what is around a message; see --chat-template-file": """
        --in-prefix --in-suffix --in-prefix-bos""",
    "answers are told apart as the chat template has it; see --reasoning-format": """
        --skip-chat-parsing --no-skip-chat-parsing""",
    "an answer begins where the chat template ends": "--prefill-response",
    "a request says so itself: continue_final_message": """
        --prefill-assistant --no-prefill-assistant""",
    "a single turn is linnet generate --chat": "-st --single-turn",
    "reasoning ends in the model's own words": "--reasoning-budget-message",
    "--prompt-cache FILE keeps what a whole prompt takes, which is then given again": """
        --prompt-cache-file""",
    "--prompt-cache reads and writes its file": "--prompt-cache-ro",
    "8 bits are -ctk q8_0 -ctv q8_0": """
        --kv-bits --kv-group-size --quantized-kv-start --kv-cache-dtype""",
    "models come as files, and from the Hugging Face hub": "-dr --docker-repo",
    "linnet completion bash prints it": "--completion-bash",
    "there is no /infill": "--spm-infill",
    "an address has one server": "--reuse-port",
    "-md takes a file": "-hfd -hfrd --hf-repo-draft --spec-draft-hf",
    "--stop ends an answer at any text, control tokens included": "--extra-eos-token",
    "everything runs on this machine": "--rpc --server-base",
    "everything runs on the CPU": "--list-devices",
    "weights are multiplied as the file has them; see linnet quantize": "--quantization",
    "a proxy in front can encrypt": """
        --ssl-key-file --ssl-cert-file --ssl-keyfile --ssl-certfile""",
    "a proxy in front can change paths": "--api-prefix --path --root-path",
    "one process serves one model": """
        --models-dir --models-preset --models-max --models-autoload --no-models-autoload""",
    "linnet list does it": "-cl --cache-list",
    "texts are not ranked": "--rerank --reranking",
    "tools are called by clients": """
        --tools --tools-runtime -ag --agent --mcp-servers-config --mcp-servers-json
        --ui-mcp-proxy --webui-mcp-proxy""",
    "--prompt-cache DIR keeps prefixes": "--slot-save-path",
    "settings change with a restart": "--props",
    "vectors have a length of 1": "--embd-normalize",
    "--cors-origins says whose pages may ask": """
        --cors-methods --cors-headers --cors-credentials --no-cors-credentials""",
    "a text's perplexity is what is measured, and --kl": """
        --hellaswag --hellaswag-tasks --winogrande --winogrande-tasks --multiple-choice
        --multiple-choice-tasks --ppl-stride""",
    "--imatrix takes all that its file has": "--include-weights --exclude-weights",
    "a model keeps its layers": "--prune-layers",
    "there is one output; see -o": "-oe --output-err",
}  # fmt: skip


class Ignored(NamedTuple):
    """A flag without a meaning here."""

    values: int | str  # 0, 1, or OPTIONAL
    reason: str

    def takes(self, value: str) -> bool:
        """Whether this is its value."""
        return self.values == 1 or (self.values == OPTIONAL and value.lower() in ON_OFF)


def ours(flag: str, known: Container[str]) -> str | None:
    """Our flag for another program's, if it is a known one; either may have a value: --a=b."""
    found = _OURS.get(flag)
    return found if found and found.partition("=")[0] in known else None


def ignored(command: str, flag: str) -> Ignored | None:
    for commands, values, reason, flags in _IGNORED:
        if command in commands and flag in flags.split():
            return Ignored(values, reason)
    return None


def refused(flag: str) -> str | None:
    """Why it is not to be had."""
    return next((reason for reason, flags in _REFUSED.items() if flag in flags.split()), None)


def note(given: Iterable[tuple[str, str]]) -> str:
    """One line about ignored flags: as they were given, with the reason where it changes."""
    return "ignored: " + ", ".join(_with_reasons(given))


def _with_reasons(given: Iterable[tuple[str, str]]) -> Iterator[str]:
    by_reason: dict[str, list[str]] = {}
    for flag, reason in given:
        by_reason.setdefault(reason, []).append(flag)
    for reason, flags in by_reason.items():
        yield f"{', '.join(flags)} ({reason})"

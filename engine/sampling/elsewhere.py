"""What vLLM, transformers, mlx-lm and llama-cpp-python call what is ours: errors about such a name
say the one it has here."""

from __future__ import annotations

from typing import Final

ELSEWHERE: Final = {
    "bad_words": "logit_bias, by token id",
    "do_sample": "temperature, which is greedy at 0",
    "eos_token_id": "stop_token_ids",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "guided_json": "json_schema",
    "guided_regex": "regex",
    "max_length": "max_tokens, without the prompt's",
    "max_new_tokens": "max_tokens",
    "mirostat_mode": "mirostat",
    "n": "the prompt, several times in a list",
    "n_predict": "max_tokens",
    "num_return_sequences": "the prompt, several times in a list",
    "repetition_penalty": "repeat_penalty",
    "response_format": "json_schema",
    "sampling_params": "params",
    "skip_special_tokens": "skip_special",
    "stop_strings": "stop",
    "stream": "LLM.stream or LLM.stream_chat",
    "structured_outputs": "json_schema, regex, choice or grammar",
    "temp": "temperature",
    "top_logprobs": "logprobs",
    "typical_p": "typ_p",
    "use_tqdm": "progress",
    "verbose": 'logging.getLogger("linnet")',
}

"""Common chat templates by name, for files that have none: as llama.cpp names and writes them.

Those of most models are a text around each turn; of some, the system prompt goes into the user's
first turn. Neither tools nor reasoning are in them.
"""

from __future__ import annotations

from typing import Final, NamedTuple

_LOOP: Final = """\
{{%- set ns = namespace(system='') -%}}
{{%- for message in messages -%}}
{{%- set content = message.content | trim if message.role in {trims} else message.content -%}}
{{%- if message.role == 'system' -%}}{system}
{{%- elif message.role == 'assistant' -%}}{{{{ {assistant} }}}}
{{%- else -%}}{{{{ {user} }}}}{{%- set ns.system = '' -%}}
{{%- endif -%}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}{{{{ {begin} }}}}{{%- endif -%}}"""


class Turns(NamedTuple):
    """What is written of a user's, the assistant's and a system turn, {} for its content.

    `is_merged`: whether the system turn is written where the content of the user's next one begins.
    `trims`: of which roles white space around contents is left out.
    """

    user: str
    assistant: str
    system: str
    is_merged: bool = False
    trims: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """The template in Jinja."""
        system = f"{{{{ {_written(self.system)} }}}}"
        if self.is_merged:
            system = f"{{%- set ns.system = {_written(self.system)} -%}}"
        return _LOOP.format(
            trims=self.trims, assistant=_written(self.assistant),
            user=_written(self.user, "ns.system ~ content"), system=system,
            begin=repr(self.assistant.partition("{}")[0].rstrip(" ")),
        )  # fmt: skip

    @property
    def end(self) -> str:
        """What is written behind an answer: a model may write it out, for want of such a token."""
        after = self.assistant.partition("{}")[2].strip()
        return after or self.user.partition("{}")[0].strip()


def _written(turn: str, content: str = "content") -> str:
    """An expression in Jinja."""
    before, _, after = turn.partition("{}")
    return " ~ ".join([repr(before), content, repr(after)])


def _same(
    turn: str, user: str = "user", assistant: str = "assistant", system: str = "system",
    trims: tuple[str, ...] = (),
) -> Turns:  # fmt: skip
    """Turns that differ in the name of the ROLE alone."""
    user, assistant, system = (turn.replace("ROLE", name) for name in (user, assistant, system))
    return Turns(user, assistant, system, trims=trims)


_ALL: Final = "user", "assistant", "system"
TEMPLATES: Final = {
    "chatml": _same("<|im_start|>ROLE\n{}<|im_end|>\n"),
    "llama2": Turns("[INST] {} [/INST]", "{}</s>", "{}\n", is_merged=True),
    "llama2-sys": Turns(
        "[INST] {} [/INST]", "{}</s>", "<<SYS>>\n{}\n<</SYS>>\n\n", is_merged=True
    ),
    "llama3": _same("<|start_header_id|>ROLE<|end_header_id|>\n\n{}<|eot_id|>", trims=_ALL),
    "llama4": _same("<|header_start|>ROLE<|header_end|>\n\n{}<|eot|>", trims=_ALL),
    "mistral-v1": Turns(" [INST] {} [/INST]", " {}</s>", "{}\n\n", is_merged=True),
    "mistral-v3": Turns(
        "[INST] {}[/INST]", " {}</s>", "{}\n\n", is_merged=True, trims=("assistant",)
    ),
    "mistral-v3-tekken": Turns("[INST]{}[/INST]", "{}</s>", "{}\n\n", is_merged=True),
    "mistral-v7": Turns("[INST] {}[/INST]", " {}</s>", "[SYSTEM_PROMPT] {}[/SYSTEM_PROMPT]"),
    "mistral-v7-tekken": Turns("[INST]{}[/INST]", "{}</s>", "[SYSTEM_PROMPT]{}[/SYSTEM_PROMPT]"),
    "gemma": Turns(
        "<start_of_turn>user\n{}<end_of_turn>\n", "<start_of_turn>model\n{}<end_of_turn>\n",
        "{}\n\n", is_merged=True, trims=_ALL,
    ),
    "phi3": _same("<|ROLE|>\n{}<|end|>\n"),
    "phi4": _same("<|im_start|>ROLE<|im_sep|>{}<|im_end|>"),
    "zephyr": _same("<|ROLE|>\n{}<|endoftext|>\n"),
    "falcon3": _same("<|ROLE|>\n{}\n"),
    "granite": _same("<|start_of_role|>ROLE<|end_of_role|>{}<|end_of_text|>\n"),
    "command-r": _same(
        "<|START_OF_TURN_TOKEN|><|ROLE_TOKEN|>{}<|END_OF_TURN_TOKEN|>",
        "USER", "CHATBOT", "SYSTEM", trims=_ALL,
    ),
    "deepseek": Turns("### Instruction:\n{}\n", "### Response:\n{}\n<|EOT|>\n", "{}"),
    "deepseek2": Turns("User: {}\n\n", "Assistant: {}<｜end▁of▁sentence｜>", "{}\n\n"),
    "deepseek3": Turns("<｜User｜>{}", "<｜Assistant｜>{}<｜end▁of▁sentence｜>", "{}\n\n"),
    "exaone3": Turns(
        "[|user|]{}\n", "[|assistant|]{}[|endofturn|]\n", "[|system|]{}[|endofturn|]\n",
        trims=_ALL,
    ),
    "openchat": Turns(
        "GPT4 Correct User: {}<|end_of_turn|>", "GPT4 Correct Assistant: {}<|end_of_turn|>",
        "{}<|end_of_turn|>",
    ),
    "vicuna": Turns("USER: {}\n", "ASSISTANT: {}</s>\n", "{}\n\n"),
    "vicuna-orca": Turns("USER: {}\n", "ASSISTANT: {}</s>\n", "SYSTEM: {}\n"),
    "kimi-k2": _same("<|im_ROLE|>ROLE<|im_middle|>{}<|im_end|>"),
    "megrez": _same("<|role_start|>ROLE<|role_end|>{}<|turn_end|>"),
    "bailing": _same("<role>ROLE</role>{}", "HUMAN", "ASSISTANT", "SYSTEM"),
    "minicpm": Turns("<用户>{}<AI>", "{}", "{}", trims=_ALL),
    "seed_oss": _same("<seed:bos>ROLE\n{}<seed:eos>", trims=("assistant",)),
}  # fmt: skip
TEMPLATES["mistral"] = TEMPLATES["mistral-v3"]

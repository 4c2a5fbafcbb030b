"""How models write what they think, say and call: the table of formats.

To add one, give it a line in FORMATS: the markers that tell it in a chat template, and what it is
made of. More specific ones stand before others that have the same markers.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from linnet.engine.chat.formats.calls import Pair
from linnet.engine.chat.formats.gemma import GemmaCalls
from linnet.engine.chat.formats.harmony import Harmony
from linnet.engine.chat.formats.json_calls import JsonCalls
from linnet.engine.chat.formats.parameter_calls import ParameterCalls
from linnet.engine.chat.formats.parts import Format
from linnet.engine.chat.formats.pythonic import PythonicCalls
from linnet.engine.chat.formats.tagged import Tagged

CHANNELS: Final = Harmony()
REASONING: Final[tuple[Pair, ...]] = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"),
    ("<mm:think>", "</mm:think>"),
    ("<thinking>", "</thinking>"),
)
THINK: Final = REASONING[0]
OBJECT, LIST, JSON = r"(?=\{)", r"(?=\[)", r"(?=[{\[])"  # where one begins


class Entry(NamedTuple):
    """A line of the table. `signs`: markers that a template spells, all of them."""

    signs: tuple[str, ...]
    format: Format


QWEN_XML: Final = ParameterCalls(
    openers=("<tool_call>", "<function="), inner=("</tool_call>",),
    forms=("<tool_call>{_}<function={name}>{_}{arguments}</function>{_}</tool_call>",),
    tags=("<parameter={key}>\n", "\n</parameter>"),
    header=r"(?:<tool_call>\s*)?<function=(?P<name>[^>\n]+)>",
    parameter=r"<parameter=(?P<key>[^>\n]+)>\n?", close=r"\n?</parameter>",
    end=r"(?:</function>\s*)?</tool_call>",
)  # fmt: skip
SEED_XML: Final = ParameterCalls(
    openers=("<seed:tool_call>",), inner=("</seed:tool_call>",),
    forms=("<seed:tool_call>{_}<function={name}>{_}{arguments}</function>{_}</seed:tool_call>",),
    tags=("<parameter={key}>", "</parameter>"),
    header=r"<seed:tool_call>\s*<function=(?P<name>[^>\n]+)>",
    parameter=r"<parameter=(?P<key>[^>\n]+)>", close=r"</parameter>",
    end=r"</function>\s*</seed:tool_call>",
)  # fmt: skip
GLM_XML: Final = ParameterCalls(
    openers=("<tool_call>",), inner=("</tool_call>",),
    forms=("<tool_call>{name}\n{arguments}</tool_call>",),
    tags=("<arg_key>{key}</arg_key>\n<arg_value>", "</arg_value>"),
    header=r"<tool_call>\s*(?P<name>[^\s<]+)(?=\s*<)",
    parameter=r"<arg_key>(?P<key>.*?)</arg_key>\s*<arg_value>", close=r"</arg_value>",
    end=r"</tool_call>",
)  # fmt: skip
MINIMAX_XML: Final = ParameterCalls(
    section=(("<minimax:tool_call>", "</minimax:tool_call>"),), openers=("<invoke ",),
    forms=('<invoke name="{name}">{_}{arguments}</invoke>',),
    tags=('<parameter name="{key}">', "</parameter>"),
    header=r"""<invoke name=["']?(?P<name>[^"'>]+)["']?>""",
    parameter=r"""<parameter name=["']?(?P<key>[^"'>]+)["']?>""", close=r"</parameter>",
    end=r"</invoke>",
)  # fmt: skip
DSML: Final = ParameterCalls(
    section=tuple(
        (f"<｜DSML｜{name}>", f"</｜DSML｜{name}>")
        for name in ("tool_calls", "function_calls", " calls")
    ),
    openers=("<｜DSML｜invoke ", "<｜DSML｜ invoke "),
    forms=('<｜DSML｜invoke name="{name}">{_}{arguments}</｜DSML｜invoke>',),
    tags=('<｜DSML｜parameter name="{key}" string="{is_text}">', "</｜DSML｜parameter>"),
    words=("true", "false"),
    header=r'<｜DSML｜ ?invoke name="(?P<name>[^"]+)"\s*(?P<empty>/)?>',
    parameter=r'<｜DSML｜ ?parameter name="(?P<key>[^"]+)"'
    r'(?: string="(?P<is_text>true|false)")?\s*>',
    close=r"</｜DSML｜ ?parameter>", end=r"</｜DSML｜ ?invoke>",
)  # fmt: skip
XTML: Final = ParameterCalls(
    has_entities=True,
    section=(("<|open|>tools<|sep|>", "<|close|>tools<|sep|>"),), openers=("<|open|>call ",),
    forms=('<|open|>call tool="{name}"<|sep|>{arguments}<|close|>call<|sep|>',),
    tags=('<|open|>argument key="{key}" type="{is_text}"<|sep|>', "<|close|>argument<|sep|>"),
    words=("string", "json"),
    header=r'<\|open\|>call tool="(?P<name>[^"]+)"[^<]*<\|sep\|>',
    parameter=r'<\|open\|>argument key="(?P<key>[^"]+)"'
    r'(?: type="(?P<is_text>[^"]+)")?[^<]*<\|sep\|>',
    close=r"<\|close\|>argument<\|sep\|>", end=r"<\|close\|>call<\|sep\|>",
)  # fmt: skip
HERMES: Final = JsonCalls(
    openers=("<tool_call>",), inner=("</tool_call>",), header=r"<tool_call>\s*" + JSON,
    forms=("<tool_call>{_}{call}{_}</tool_call>", "<tool_call>{_}{calls}{_}</tool_call>"),
    closer=r"</tool_call>",
)  # fmt: skip
MISTRAL: Final = JsonCalls(
    openers=("[TOOL_CALLS]",), inner=("[CALL_ID]", "[ARGS]"),
    forms=("[TOOL_CALLS]{name}[ARGS]{arguments}", "[TOOL_CALLS]{calls}"),
    header=r"\[TOOL_CALLS\]\s*(?:(?P<name>[^\s\[{]+)\s*(?:\[CALL_ID\][^\[]*)?(?:\[ARGS\])?\s*"
    rf"{OBJECT}|{LIST})",
)  # fmt: skip
DEEPSEEK: Final = JsonCalls(
    section=(("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),),
    openers=("<｜tool▁call▁begin｜>",), inner=("<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
    forms=(
        "<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>",
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{arguments}\n```"
        "<｜tool▁call▁end｜>",
    ),
    header=r"<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>)?\s*(?P<name>[^\n<]+?)\s*"
    rf"(?:<｜tool▁sep｜>|\n```json)\s*{OBJECT}",
    closer=r"(?:\s*```)?\s*<｜tool▁call▁end｜>",
)  # fmt: skip
KIMI: Final = JsonCalls(
    section=(("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),),
    openers=("<|tool_call_begin|>",),
    inner=("<|tool_call_argument_begin|>", "<|tool_call_end|>"),
    forms=("<|tool_call_begin|>functions.{name}:{n}<|tool_call_argument_begin|>{arguments}"
           "<|tool_call_end|>",),
    header=r"<\|tool_call_begin\|>\s*(?:functions\.)?(?P<name>[^\s<]+?)(?::\d+)?\s*"
    rf"<\|tool_call_argument_begin\|>\s*{OBJECT}",
    closer=r"\s*<\|tool_call_end\|>",
)  # fmt: skip
LLAMA_JSON: Final = JsonCalls(
    openers=("<|python_tag|>",), header=r"(?:<\|python_tag\|>)?\s*" + OBJECT, bare="{",
    forms=("{call}", "<|python_tag|>{call}"), keys=("name", "parameters"),
)  # fmt: skip
LLAMA_PYTHONIC: Final = PythonicCalls(
    openers=("<|python_start|>",), inner=("<|python_end|>",), header=r"(?:<\|python_start\|>)?",
    closer=r"<\|python_end\|>", bare="[", forms=("<|python_start|>{calls}<|python_end|>",),
)  # fmt: skip
LFM2: Final = PythonicCalls(
    openers=("<|tool_call_start|>",), inner=("<|tool_call_end|>",), header=r"<\|tool_call_start\|>",
    closer=r"<\|tool_call_end\|>", forms=("<|tool_call_start|>{calls}<|tool_call_end|>",),
)  # fmt: skip
GRANITE: Final = JsonCalls(
    openers=("<|tool_call|>",), header=r"<\|tool_call\|>\s*" + LIST,
    forms=("<|tool_call|>{calls}",),
)  # fmt: skip
PHI: Final = JsonCalls(
    openers=("<|tool_call|>",), inner=("<|/tool_call|>",), header=r"<\|tool_call\|>\s*" + LIST,
    closer=r"<\|/tool_call\|>", forms=("<|tool_call|>{calls}<|/tool_call|>",),
)  # fmt: skip
COMMAND: Final = JsonCalls(
    openers=("<|START_ACTION|>",), inner=("<|END_ACTION|>",),
    header=r"<\|START_ACTION\|>\s*" + LIST, closer=r"<\|END_ACTION\|>",
    forms=("<|START_ACTION|>{_}{calls}{_}<|END_ACTION|>",),
    keys=("tool_call_id", "tool_name", "parameters"),
)  # fmt: skip
FUNCTIONARY: Final = JsonCalls(
    openers=("<function=",), inner=("</function>",),
    header=r"<function=(?P<name>[^>\n]+)>\s*" + OBJECT, closer=r"</function>",
    forms=("<function={name}>{arguments}</function>",),
)  # fmt: skip
NEMOTRON: Final = JsonCalls(
    openers=("<TOOLCALL>",),
    inner=("</TOOLCALL>",),
    header=r"<TOOLCALL>\s*" + LIST,
    closer=r"</TOOLCALL>",
    forms=("<TOOLCALL>{calls}</TOOLCALL>",),
)

FORMATS: Final[dict[str, Entry]] = {
    "harmony": Entry(("<|channel|>", "<|message|>"), CHANNELS),
    "gemma4": Entry(
        ("<|tool_call>",),
        Tagged(reasoning=("<|channel>thought", "<channel|>"), calls=GemmaCalls()),
    ),
    "kimi-k3": Entry(
        ("<|open|>", "<|close|>"),
        Tagged(
            reasoning=("<|open|>think<|sep|>", "<|close|>think<|sep|>"), calls=XTML,
            ends_reasoning=("<|open|>response<|sep|>",),
            dropped=("<|open|>response<|sep|>", "<|close|>response<|sep|>",
                     "<|close|>message<|sep|>"),
        ),
    ),
    "kimi-k2": Entry(("<|tool_calls_section_begin|>",), Tagged(reasoning=THINK, calls=KIMI)),
    "deepseek-v3.2": Entry(("｜DSML｜",), Tagged(reasoning=THINK, calls=DSML)),
    "deepseek": Entry(("<｜tool▁call▁begin｜>",), Tagged(reasoning=THINK, calls=DEEPSEEK)),
    "mistral": Entry(("[TOOL_CALLS]",), Tagged(reasoning=REASONING[1], calls=MISTRAL)),
    "glm": Entry(("<arg_key>", "<tool_call>"), Tagged(reasoning=THINK, calls=GLM_XML)),
    "minimax": Entry(("<minimax:tool_call>",), Tagged(reasoning=THINK, calls=MINIMAX_XML)),
    "seed": Entry(("<seed:tool_call>",), Tagged(reasoning=REASONING[3], calls=SEED_XML)),
    "qwen-xml": Entry(
        ("<tool_call>", "<function="),
        Tagged(reasoning=THINK, calls=QWEN_XML, ends_reasoning=QWEN_XML.openers),
    ),
    "hermes": Entry(("<tool_call>",), Tagged(reasoning=THINK, calls=HERMES)),
    "command": Entry(
        ("<|START_ACTION|>",),
        Tagged(
            reasoning=REASONING[2], calls=COMMAND,
            dropped=("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
        ),
    ),
    "lfm2": Entry(("<|tool_call_start|>",), Tagged(reasoning=THINK, calls=LFM2)),
    "phi": Entry(("<|tool_call|>", "<|/tool_call|>"), Tagged(calls=PHI)),
    "granite": Entry(("<|tool_call|>",), Tagged(reasoning=THINK, calls=GRANITE)),
    "nemotron": Entry(("<TOOLCALL>",), Tagged(reasoning=THINK, calls=NEMOTRON)),
    "llama4": Entry(("<|python_start|>",), Tagged(calls=LLAMA_PYTHONIC)),
    "functionary": Entry(("<function=", "</function>"), Tagged(calls=FUNCTIONARY)),
    "llama3": Entry(("<|python_tag|>",), Tagged(calls=LLAMA_JSON)),
}  # fmt: skip

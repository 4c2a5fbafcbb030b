"""A tool that the model has to call."""

import json
import sys

from llama_cpp import Llama

tools = [
    {
        "type": "function",
        "function": {
            "name": "set_light",
            "description": "Switch a light.",
            "parameters": {
                "type": "object",
                "properties": {"room": {"enum": ["hall", "attic"]}, "on": {"type": "boolean"}},
                "required": ["room", "on"],
                "additionalProperties": False,
            },
        },
    }
]
llm = Llama(model_path=sys.argv[1], n_ctx=2048, verbose=False)
response = llm.create_chat_completion(
    messages=[{"role": "user", "content": "Light in the hall, please."}],
    tools=tools,
    tool_choice={"type": "function", "function": {"name": "set_light"}},
    max_tokens=512,
)
message = response["choices"][0]["message"]
for call in message["tool_calls"]:
    print(call["function"]["name"], call["function"]["arguments"])
    assert json.loads(call["function"]["arguments"])["room"] in ("hall", "attic")

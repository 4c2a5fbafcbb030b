"""JSON by a schema: as response_format of a chat, and as a grammar of a completion."""

import json
import sys

from llama_cpp import Llama, LlamaGrammar

schema = {
    "type": "object",
    "properties": {"team": {"enum": ["red", "blue"]}, "won": {"type": "boolean"}},
    "required": ["team", "won"],
    "additionalProperties": False,
}
llm = Llama(model_path=sys.argv[1], n_ctx=512, chat_format=None, verbose=False)
response = llm.create_chat_completion(
    messages=[
        {"role": "system", "content": "You answer in JSON."},
        {"role": "user", "content": "Who won the world series in 2020?"},
    ],
    response_format={"type": "json_object", "schema": schema},
    temperature=0.7,
    max_tokens=64,
)
answers = [response["choices"][0]["message"]["content"]]
grammar = LlamaGrammar.from_json_schema(json.dumps(schema))
answers.append(llm("The result: ", grammar=grammar, max_tokens=64)["choices"][0]["text"])
for answer in answers:
    print(answer)
    assert json.loads(answer)["team"] in ("red", "blue")

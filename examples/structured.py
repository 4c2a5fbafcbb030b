"""Answers in a shape: structured.py [MODEL]   (pip install "linnet-llm[structured]")"""

import json
import sys

from linnet import LLM

CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "river": {"enum": ["Seine", "Thames", "Tiber"]},
        "capital": {"type": "boolean"},
    },
    "required": ["city", "river", "capital"],
    "additionalProperties": False,
}


def main(model: str | None = None) -> None:
    with LLM(model) as llm:
        output = llm.generate("Paris as JSON: ", json_schema=CITY, max_tokens=100, temperature=0)
        if output.finish_reason == "stop":  # or else max_tokens has cut it
            print(json.loads(output.text))
        print(llm.generate("Is Rome in Italy? ", choice=["yes", "no"], temperature=0).text)
        print(llm.generate("Founded in ", regex="[0-9]{3,4} (BC|AD)", temperature=0).text)


if __name__ == "__main__":
    main(*sys.argv[1:])

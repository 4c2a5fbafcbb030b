"""Python functions that the model may call: tools.py MODEL

The model needs a chat template with tools in it, as those of Qwen and Llama 3 have.
"""

import sys

from linnet import LLM


def temperature(city: str, unit: str = "celsius") -> str:
    """The temperature in a city.

    Args:
        city: its name, without the country
        unit: celsius or fahrenheit
    """
    print(f"(asked for {city})")
    return {"celsius": "21", "fahrenheit": "70"}[unit]


def main(model: str) -> None:
    with LLM(model) as llm:
        question = {"role": "user", "content": "How warm is it in Bergen?"}
        output = llm.chat([question], tools=[temperature], run_tools=True, max_tokens=256)
        print(output.content)


if __name__ == "__main__":
    main(*sys.argv[1:])

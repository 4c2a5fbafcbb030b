"""A server asked by OpenAI's client: openai_client.py [URL]   (pip install openai)

First, in another terminal: linnet serve -m model.gguf
"""

import sys

from openai import OpenAI


def main(url: str = "http://localhost:8080/v1") -> None:
    client = OpenAI(base_url=url, api_key="none")
    stream = client.chat.completions.create(
        model="any",
        messages=[{"role": "user", "content": "Tell a joke."}],
        max_tokens=32,
        stream=True,
    )
    for chunk in stream:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()


if __name__ == "__main__":
    main(*sys.argv[1:])

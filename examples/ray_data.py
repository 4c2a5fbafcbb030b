"""A table of prompts, answered by the processes of a Ray cluster: ray_data.py [MODEL]"""

import sys

import ray

from linnet.batch import Predictor

PROMPTS = ["def add(a, b):", "class Stack:", "import", "for i in range(", "# The number of"]
THREADS = 1  # of each process


def main(model: str | None = None) -> None:
    # One CPU is left to Ray Data's own tasks, which would wait for ever for it.
    n_workers = max(1, int(ray.cluster_resources()["CPU"]) // THREADS - 1)
    table = ray.data.from_items([{"prompt": prompt} for prompt in PROMPTS])
    answered = table.map_batches(
        Predictor,
        fn_constructor_args=(model,),
        fn_constructor_kwargs={"n_threads": THREADS, "max_tokens": 16, "temperature": 0},
        batch_size=64,
        num_cpus=THREADS,
        compute=ray.data.ActorPoolStrategy(size=n_workers),
    )
    for row in answered.iter_rows():
        print(f"{row['prompt']!r} -> {row['error'] or row['text']!r}")


if __name__ == "__main__":
    ray.init()  # here, or wherever RAY_ADDRESS says
    main(*sys.argv[1:])

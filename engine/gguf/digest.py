"""A digest of a model, to tell what was computed with it from what was computed with another."""

from __future__ import annotations

import hashlib

import numpy as np

from linnet.engine.gguf.reader import GGUFFile

EVERY, LINE = 1 << 18, 64  # bytes: of so many, the first so many are looked at
IGNORED = "tokenizer.", "general.", "split."  # keys that say nothing of how it computes


def model_digest(file: GGUFFile) -> str:
    """SHA-256, in hex, of the keys that say how the model computes, of names, types and shapes of
    its tensors, and of samples of their data: 64 bytes in 256 KiB, and the last 64 of each.

    So it takes milliseconds, where all the data would take seconds. Training, merging or quantising
    changes weights everywhere; a file in which someone has changed a few by hand may look the same.
    """
    digest = hashlib.sha256()
    for key in sorted(file.metadata):
        if key == "general.architecture" or not key.startswith(IGNORED):
            value = file.metadata[key]
            plain = value.tolist() if isinstance(value, np.ndarray) else value
            digest.update(repr((key, plain)).encode())
    for name, tensor in file.tensors.items():
        digest.update(repr((name, tensor.type.name, tensor.shape)).encode())
        n_whole = len(tensor.data) // EVERY
        samples = tensor.data[: n_whole * EVERY].reshape(n_whole, EVERY)[:, :LINE]
        digest.update(samples.tobytes() + tensor.data[n_whole * EVERY :][:LINE].tobytes())
        digest.update(tensor.data[-LINE:].tobytes())
    return digest.hexdigest()

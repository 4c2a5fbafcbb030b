"""Write a GGUF file of a real model's shapes with random packed weights, to measure speed with.

usage: python scripts/synthetic.py llama-3.2-1b:Q4_K_M OUT.gguf [--vocab 32000] [--layers 4]

Every engine can load it; what it says is noise. `linnet bench --synthetic llama-3.2-1b:Q4_K_M`
measures the same model without a file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf

from linnet.engine.measure.synthetic import SHAPES, SyntheticModel, synthetic_model
from linnet.kernels.quants import WEIGHT_TYPES

BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help=f"SHAPE:TYPE; shapes: {', '.join(SHAPES)}")
    parser.add_argument("out", type=Path)
    parser.add_argument("--vocab", type=int, metavar="N", help="tokens, instead of the shape's own")
    parser.add_argument("--layers", type=int, metavar="N", help="instead of the shape's own")
    arguments = parser.parse_args()
    try:
        model = synthetic_model(arguments.model, n_vocab=arguments.vocab, n_layers=arguments.layers)
    except ValueError as error:
        parser.error(str(error))
    write(arguments.out, model)


def write(path: Path, model: SyntheticModel) -> None:
    """Write `path`, with a SentencePiece vocabulary of bytes and invented words."""
    architecture = str(model.metadata["general.architecture"])
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in model.metadata.items():
        if key == "general.architecture":  # written already
            continue
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_float32(key, value)
    n_vocab = int(model.metadata[f"{architecture}.vocab_size"])
    tokens = ["<unk>", "<s>", "</s>", *BYTE_TOKENS]
    tokens += [f"t{i}" for i in range(len(tokens), n_vocab)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(n_vocab)])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (n_vocab - 259))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, tensor in model.tensors.items():
        raw_dtype = gguf.GGMLQuantizationType[tensor.type.name]
        row_bytes = WEIGHT_TYPES[tensor.type.name].row_bytes(tensor.shape[-1])
        data = tensor.data.reshape(*tensor.shape[:-1], row_bytes)
        writer.add_tensor(name, data, raw_dtype=raw_dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()

"""A product with packed weights, without a model around it: packed_matrix.py [MODEL] [TENSOR]"""

import sys

import numpy as np

from linnet import GGUFFile, PackedMatrix
from linnet.engine.open_model import DEMO_MODEL
from linnet.kernels.quants import WEIGHT_TYPES


def main(model: str = str(DEMO_MODEL), name: str = "blk.0.ffn_up.weight") -> None:
    tensor = GGUFFile(model).tensors[name]
    type = WEIGHT_TYPES[tensor.type.name]
    packed = tensor.data.reshape(tensor.shape[0], -1)  # u8 (n_out, row_bytes), as in the file
    matrix = PackedMatrix(type, packed)
    x = np.random.default_rng(1).standard_normal((4, matrix.n_columns), np.float32)
    found, expected = matrix.matmul(x), x @ type.dequantize(packed).T
    error = np.square(found - expected).sum() / np.square(expected).sum()
    print(f"{name}: {tensor.type.name} {tensor.shape}, {packed.nbytes:,} bytes")
    print(f"x {x.shape} @ weights.T = {found.shape}, NMSE {error:.1e}: activations are int8")


if __name__ == "__main__":
    main(*sys.argv[1:])

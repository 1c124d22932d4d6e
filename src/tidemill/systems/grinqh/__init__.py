"""Weights stored once in nested bits; each token's input decides how many of them it reads.

The paper (GRINQH, arXiv, announced 2026-06-22) takes the size of an activation as a proxy for what
matters. In decoding, which is bound by memory, channels of the weights are read at different
precision, chosen anew for every token; precision 0 skips a channel, so quantisation and
sparsification are one scheme, and a nested layout serves all widths from one copy. Prefill reads
the widest level.

    from tidemill.systems.grinqh import GradedMatrix, NativeMatrix, Threads
    matrix = GradedMatrix.quantise(weight)  # (outputs, inputs)
    native = NativeMatrix(matrix)
    y = native.apply(x, native.select(x, bits=2.5), Threads(2))

A torch model: ``from tidemill.systems.grinqh.linear import quantize``, then
``quantize(model).set_bits(decode=2.5)``.
"""

from tidemill.systems.grinqh.codebook import LEVELS, Codebook
from tidemill.systems.grinqh.graded_matrix import GradedMatrix
from tidemill.systems.grinqh.kernels import NativeMatrix, Threads

__all__ = ["LEVELS", "Codebook", "GradedMatrix", "NativeMatrix", "Threads"]

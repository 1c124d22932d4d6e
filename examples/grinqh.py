"""Grade one real matrix and read it at several widths, each token where its input asks for it."""

import numpy as np

from tidemill.systems.grinqh import GradedMatrix, NativeMatrix, Selector, Threads
from tidemill.systems.grinqh.workloads import projection

sample = projection()  # 1,024 outputs of a layer of Qwen2.5-Coder-0.5B, and its inputs
matrix = GradedMatrix.quantise(sample.weight)
native, threads = NativeMatrix(matrix), Threads(2)
selector = Selector(np.square(sample.weight).sum(axis=0))
exact = sample.test @ sample.weight.T

print(f"stored once: {matrix.stored_bits:.2f} bits a weight, {matrix.outliers} of them exact")
for bits in (2.0, 2.5, 3.0, 4.0, 6.0):
    levels = selector.within(sample.test, bits)  # (tokens, channels): 0, 2, 3, 4 or 6 bits
    errors = []
    uniform = np.full_like(levels, int(bits)) if bits in (2, 3, 4) else levels
    for chosen in (levels, uniform):
        y = native.apply(sample.test, chosen, threads)
        errors.append(np.linalg.norm(y - exact) / np.linalg.norm(exact))
    alike = f"{errors[1]:.3f} if all alike, " if bits in (2, 3, 4) else ""
    print(f"{bits:.1f} bits: error {errors[0]:.3f}, {alike}{(levels == 0).mean():.0%} skipped")

// From the bytes of a GGUF tensor to a matrix that multiplies, without a second quantisation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "linear.hpp"
#include "storage.hpp"

namespace tidemill::models {

// Numbers as in GGML's files.
enum class GGMLType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBF16 = 30,
};

// Copies and rearranges, on all threads of the pool, and forgets what it has read as it goes, so
// that a matrix is never resident twice. Throws std::invalid_argument when the type cannot be
// packed, a size is 0 or not whole blocks, or `raw` is not rows * cols of that type.
std::shared_ptr<Linear> pack_linear(GGMLType type, size_t rows, size_t cols, const RawBytes& raw,
                                    Pool& pool);

// Rows of bf16, fp16 or fp32 as they are; what pack_linear calls for these types.
std::shared_ptr<Linear> pack_floats(GGMLType type, size_t rows, size_t cols, const RawBytes& raw,
                                    Pool& pool);

}  // namespace tidemill::models

// Matrices of fp32, fp16 or bf16: 8 rows interleaved, rows in lanes, so that a sum runs along the
// columns in four strands (column % 4), added pairwise at the end.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "layout.hpp"
#include "repack.hpp"

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace tidemill::models {

namespace {

constexpr size_t kStrands = 4;
constexpr size_t kGroupsPerTask = 8;
constexpr size_t kTasks = 128;

// Of each: the type in the file and in memory, and its value as a float, always exact.
struct F32 {
  using Stored = float;
  static float open(float value) { return value; }
#ifdef __AVX2__
  static __m256 load(const float* at) { return _mm256_loadu_ps(at); }
#endif
};
struct F16 {
  using Stored = uint16_t;
  static float open(uint16_t bits) { return half_to_float(bits); }
#ifdef __AVX2__
  static __m256 load(const uint16_t* at) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
  }
#endif
};
struct BF16 {
  using Stored = uint16_t;
  static float open(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }
#ifdef __AVX2__
  static __m256 load(const uint16_t* at) {
    const __m128i eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(eight), 16));
  }
#endif
};

template <class T>
class FloatLinear final : public Linear {
  using Stored = typename T::Stored;

 public:
  FloatLinear(size_t rows, size_t cols)
      : rows_(rows),
        cols_(cols),
        groups_((rows + kRows - 1) / kRows),
        groups_per_task_(std::max(kGroupsPerTask, groups_ / kTasks)),
        weights_(allocate_weights(bytes())) {}

  size_t rows() const override { return rows_; }
  size_t cols() const override { return cols_; }
  size_t bytes() const override { return groups_ * kRows * cols_ * sizeof(Stored); }
  bool wants_codes() const override { return false; }
  size_t tasks() const override { return (groups_ + groups_per_task_ - 1) / groups_per_task_; }

  void multiply(size_t task, const Activations& x, const Plan*, float* y,
                size_t ldy) const override {
    const size_t begin = task * groups_per_task_;
    for (size_t group = begin; group < std::min(begin + groups_per_task_, groups_); ++group)
      for (size_t token = 0; token < x.tokens(); ++token) {
        float sums[kRows];
        dot(group_at(group), x.row(token), sums);
        const size_t row = group * kRows;
        std::copy_n(sums, std::min(kRows, rows_ - row), y + token * ldy + row);
      }
  }

  void unpack(size_t first, size_t count, float* out) const override {
    for (size_t row = first; row < first + count; ++row)
      for (size_t column = 0; column < cols_; ++column)
        *out++ = T::open(group_at(row / kRows)[column * kRows + row % kRows]);
  }

  void fill(const RawBytes& raw, Pool& pool) {
    const size_t row_bytes = cols_ * sizeof(Stored);
    pool.run(groups_, [&](unsigned, size_t group) {
      const size_t first = group * kRows, last = std::min(rows_, first + kRows);
      for (size_t row = first; row < last; ++row)
        for (size_t column = 0; column < cols_; ++column)
          std::memcpy(group_at(group) + column * kRows + row % kRows,
                      raw.data + row * row_bytes + column * sizeof(Stored), sizeof(Stored));
      forget(raw, first * row_bytes, (last - first) * row_bytes);
    });
  }

 private:
  Stored* group_at(size_t group) const {
    return reinterpret_cast<Stored*>(weights_.get()) + group * kRows * cols_;
  }

#ifdef __AVX2__
  void dot(const Stored* group, const float* x, float (&out)[kRows]) const {
    __m256 sums[kStrands];
    for (__m256& sum : sums) sum = _mm256_setzero_ps();
    size_t column = 0;
    for (; column + kStrands <= cols_; column += kStrands)
      for (size_t s = 0; s < kStrands; ++s)
        sums[s] = _mm256_fmadd_ps(T::load(group + (column + s) * kRows),
                                  _mm256_set1_ps(x[column + s]), sums[s]);
    for (size_t s = 0; column < cols_; ++column, ++s)
      sums[s] =
          _mm256_fmadd_ps(T::load(group + column * kRows), _mm256_set1_ps(x[column]), sums[s]);
    _mm256_storeu_ps(
        out, _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3])));
  }
#else
  void dot(const Stored* group, const float* x, float (&out)[kRows]) const {
    float sums[kStrands][kRows] = {};
    for (size_t column = 0; column < cols_; ++column)
      for (size_t row = 0; row < kRows; ++row) {
        float& sum = sums[column % kStrands][row];
        sum = std::fma(T::open(group[column * kRows + row]), x[column], sum);
      }
    for (size_t row = 0; row < kRows; ++row)
      out[row] = (sums[0][row] + sums[1][row]) + (sums[2][row] + sums[3][row]);
  }
#endif

  size_t rows_, cols_, groups_, groups_per_task_;
  std::shared_ptr<uint8_t> weights_;
};

template <class T>
std::shared_ptr<Linear> pack(size_t rows, size_t cols, const RawBytes& raw, Pool& pool) {
  const size_t wanted = rows * cols * sizeof(typename T::Stored);
  if (raw.size != wanted)
    throw std::invalid_argument("raw holds " + std::to_string(raw.size) + " bytes, the matrix " +
                                std::to_string(wanted));
  auto matrix = std::make_shared<FloatLinear<T>>(rows, cols);
  matrix->fill(raw, pool);
  return matrix;
}

}  // namespace

std::shared_ptr<Linear> pack_floats(GGMLType type, size_t rows, size_t cols, const RawBytes& raw,
                                    Pool& pool) {
  if (type == GGMLType::kF32) return pack<F32>(rows, cols, raw, pool);
  if (type == GGMLType::kF16) return pack<F16>(rows, cols, raw, pool);
  if (type == GGMLType::kBF16) return pack<BF16>(rows, cols, raw, pool);
  throw std::invalid_argument("GGML type " + std::to_string(static_cast<uint32_t>(type)) +
                              " is not one of floats");
}

}  // namespace tidemill::models

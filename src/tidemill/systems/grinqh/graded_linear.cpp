#include "graded_linear.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace tidemill::grinqh {

namespace {

constexpr size_t kFew = 4;       // tokens up to which each chooses for itself; more are a prompt
constexpr size_t kColumns = 64;  // dequantised at a time: 64 x 256 floats stay in L2
constexpr size_t kAtOnce = 4;    // tokens whose sums are in registers

// sums[t][i] += sum over c of x[t][c] w[c][i], for some tokens, kGroup outputs each.
template <size_t tokens>
void add_products(const float* const* x, size_t columns, const float* w, float* sums) {
#ifdef __AVX2__
  for (size_t i = 0; i < kGroup; i += 16) {
    __m256 sum[tokens][2];
    for (size_t t = 0; t < tokens; ++t)
      for (size_t k = 0; k < 2; ++k) sum[t][k] = _mm256_loadu_ps(sums + t * kGroup + i + 8 * k);
    for (size_t c = 0; c < columns; ++c) {
      const __m256 a = _mm256_loadu_ps(w + c * kGroup + i);
      const __m256 b = _mm256_loadu_ps(w + c * kGroup + i + 8);
      for (size_t t = 0; t < tokens; ++t) {
        const __m256 by = _mm256_broadcast_ss(x[t] + c);
        sum[t][0] = _mm256_fmadd_ps(a, by, sum[t][0]);
        sum[t][1] = _mm256_fmadd_ps(b, by, sum[t][1]);
      }
    }
    for (size_t t = 0; t < tokens; ++t)
      for (size_t k = 0; k < 2; ++k) _mm256_storeu_ps(sums + t * kGroup + i + 8 * k, sum[t][k]);
  }
#else
  for (size_t t = 0; t < tokens; ++t)
    for (size_t c = 0; c < columns; ++c)
      for (size_t i = 0; i < kGroup; ++i) sums[t * kGroup + i] += x[t][c] * w[c * kGroup + i];
#endif
}

}  // namespace

std::shared_ptr<const std::vector<uint8_t>> Shared::levels(const float* x) {
  const std::lock_guard lock(guard_);
  const size_t count = channels();
  if (leads_) dial_->bits = dial_->wanted.load();
  const float bits = dial_->bits;
  if (chosen_ != nullptr && bits == bits_ &&
      std::memcmp(last_.data(), x, count * sizeof(float)) == 0)
    return chosen_;
  const size_t wanted = dial_->block;
  const size_t block = count % wanted == 0 ? wanted : 1;
  auto made = std::make_shared<std::vector<uint8_t>>(count);
  const auto budget =
      static_cast<size_t>(std::floor(double{bits} * static_cast<double>(count / block) + 1e-6));
  if (!selector_.within(x, budget, block, made->data())) return nullptr;
  last_.assign(x, x + count);
  bits_ = bits;
  return chosen_ = std::move(made);
}

// Of each token, its columns by level; none: a prompt, at the widest level.
struct GradedLinear::Chosen final : models::Linear::Plan {
  std::vector<Sorted> tokens;
  bool is_broken = false;
};

GradedLinear::GradedLinear(std::shared_ptr<const Matrix> matrix, std::shared_ptr<Shared> shared,
                           std::shared_ptr<const Dial> dial, uint8_t top)
    : matrix_(std::move(matrix)),
      shared_(std::move(shared)),
      dial_(std::move(dial)),
      top_(top),
      tasks_(matrix_->parts()) {}

size_t GradedLinear::bytes() const {
  const double share = std::min(1.0, double{dial_->wanted} / top_);
  const size_t all = matrix_->bytes();
  size_t planes = 0;
  for (size_t plane = 0; plane < kPlanes && kWidth[plane] <= top_; ++plane)
    planes += matrix_->cols() * plane_bytes(plane, matrix_->rows());
  return all - planes + static_cast<size_t>(share * static_cast<double>(planes));
}

std::unique_ptr<models::Linear::Plan> GradedLinear::plan(const models::Activations& x,
                                                         models::Pool&) const {
  auto made = std::make_unique<Chosen>();
  if (x.tokens() > kFew) return made;
  made->tokens.resize(x.tokens());
  for (size_t i = 0; i < x.tokens(); ++i) {
    const auto levels = shared_->levels(x.row(i));
    if (levels == nullptr) {
      made->is_broken = true;
      return made;
    }
    matrix_->sort(x.row(i), levels->data(), made->tokens[i]);
  }
  return made;
}

void GradedLinear::multiply(size_t task, const models::Activations& x, const Plan* plan, float* y,
                            size_t ldy) const {
  const auto& chosen = static_cast<const Chosen&>(*plan);
  const size_t begin = matrix_->part_begin(task), end = matrix_->part_begin(task + 1);
  const size_t first = begin * kGroup, last = std::min(end * kGroup, rows());
  if (chosen.is_broken) {
    for (size_t i = 0; i < x.tokens(); ++i)
      std::fill(y + i * ldy + first, y + i * ldy + last, std::numeric_limits<float>::quiet_NaN());
    return;
  }
  if (chosen.tokens.empty()) return multiply_dense(begin, end, x, y, ldy);
  for (size_t i = 0; i < x.tokens(); ++i)
    matrix_->apply(chosen.tokens[i], task, task + 1, y + i * ldy + first);
}

void GradedLinear::multiply_dense(size_t begin, size_t end, const models::Activations& x, float* y,
                                  size_t ldy) const {
  static thread_local std::vector<float> weights, sums;
  const size_t tokens = x.tokens(), padded = (tokens + kAtOnce - 1) / kAtOnce * kAtOnce;
  weights.resize(kColumns * kGroup);
  for (size_t group = begin; group < end; ++group) {
    const size_t first = group * kGroup, outputs = std::min(kGroup, rows() - first);
    std::fill(weights.begin(), weights.end(), 0.0f);
    sums.assign(padded * kGroup, 0.0f);
    for (size_t column = 0; column < cols(); column += kColumns) {
      const size_t count = std::min(kColumns, cols() - column);
      matrix_->dequantise(top_, column, column + count, group, group + 1, weights.data(), kGroup);
      for (size_t i = 0; i < tokens; i += kAtOnce) {
        const float* at[kAtOnce];
        for (size_t t = 0; t < kAtOnce; ++t) at[t] = x.row(std::min(i + t, tokens - 1)) + column;
        add_products<kAtOnce>(at, count, weights.data(), sums.data() + i * kGroup);
      }
    }
    for (size_t i = 0; i < tokens; ++i)
      std::copy_n(sums.data() + i * kGroup, outputs, y + i * ldy + first);
  }
}

void GradedLinear::unpack(size_t first, size_t count, float* out) const {
  std::vector<float> column(kGroup);
  for (size_t group = first / kGroup; group * kGroup < first + count; ++group) {
    const size_t low = std::max(first, group * kGroup);
    const size_t high = std::min(first + count, std::min((group + 1) * kGroup, rows()));
    for (size_t j = 0; j < cols(); ++j) {
      matrix_->dequantise(top_, j, j + 1, group, group + 1, column.data(), kGroup);
      for (size_t i = low; i < high; ++i)
        out[(i - first) * cols() + j] = column[i - group * kGroup];
    }
  }
}

}  // namespace tidemill::grinqh

#include "attention.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "elementwise.hpp"
#include "layout.hpp"

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace tidemill::models {

namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();
constexpr size_t kTile = 3;  // rows whose 32 sums stay in registers

// A product of few rows with a page: c[row] (+)= sum over i < depth of a[row][i] * b[i].
struct PageProduct {
  const float* a;
  size_t lda, depth;
  const uint16_t* b;
  size_t ldb;
  float* c;
  size_t ldc, width;  // width: a multiple of 8
};

#ifdef __AVX2__

template <size_t kRows, size_t kVectors>
void accumulate_tile(const PageProduct& p, size_t row, size_t column) {
  __m256 sums[kRows][kVectors];
  for (size_t r = 0; r < kRows; ++r)
    for (size_t v = 0; v < kVectors; ++v)
      sums[r][v] = _mm256_loadu_ps(p.c + (row + r) * p.ldc + column + 8 * v);
  for (size_t i = 0; i < p.depth; ++i) {
    const uint16_t* const at = p.b + i * p.ldb + column;
    __m256 factors[kRows];
    for (size_t r = 0; r < kRows; ++r) factors[r] = _mm256_set1_ps(p.a[(row + r) * p.lda + i]);
    for (size_t v = 0; v < kVectors; ++v) {
      const __m256 b =
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at + 8 * v)));
      for (size_t r = 0; r < kRows; ++r) sums[r][v] = _mm256_fmadd_ps(factors[r], b, sums[r][v]);
    }
  }
  for (size_t r = 0; r < kRows; ++r)
    for (size_t v = 0; v < kVectors; ++v)
      _mm256_storeu_ps(p.c + (row + r) * p.ldc + column + 8 * v, sums[r][v]);
}

#else

template <size_t kRows, size_t kVectors>
void accumulate_tile(const PageProduct& p, size_t row, size_t column) {
  for (size_t i = 0; i < p.depth; ++i)
    for (size_t j = column; j < column + 8 * kVectors; ++j) {
      const float b = half_to_float(p.b[i * p.ldb + j]);
      for (size_t r = row; r < row + kRows; ++r) p.c[r * p.ldc + j] += p.a[r * p.lda + i] * b;
    }
}

#endif

template <size_t kRows>
void accumulate_rows(const PageProduct& p, size_t row) {
  size_t column = 0;
  for (; column + 32 <= p.width; column += 32) accumulate_tile<kRows, 4>(p, row, column);
  for (; column < p.width; column += 8) accumulate_tile<kRows, 1>(p, row, column);
}

void accumulate(const PageProduct& p, size_t rows) {
  size_t row = 0;
  for (; row + kTile <= rows; row += kTile) accumulate_rows<kTile>(p, row);
  if (rows - row == 2) accumulate_rows<2>(p, row);
  if (rows - row == 1) accumulate_rows<1>(p, row);
}

// Turns the scores of a page into weights and makes the sums ready to be added to.
void weigh(float* scores, size_t from, size_t to, Softmax& softmax, float* sums, size_t padded) {
  float top = kNothing;
  for (size_t t = 0; t < kPageTokens; ++t) {
    scores[t] = t >= from && t < to ? scores[t] : kNothing;
    top = scores[t] > top ? scores[t] : top;
  }
  if (top > softmax.top) {
    const float fade = softmax.total == 0 ? 0.0f : fast_exp(softmax.top - top);
    softmax.total *= fade;
    for (size_t i = 0; i < padded; ++i) sums[i] *= fade;
    softmax.top = top;
  }
  float lanes[8] = {};
  for (size_t t = 0; t < kPageTokens; t += 8)
    for (size_t lane = 0; lane < 8; ++lane) {
      const float weight = fast_exp(scores[t + lane] - softmax.top);
      scores[t + lane] = scores[t + lane] == kNothing ? 0.0f : weight;
      lanes[lane] += scores[t + lane];
    }
  softmax.total += ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
                   ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

}  // namespace

uint16_t float_to_half(float value) {
#ifdef __AVX2__
  return static_cast<uint16_t>(
      _mm_cvtsi128_si32(_mm_cvtps_ph(_mm_set_ss(value), _MM_FROUND_TO_NEAREST_INT)));
#else
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u, size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (size >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (size < 0x38800000u) {  // subnormal: adding 0.5 rounds at the right bit
    const float shifted = std::bit_cast<float>(size) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = size + 0xfffu + ((size >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
#endif
}

void add_page(const HeadPage& page, size_t first, size_t head_dim, size_t padded,
              const Rows& rows) {
  std::fill_n(rows.scores, rows.count * kPageTokens, 0.0f);
  accumulate(
      {rows.q, head_dim, head_dim, page.keys, kPageTokens, rows.scores, kPageTokens, kPageTokens},
      rows.count);
  for (size_t row = 0; row < rows.count; ++row) {
    const size_t from = std::max(rows.low[row], first) - first;
    const size_t to = std::max(std::min(rows.high[row], first + kPageTokens), first) - first;
    float* const scores = rows.scores + row * kPageTokens;
    if (from >= to)
      std::fill_n(scores, kPageTokens, 0.0f);
    else
      weigh(scores, from, to, rows.softmax[row], rows.sums + row * padded, padded);
  }
  accumulate(
      {rows.scores, kPageTokens, kPageTokens, page.values, padded, rows.sums, padded, padded},
      rows.count);
}

void merge(Softmax& into, float* sums, const Softmax& other, const float* other_sums,
           size_t padded) {
  if (other.total == 0) return;
  const float top = other.top > into.top ? other.top : into.top;
  const float mine = into.total == 0 ? 0.0f : fast_exp(into.top - top);
  const float theirs = fast_exp(other.top - top);
  for (size_t i = 0; i < padded; ++i) sums[i] = sums[i] * mine + other_sums[i] * theirs;
  into.total = into.total * mine + other.total * theirs;
  into.top = top;
}

}  // namespace tidemill::models

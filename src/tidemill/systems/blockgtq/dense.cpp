// The rival: decode attention over dense halves or floats, each key and value read and converted
// once for all query heads of the group.
#include <algorithm>
#include <cmath>
#include <utility>

#include "attend.hpp"
#include "softmax.hpp"
#include "tasks.hpp"
#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace tidemill::blockgtq {

namespace {

constexpr size_t kMost = 8;  // query heads to one pass

#ifdef __AVX2__
inline __m256 load8(const float* at) { return _mm256_loadu_ps(at); }
inline __m256 load8(const uint16_t* at) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
}

template <size_t kCount, class Cell>
void scores_of(const Cell* keys, const float* queries, size_t dim, float* scores) {
  for (size_t octet = 0; octet < 4; octet += 2) {  // two registers of tokens: fewer broadcasts
    __m256 one[kCount], two[kCount];
    for (size_t h = 0; h < kCount; ++h) one[h] = two[h] = _mm256_setzero_ps();
    for (size_t i = 0; i < dim; ++i) {
      const __m256 a = load8(keys + i * kTile + 8 * octet);
      const __m256 b = load8(keys + i * kTile + 8 * octet + 8);
      for (size_t h = 0; h < kCount; ++h) {
        const __m256 q = _mm256_broadcast_ss(queries + i * kMost + h);
        one[h] = _mm256_fmadd_ps(q, a, one[h]);
        two[h] = _mm256_fmadd_ps(q, b, two[h]);
      }
    }
    for (size_t h = 0; h < kCount; ++h) {
      _mm256_storeu_ps(scores + h * kTile + 8 * octet, one[h]);
      _mm256_storeu_ps(scores + h * kTile + 8 * octet + 8, two[h]);
    }
  }
}

template <size_t kCount, class Cell>
void add_values(const Cell* values, const float* weights, size_t dim, float* out) {
  for (size_t i = 0; i < dim; i += 8) {
    __m256 sum[kCount];
    for (size_t h = 0; h < kCount; ++h) sum[h] = _mm256_loadu_ps(out + h * dim + i);
    for (size_t t = 0; t < kTile; ++t) {
      const __m256 value = load8(values + t * dim + i);
      for (size_t h = 0; h < kCount; ++h)
        sum[h] = _mm256_fmadd_ps(_mm256_broadcast_ss(weights + h * kTile + t), value, sum[h]);
    }
    for (size_t h = 0; h < kCount; ++h) _mm256_storeu_ps(out + h * dim + i, sum[h]);
  }
}
#else
inline float number(float value) { return value; }
inline float number(uint16_t half) {
  const int exponent = half >> 10 & 31;
  const float mantissa = static_cast<float>(half & 0x3ff);
  const float size =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(mantissa + 1024, exponent - 25);
  return half & 0x8000 ? -size : size;
}

template <size_t kCount, class Cell>
void scores_of(const Cell* keys, const float* queries, size_t dim, float* scores) {
  std::fill_n(scores, kCount * kTile, 0.0f);
  for (size_t i = 0; i < dim; ++i)
    for (size_t t = 0; t < kTile; ++t)
      for (size_t h = 0; h < kCount; ++h)
        scores[h * kTile + t] += queries[i * kMost + h] * number(keys[i * kTile + t]);
}

template <size_t kCount, class Cell>
void add_values(const Cell* values, const float* weights, size_t dim, float* out) {
  for (size_t t = 0; t < kTile; ++t)
    for (size_t i = 0; i < dim; ++i)
      for (size_t h = 0; h < kCount; ++h)
        out[h * dim + i] += weights[h * kTile + t] * number(values[t * dim + i]);
}
#endif

template <size_t kCount, class Cell>
void walk(const DenseRequest<Cell>& request, size_t row, const float* queries, size_t begin,
          size_t end, Partial& partial) {
  alignas(32) float scores[kCount * kTile];
  for (size_t tile = begin; tile < end; ++tile) {
    const size_t at = tile * kTile * request.dim;
    scores_of<kCount>(request.keys[row] + at, queries, request.dim, scores);
    for (size_t h = 0; h < kCount; ++h) {
      for (size_t t = request.tokens - tile * kTile; t < kTile; ++t)
        scores[h * kTile + t] = 2 * kNothing;
      partial.weigh(h, scores + h * kTile, kTile);
    }
    add_values<kCount>(request.values[row] + at, scores, request.dim, partial.out.data());
  }
}

template <class Cell, size_t... kCounts>
void run(const DenseRequest<Cell>& request, std::index_sequence<kCounts...>) {
  using Kernel =
      void (*)(const DenseRequest<Cell>&, size_t, const float*, size_t, size_t, Partial&);
  static constexpr Kernel kernels[] = {&walk<kCounts + 1, Cell>...};
  const size_t parts = (request.heads + kMost - 1) / kMost, dim = request.dim;
  const size_t tiles = (request.tokens + kTile - 1) / kTile, rows = request.keys.size() * parts;
  const size_t per_task = tiles_per_task(tiles, rows, request.threads);
  const size_t tasks = (tiles + per_task - 1) / per_task;
  const auto heads = [&](size_t i) { return std::min(kMost, request.heads - i % parts * kMost); };
  std::vector<float> queries(rows * dim * kMost, 0.0f);  // by row, dimension, head; log2 scale
  for (size_t i = 0; i < rows; ++i)
    for (size_t h = 0; h < heads(i); ++h)
      for (size_t d = 0; d < dim; ++d)
        queries[(i * dim + d) * kMost + h] =
            request.scale * 1.44269504f *
            request.queries[(i / parts * request.heads + i % parts * kMost + h) * dim + d];
  std::vector<Partial> found;
  for (size_t i = 0; i < rows * tasks; ++i) found.emplace_back(heads(i / tasks), dim);
  run_tasks(found.size(), request.threads, [&](size_t i) {
    const size_t row = i / tasks, begin = i % tasks * per_task;
    kernels[heads(row) - 1](request, row / parts, queries.data() + row * dim * kMost, begin,
                            std::min(begin + per_task, tiles), found[i]);
  });
  for (size_t i = 0; i < rows; ++i) {
    Partial& all = found[i * tasks];
    for (size_t t = 1; t < tasks; ++t) all.merge(found[i * tasks + t]);
    float* out = request.out + (i / parts * request.heads + i % parts * kMost) * dim;
    for (size_t k = 0; k < heads(i) * dim; ++k) out[k] = all.out[k] / all.sum[k / dim];
  }
}

}  // namespace

void attend_dense(const DenseRequest<uint16_t>& request) {
  run(request, std::make_index_sequence<kMost>());
}
void attend_dense(const DenseRequest<float>& request) {
  run(request, std::make_index_sequence<kMost>());
}

}  // namespace tidemill::blockgtq

#include "attend.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "products.hpp"
#include "softmax.hpp"
#include "tasks.hpp"
#ifdef __F16C__
#include <immintrin.h>
#endif

namespace tidemill::blockgtq {

namespace {

constexpr float kLog2E = 1.44269504f;

// Up to eight query heads of one KV head, rotated and rounded once per step.
struct Prepared {
  const Codec& codec;
  const uint8_t* tiles;
  size_t heads;
  std::vector<GroupQuery> groups;
  std::vector<double> even, odd;  // of qᵀR_p μ = Σ even cos(θp) + odd sin(θp), head by block

  Prepared(const Codec& codec_, const uint8_t* tiles_, const float* queries, size_t heads_,
           float scale)
      : codec(codec_), tiles(tiles_), heads(heads_), groups(codec_.groups.size()) {
    for (size_t g = 0; g < groups.size(); ++g) {
      const Group& group = codec.groups[g];
      const size_t units = group.quads() + (group.has_half() ? 1 : 0);
      groups[g].stride = group.width < kWide ? units : 2 * units;
      groups[g].packed.assign(groups[g].stride * heads, 0);
    }
    float turned[kMaxDim];
    for (size_t h = 0; h < heads; ++h) {
      const float* query = queries + h * codec.dim;
      codec.key_rotation.forward(query, turned);
      for (size_t g = 0; g < groups.size(); ++g)
        round_query(codec.groups[g], turned + codec.groups[g].first, h, scale, groups[g]);
      const size_t half = codec.dim / 2;
      for (const uint32_t i : codec.mean_blocks) {
        const double x = codec.mean[i], y = codec.mean[i + half], s = scale;
        even.push_back(s * (query[i] * x + query[i + half] * y));
        odd.push_back(s * (query[i + half] * x - query[i] * y));
      }
    }
  }

  static void round_query(const Group& group, const float* q, size_t head, float scale,
                          GroupQuery& made) {
    const bool is_wide = group.width >= kWide;
    const float limit = is_wide ? 2047.0f : 127.0f;
    float top = 0;
    for (size_t i = 0; i < group.dims; ++i) top = std::max(top, std::fabs(q[i]));
    const float step = top > 0 ? top / limit : 1.0f;
    auto* bytes = reinterpret_cast<uint8_t*>(made.packed.data() + head * made.stride);
    int total = 0;
    for (size_t i = 0; i < group.dims; ++i) {
      const auto level = static_cast<int16_t>(std::lround(q[i] / step));
      total += level;
      if (is_wide) {
        std::memcpy(bytes + 2 * i, &level, 2);
      } else {
        bytes[i] = static_cast<uint8_t>(static_cast<int8_t>(level));
        if (i >= 4 * group.quads()) bytes[i + 2] = bytes[i];
      }
    }
    made.factor[head] = scale * step * (is_wide ? group.wide_scale : group.narrow_scale);
    made.shift[head] = is_wide ? 0.0f : kMiddle * static_cast<float>(total);
  }
};

void read_norms(const Group& group, const uint8_t* tile, float* norms) {
  const uint8_t* at = tile + group.norms;
  if (group.is_logarithmic) {
    norms_of(at, group.low, group.step, norms);
    return;
  }
#ifdef __F16C__
  for (size_t t = 0; t < kTile; t += 8)
    _mm256_storeu_ps(
        norms + t, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at + 2 * t))));
#else
  for (size_t t = 0; t < kTile; ++t) norms[t] = group.norm(tile, t);
#endif
}

// A walk over consecutive tiles that keeps the mean's angles going.
class Walk {
 public:
  Walk(const Prepared& query, int64_t position)
      : query_(query), blocks_(query.codec.mean_blocks.size()), even_(query.even), odd_(query.odd) {
    for (size_t b = 0; b < blocks_; ++b) turn(b, frequency(b) * static_cast<double>(position));
    for (size_t b = 0; b < blocks_; ++b) {
      step_cos_.push_back(std::cos(frequency(b) * kTile));
      step_sin_.push_back(std::sin(frequency(b) * kTile));
    }
  }

  // Scores (log2) of the tile's 32 tokens for each head.
  void scores(const uint8_t* tile, float* scores) {
    std::fill_n(scores, query_.heads * kTile, 0.0f);
    alignas(32) int32_t products[kHeads * kTile];
    alignas(32) float norms[kTile];
    for (size_t g = 0; g < query_.groups.size(); ++g) {
      const Group& group = query_.codec.groups[g];
      const GroupQuery& q = query_.groups[g];
      read_norms(group, tile, norms);
      key_products(group, tile + group.codes, q, query_.heads, products);
      for (size_t h = 0; h < query_.heads; ++h) {
        const float factor = q.factor[h], shift = q.shift[h];
        float* at = scores + h * kTile;
        const int32_t* sum = products + h * kTile;
        for (size_t t = 0; t < kTile; ++t)
          at[t] += (static_cast<float>(sum[t]) - shift) * (factor * norms[t]);
      }
    }
    add_mean(scores);
  }

  // Adds the tile's weighted values to `partial`.
  void values(const uint8_t* tile, float* weights, Partial& partial) const {
    const Group& group = query_.codec.value;
    const size_t dim = query_.codec.dim;
    alignas(32) uint8_t levels[kHeads * kTile];
    alignas(32) int32_t products[kHeads * kMaxDim];
    alignas(32) float norms[kTile];
    float factor[kHeads];
    read_norms(group, tile, norms);
    for (size_t h = 0; h < query_.heads; ++h)
      factor[h] = group.narrow_scale * levels_of(weights + h * kTile, norms, levels + h * kTile);
    value_products(group, dim, tile + group.codes, levels, query_.heads, products);
    for (size_t h = 0; h < query_.heads; ++h) {
      float* out = partial.out.data() + h * dim;
      const int32_t* sum = products + h * dim;
      for (size_t i = 0; i < dim; ++i) out[i] += factor[h] * static_cast<float>(sum[i]);
    }
  }

 private:
  double frequency(size_t block) const {
    return query_.codec.frequencies[query_.codec.mean_blocks[block]];
  }

  void turn(size_t block, double angle) { turn(block, std::cos(angle), std::sin(angle)); }

  void turn(size_t block, double c, double s) {
    for (size_t i = block; i < even_.size(); i += blocks_) {
      const double x = even_[i], y = odd_[i];
      even_[i] = x * c + y * s;
      odd_[i] = y * c - x * s;
    }
  }

  // Per head, so that its 32 scores stay in registers while the blocks go by.
  void add_mean(float* scores) {
    for (size_t h = 0; h < (blocks_ > 0 ? query_.heads : 0); ++h) {
      double* __restrict even = even_.data() + h * blocks_;
      double* __restrict odd = odd_.data() + h * blocks_;
      add_waves(even, odd, scores + h * kTile);
      for (size_t b = 0; b < blocks_; ++b) {
        const double x = even[b], y = odd[b];
        even[b] = x * step_cos_[b] + y * step_sin_[b];
        odd[b] = y * step_cos_[b] - x * step_sin_[b];
      }
    }
  }

  void add_waves(const double* even, const double* odd, float* scores) const {
    const float *c = query_.codec.turn_cos.data(), *s = query_.codec.turn_sin.data();
#ifdef __AVX2__
    __m256 sum[4];
    for (size_t i = 0; i < 4; ++i) sum[i] = _mm256_loadu_ps(scores + 8 * i);
    for (size_t b = 0; b < blocks_; ++b) {
      const __m256 x = _mm256_set1_ps(static_cast<float>(even[b]));
      const __m256 y = _mm256_set1_ps(static_cast<float>(odd[b]));
      for (size_t i = 0; i < 4; ++i) {
        sum[i] = _mm256_fmadd_ps(x, _mm256_loadu_ps(c + b * kTile + 8 * i), sum[i]);
        sum[i] = _mm256_fmadd_ps(y, _mm256_loadu_ps(s + b * kTile + 8 * i), sum[i]);
      }
    }
    for (size_t i = 0; i < 4; ++i) _mm256_storeu_ps(scores + 8 * i, sum[i]);
#else
    for (size_t b = 0; b < blocks_; ++b)
      for (size_t t = 0; t < kTile; ++t)
        scores[t] += static_cast<float>(even[b]) * c[b * kTile + t] +
                     static_cast<float>(odd[b]) * s[b * kTile + t];
#endif
  }

  const Prepared& query_;
  size_t blocks_;
  std::vector<double> even_, odd_, step_cos_, step_sin_;
};

void walk(const Prepared& query, const Request& request, size_t begin, size_t end,
          Partial& partial) {
  Walk walk(query, request.base + static_cast<int64_t>(begin * kTile));
  alignas(32) float scores[kHeads * kTile];
  for (size_t n = begin; n < end; ++n) {
    const uint8_t* tile = query.tiles + n * query.codec.tile_bytes;
    walk.scores(tile, scores);
    const size_t low = request.skip > n * kTile ? request.skip - n * kTile : 0;
    const size_t high = std::min(kTile, request.tokens - n * kTile);
    for (size_t h = 0; h < query.heads; ++h) {
      float* at = scores + h * kTile;
      for (size_t t = 0; t < std::min(low, kTile); ++t) at[t] = 2 * kNothing;
      for (size_t t = high; t < kTile; ++t) at[t] = 2 * kNothing;
      partial.weigh(h, at, kTile);
    }
    walk.values(tile, scores, partial);
  }
}

// The few tokens kept dense, in plain coordinates.
void window(const Request& request, size_t row, size_t first, Partial& partial) {
  const size_t dim = request.dim, padded = (request.window + 7) / 8 * 8;
  std::vector<float> scores(padded);
  for (size_t h = 0; h < partial.top.size(); ++h) {
    const float* query = request.queries + (row * request.heads + first + h) * dim;
    for (size_t t = 0; t < padded; ++t) {
      float sum = 0;
      const float* key = request.window_keys + (row * request.window + t) * dim;
      for (size_t i = 0; t < request.window && i < dim; ++i) sum += query[i] * key[i];
      scores[t] = t < request.window ? sum * request.scale * kLog2E : 2 * kNothing;
    }
    partial.weigh(h, scores.data(), padded);
    float* out = partial.out.data() + h * dim;
    for (size_t t = 0; t < request.window; ++t) {
      const float* value = request.window_values + (row * request.window + t) * dim;
      for (size_t i = 0; i < dim; ++i) out[i] += scores[t] * value[i];
    }
  }
}

void finish(const Request& request, const Codec& codec, size_t row, size_t first, Partial& packed) {
  const size_t heads = packed.top.size(), dim = request.dim;
  Partial plain(heads, dim);
  plain.top = packed.top;
  plain.sum = packed.sum;
  for (size_t h = 0; h < heads; ++h)
    codec.value_rotation.backward(packed.out.data() + h * dim, plain.out.data() + h * dim);
  if (request.window > 0) {
    Partial dense(heads, dim);
    window(request, row, first, dense);
    plain.merge(dense);
  }
  float* out = request.out + (row * request.heads + first) * dim;
  for (size_t i = 0; i < heads * dim; ++i) out[i] = plain.out[i] / plain.sum[i / dim];
}

}  // namespace

void attend(const Request& request) {
  const size_t rows = request.codecs.size();
  const size_t parts = (request.heads + kHeads - 1) / kHeads;  // of a row's query heads
  std::vector<std::optional<Prepared>> queries(rows * parts);
  const auto first = [&](size_t i) { return i % parts * kHeads; };
  const auto count = [&](size_t i) { return std::min(kHeads, request.heads - first(i)); };
  for (size_t i = 0; i < queries.size(); ++i) {
    const size_t row = i / parts;
    const float* at = request.queries + (row * request.heads + first(i)) * request.dim;
    queries[i].emplace(*request.codecs[row], request.tiles[row], at, count(i),
                       request.scale * kLog2E);
  }
  const size_t begin = request.skip / kTile, end = (request.tokens + kTile - 1) / kTile;
  const size_t tiles = end > begin ? end - begin : 0;
  const size_t per_task = tiles_per_task(tiles, queries.size(), request.threads);
  const size_t tasks = std::max<size_t>(1, (tiles + per_task - 1) / per_task);
  std::vector<Partial> found;
  for (size_t i = 0; i < queries.size() * tasks; ++i)
    found.emplace_back(count(i / tasks), request.dim);
  run_tasks(found.size(), request.threads, [&](size_t i) {
    const size_t from = begin + i % tasks * per_task;
    walk(*queries[i / tasks], request, std::min(from, end), std::min(from + per_task, end),
         found[i]);
  });
  for (size_t i = 0; i < queries.size(); ++i) {
    Partial& all = found[i * tasks];
    for (size_t t = 1; t < tasks; ++t) all.merge(found[i * tasks + t]);
    finish(request, *request.codecs[i / parts], i / parts, first(i), all);
  }
}

}  // namespace tidemill::blockgtq

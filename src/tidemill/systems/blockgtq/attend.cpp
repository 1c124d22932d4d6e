#include "attend.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "products.hpp"
#include "softmax.hpp"
#include "tasks.hpp"
#include "weighing.hpp"
#ifdef __F16C__
#include <immintrin.h>
#endif

namespace tidemill::blockgtq {

namespace {

constexpr float kLog2E = 1.44269504f;

// Up to eight query heads of one KV head, turned and rounded once per step.
struct Prepared {
  const Codec& codec;
  const uint8_t* tiles;
  size_t heads;
  std::vector<GroupQuery> groups;
  std::vector<Amplitudes> waves;  // of each head, when the codec peels a mean

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
      codec.key.dual(query, turned);
      for (size_t g = 0; g < groups.size(); ++g)
        round_query(codec.groups[g], turned + codec.groups[g].first, h, scale, groups[g]);
      if (!codec.waves.empty())
        waves.emplace_back(codec.waves, query, codec.mean.data(), codec.dim / 2, scale);
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
    made.offset[head] = is_wide ? 0.0f : -kMiddle * static_cast<float>(total) * made.factor[head];
  }
};

void read_norms(const Group& group, const uint8_t* tile, float* norms) {
  const uint8_t* at = tile + group.norms;
  if (group.is_logarithmic) {
    norms_of(at, group.norm_tables, norms);
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

// Scores (log2) of a tile's 32 tokens for each head.
void score(const Prepared& query, const Phases& phases, const uint8_t* tile, float* scores) {
  const Codec& codec = query.codec;
  if (codec.waves.empty()) std::fill_n(scores, query.heads * kTile, 0.0f);
  for (size_t h = 0; h < query.waves.size(); ++h)
    wave_scores(codec.waves, phases, query.waves[h], scores + h * kTile);
  alignas(32) float norms[kTile];
  for (size_t g = 0; g < query.groups.size(); ++g) {
    const Group& group = codec.groups[g];
    read_norms(group, tile, norms);
    add_key_products(group, tile + group.codes, query.groups[g], query.heads, norms, scores);
  }
}

void walk(const Prepared& query, const Request& request, size_t begin, size_t end,
          Partial& partial) {
  const Codec& codec = query.codec;
  Phases phases(codec.waves, request.base + static_cast<int64_t>(begin * kTile));
  Weighing weighing(query.heads, codec.dim);
  alignas(32) float scores[kHeads * kTile], norms[kTile], factor[kHeads];
  alignas(32) uint8_t levels[kHeads * kTile];
  for (size_t n = begin; n < end; ++n, phases.next()) {
    const uint8_t* tile = query.tiles + n * codec.tile_bytes;
    score(query, phases, tile, scores);
    const size_t low = request.skip > n * kTile ? request.skip - n * kTile : 0;
    const size_t high = std::min(kTile, request.tokens - n * kTile);
    for (size_t h = 0; h < query.heads && (low > 0 || high < kTile); ++h) {
      std::fill_n(scores + h * kTile, std::min(low, kTile), 2 * kNothing);
      std::fill(scores + h * kTile + high, scores + (h + 1) * kTile, 2 * kNothing);
    }
    read_norms(codec.value, tile, norms);
    weighing.weigh(scores, norms, levels, factor, partial.out.data());
    for (float& each : factor) each *= codec.value.narrow_scale;
    add_value_products(codec.value, codec.dim, tile + codec.value.codes, levels, factor,
                       query.heads, partial.out.data());
  }
  weighing.finish(partial);
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
  for (size_t h = 0; h < heads; ++h) {
    float* at = plain.out.data() + h * dim;
    codec.value_basis.backward(packed.out.data() + h * dim, at);
    for (size_t i = 0; i < dim; ++i) at[i] += packed.sum[h] * codec.value_mean[i];
  }
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

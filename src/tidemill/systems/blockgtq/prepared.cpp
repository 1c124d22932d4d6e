#include "prepared.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "weighing.hpp"
#ifdef __F16C__
#include <immintrin.h>
#endif

namespace tidemill::blockgtq {

namespace {

constexpr float kLog2E = 1.44269504f;

void round_query(const Group& group, const float* q, size_t head, float scale, GroupQuery& made) {
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
  made.factor[head] = scale * step * group.level_scale();
  made.offset[head] = is_wide ? 0.0f : -kMiddle * static_cast<float>(total) * made.factor[head];
}

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

}  // namespace

Prepared::Prepared(const Codec& codec_, const float* queries, size_t heads_, float scale_of_dots)
    : codec(codec_), heads(heads_), groups(codec_.groups.size()) {
  const float scale = scale_of_dots * kLog2E;
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

// Scores (log2) of a tile's 32 tokens for each head.
void Prepared::score(const Phases& phases, const uint8_t* tile, float* scores) const {
  if (codec.waves.empty()) std::fill_n(scores, heads * kTile, 0.0f);
  for (size_t h = 0; h < waves.size(); ++h)
    wave_scores(codec.waves, phases, waves[h], scores + h * kTile);
  alignas(32) float norms[kTile];
  for (size_t g = 0; g < groups.size(); ++g) {
    const Group& group = codec.groups[g];
    read_norms(group, tile, norms);
    add_key_products(group, tile + group.codes, groups[g], heads, norms, scores);
  }
}

void Prepared::walk(const Tiles& tiles, const Reach& reach, size_t begin, size_t end,
                    Partial& partial) const {
  Phases phases(codec.waves, reach.base + static_cast<int64_t>(begin * kTile));
  Weighing weighing(heads, codec.dim);
  alignas(32) float scores[kHeads * kTile], norms[kTile], factor[kHeads];
  alignas(32) uint8_t levels[kHeads * kTile];
  for (size_t n = begin; n < end; ++n, phases.next()) {
    const uint8_t* tile = tiles.at(n);
    score(phases, tile, scores);
    const size_t low = reach.skip > n * kTile ? reach.skip - n * kTile : 0;
    const size_t high = std::min(kTile, reach.tokens - n * kTile);
    for (size_t h = 0; h < heads && (low > 0 || high < kTile); ++h) {
      std::fill_n(scores + h * kTile, std::min(low, kTile), 2 * kNothing);
      std::fill(scores + h * kTile + high, scores + (h + 1) * kTile, 2 * kNothing);
    }
    read_norms(codec.value, tile, norms);
    weighing.weigh(scores, norms, levels, factor, partial.out.data());
    for (float& each : factor) each *= codec.value.level_scale();
    add_value_products(codec.value, codec.dim, tile + codec.value.codes, levels, factor, heads,
                       partial.out.data());
  }
  weighing.finish(partial);
}

void leave_basis(const Codec& codec, const Partial& packed, float* out) {
  for (size_t h = 0; h < packed.top.size(); ++h, out += codec.dim) {
    codec.value_basis.backward(packed.out.data() + h * codec.dim, out);
    for (size_t i = 0; i < codec.dim; ++i) out[i] += packed.sum[h] * codec.value_mean[i];
  }
}

}  // namespace tidemill::blockgtq

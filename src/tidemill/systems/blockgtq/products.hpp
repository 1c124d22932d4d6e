// Integer products of a tile's centroids with queries and with attention weights: the inner loops.
//
// Narrow keys (widths 1-4): centroids on 0..63, queries int8; two products of two pairs fit into 16
// bits: 2 * 2 * 63 * 127 < 2^15. Wide keys (5-8): both on 12 bits. Values: weights on 0..255,
// centroids on -32..32, so that 2 * 2 * 32 * 255 < 2^15; wide ones (8) on 12 bits. Both builds give
// the same integers.
#pragma once

#include "codec.hpp"

namespace tidemill::blockgtq {

inline constexpr size_t kHeads = 8;  // query heads that share one pass over the tiles
inline constexpr float kMiddle = 31.5f;

// Query heads of one group, packed as the products want them: narrow, four int8 to a quad, the half
// quad's two twice; wide, four int16 to a quad, then two. A score is norm * (factor * product +
// offset).
struct GroupQuery {
  std::vector<int32_t> packed;
  size_t stride = 0;  // int32 per head
  float factor[kHeads] = {}, offset[kHeads] = {};
};

// scores[head][slot] += norm[slot] * (factor * Σ centroid level * query level + offset).
void add_key_products(const Group& group, const uint8_t* codes, const GroupQuery& query,
                      size_t heads, const float* norms, float* scores);

// out[head][dim] += factor[head] * Σ weight[head][slot] * centroid level over the tile's tokens.
void add_value_products(const Group& group, size_t dim, const uint8_t* codes,
                        const uint8_t* weights, const float* factor, size_t heads, float* out);

}  // namespace tidemill::blockgtq

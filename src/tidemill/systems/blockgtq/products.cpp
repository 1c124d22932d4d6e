#include "products.hpp"

#include <cstring>

#ifndef __AVX2__

namespace tidemill::blockgtq {

namespace {

int level(const Group& group, unsigned code, bool is_key) {
  if (group.width >= kWide)
    return static_cast<int16_t>(group.wide_low[code] | group.wide_high[code] << 8);
  return is_key ? group.narrow[code] : static_cast<int8_t>(group.narrow[code]);
}

int query_level(const Group& group, const int32_t* packed, size_t dim) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(packed);
  if (group.width < kWide) return static_cast<int8_t>(bytes[dim]);
  int16_t value;
  std::memcpy(&value, bytes + 2 * dim, 2);
  return value;
}

}  // namespace

void add_key_products(const Group& group, const uint8_t* codes, const GroupQuery& query,
                      size_t heads, const float* norms, float* scores) {
  for (size_t slot = 0; slot < kTile; ++slot) {
    int32_t sum[kHeads] = {};
    for (size_t dim = 0; dim < group.dims; ++dim) {
      const Place place = key_place(group, dim, slot);
      const uint8_t* vector = codes + place.vector * 4 * group.width;
      const int centroid = level(group, get(vector, group.width, place.at), true);
      for (size_t h = 0; h < heads; ++h)
        sum[h] += centroid * query_level(group, query.packed.data() + h * query.stride, dim);
    }
    for (size_t h = 0; h < heads; ++h)
      scores[h * kTile + slot] +=
          norms[slot] * (query.factor[h] * static_cast<float>(sum[h]) + query.offset[h]);
  }
}

void add_value_products(const Group& group, size_t dim, const uint8_t* codes,
                        const uint8_t* weights, const float* factor, size_t heads, float* out) {
  for (size_t i = 0; i < dim; ++i) {
    int32_t sum[kHeads] = {};
    for (size_t slot = 0; slot < kTile; ++slot) {
      const Place place = value_place(i, slot);
      const uint8_t* vector = codes + place.vector * 4 * group.width;
      const int centroid = level(group, get(vector, group.width, place.at), false);
      for (size_t h = 0; h < heads; ++h) sum[h] += centroid * weights[h * kTile + slot];
    }
    for (size_t h = 0; h < heads; ++h) out[h * dim + i] += factor[h] * static_cast<float>(sum[h]);
  }
}

}  // namespace tidemill::blockgtq

#endif

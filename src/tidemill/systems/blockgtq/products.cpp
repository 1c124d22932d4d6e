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

void key_products(const Group& group, const uint8_t* codes, const GroupQuery& query, size_t heads,
                  int32_t* acc) {
  std::memset(acc, 0, heads * kTile * sizeof(int32_t));
  for (size_t slot = 0; slot < kTile; ++slot)
    for (size_t dim = 0; dim < group.dims; ++dim) {
      const Place place = key_place(group, dim, slot);
      const uint8_t* vector = codes + place.vector * 4 * group.width;
      const int centroid = level(group, get(vector, group.width, place.at), true);
      for (size_t h = 0; h < heads; ++h)
        acc[h * kTile + slot] +=
            centroid * query_level(group, query.packed.data() + h * query.stride, dim);
    }
}

void value_products(const Group& group, size_t dim, const uint8_t* codes, const uint8_t* weights,
                    size_t heads, int32_t* acc) {
  std::memset(acc, 0, heads * dim * sizeof(int32_t));
  for (size_t i = 0; i < dim; ++i)
    for (size_t slot = 0; slot < kTile; ++slot) {
      const Place place = value_place(i, slot);
      const uint8_t* vector = codes + place.vector * 4 * group.width;
      const int centroid = level(group, get(vector, group.width, place.at), false);
      for (size_t h = 0; h < heads; ++h) acc[h * dim + i] += centroid * weights[h * kTile + slot];
    }
}

}  // namespace tidemill::blockgtq

#endif

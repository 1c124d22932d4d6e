// Query heads made ready once per step, and their walk over packed tiles.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "codec.hpp"
#include "products.hpp"
#include "softmax.hpp"

namespace tidemill::blockgtq {

// Where the tiles of one KV head lie: one after the other, or each in a page of its own.
struct Tiles {
  const uint8_t* memory;
  size_t stride;                    // bytes from tile to tile, or from page to page
  const uint32_t* pages = nullptr;  // of each tile; null when they stand in order
  const uint8_t* at(size_t n) const { return memory + (pages ? pages[n] : n) * stride; }
};

// The slots that a query sees; slot 0 stands at position `base`.
struct Reach {
  size_t skip, tokens;
  int64_t base;
};

// Up to eight query heads of one KV head, turned and rounded. `scale` multiplies q·k.
struct Prepared {
  const Codec& codec;
  size_t heads;
  std::vector<GroupQuery> groups;
  std::vector<Amplitudes> waves;  // of each head, when the codec peels a mean

  Prepared(const Codec& codec_, const float* queries, size_t heads_, float scale);

  // Adds the tiles begin..end to `partial`, whose `out` stays in the values' basis.
  void walk(const Tiles& tiles, const Reach& reach, size_t begin, size_t end,
            Partial& partial) const;

 private:
  void score(const Phases& phases, const uint8_t* tile, float* scores) const;
};

// Weighted sums of packed values in plain coordinates; `out`: heads x dim.
void leave_basis(const Codec& codec, const Partial& packed, float* out);

}  // namespace tidemill::blockgtq

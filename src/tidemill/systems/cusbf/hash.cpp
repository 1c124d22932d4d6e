#include "hash.hpp"

#include <array>
#include <stdexcept>

namespace tidemill::cusbf {

namespace {

constexpr std::array<bool, 256> base_table() {
  std::array<bool, 256> table{};
  for (const char letter : {'A', 'C', 'G', 'T', 'U', 'a', 'c', 'g', 't', 'u'})
    table[static_cast<uint8_t>(letter)] = true;
  return table;
}

constexpr std::array<bool, 256> kIsBase = base_table();

}  // namespace

bool is_base(uint8_t letter) { return kIsBase[letter]; }

Layout::Layout(uint32_t k, uint32_t s, uint32_t m, uint32_t hashes, uint64_t shards, bool canonical,
               uint64_t seed)
    : k(k),
      s(s),
      m(m),
      hashes(hashes),
      canonical(canonical),
      seed(seed),
      shards(static_cast<uint32_t>(shards)) {
  if (k < 1 || k > 32 || s < 1 || s > k || m < 1 || m > k)
    throw std::invalid_argument("1 <= s, m <= k <= 32 does not hold");
  if (hashes < 4 || hashes > 4 * kMaxGroups || hashes % 4 != 0)
    throw std::invalid_argument("hashes is not 4, 8, 12 or 16");
  if (shards < 1 || shards >> 32 != 0) throw std::invalid_argument("shards is not in [1, 2^32)");
  uint64_t state = seed;
  const auto odd32 = [&state] { return static_cast<uint32_t>(splitmix64(state) >> 32) | 1; };
  mmer_mul = odd32();
  mmer_lo = odd32();
  mmer_hi = odd32();
  smer_lo = odd32();
  smer_hi = odd32();
  place_mul = odd32();
  shard_mul = odd32();
}

}  // namespace tidemill::cusbf

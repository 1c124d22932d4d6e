#include "scan.hpp"

#include <algorithm>
#include <iterator>

namespace tidemill::cusbf {

namespace {

void scan_letters(const Layout& layout, const uint8_t* bases, Chunk& chunk) {
  uint32_t order[kBases];
  Strands strands;
  int good = 0;
  chunk.valid_kmers = 0;
  std::fill(std::begin(chunk.valid), std::end(chunk.valid), 0);
  const int k = static_cast<int>(layout.k), m = static_cast<int>(layout.m),
            s = static_cast<int>(layout.s), letters = chunk.kmers + k - 1;
  for (int i = 0; i < letters; ++i) {
    strands.push(base_code(bases[i]));
    good = is_base(bases[i]) ? good + 1 : 0;
    if (i + 1 >= m) order[i + 1 - m] = strands.order(layout);
    if (i + 1 >= s) {
      const Mixed mixed = mix(strands.mer(layout.s, layout.canonical), layout.smer_lo, layout.smer_hi);
      for (uint32_t group = 0; group < layout.groups(); ++group) {
        const uint32_t place = places(layout, mixed, group);
        uint32_t bits = 0;
        for (int byte = 0; byte < 32; byte += 8) bits |= 1u << ((place >> byte & 7) + byte);
        chunk.byte_of[group][i + 1 - s] = place >> 4 & 0x07070707;
        chunk.bit_of[group][i + 1 - s] = bits;
      }
    }
    if (i + 1 >= k && good >= k) {
      chunk.valid[(i + 1 - k) / 64] |= uint64_t{1} << ((i + 1 - k) % 64);
      ++chunk.valid_kmers;
    }
  }
  for (int i = 0; i < chunk.kmers; ++i)
    chunk.minimizer[i] = *std::min_element(order + i, order + i + layout.window());
}

void find_runs(const Layout& layout, Chunk& chunk) {
  chunk.runs = 0;
  for (int i = 0; i < chunk.kmers; ++i) {
    if ((chunk.valid[i / 64] >> (i % 64) & 1) == 0) continue;
    int end = i + 1;
    while (end < chunk.kmers && chunk.minimizer[end] == chunk.minimizer[i] &&
           (chunk.valid[end / 64] >> (end % 64) & 1) != 0)
      ++end;
    chunk.start[chunk.runs] = static_cast<uint16_t>(i);
    chunk.length[chunk.runs] = static_cast<uint16_t>(end - i);
    chunk.shard[chunk.runs++] = shard_of(layout, chunk.minimizer[i]);
    i = end - 1;
  }
}

}  // namespace

void scan(const Layout& layout, const uint8_t* bases, int kmers, Chunk& chunk) {
  chunk.kmers = kmers;
  scan_letters(layout, bases, chunk);
  chunk.all_valid = chunk.valid_kmers == kmers;
  find_runs(layout, chunk);
}

}  // namespace tidemill::cusbf

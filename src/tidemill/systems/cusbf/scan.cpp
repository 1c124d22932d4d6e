// The portable scan: one letter at a time. scan_avx2.cpp takes its place where AVX2 is compiled in.
#ifndef __AVX2__
#include "scan.hpp"

#include <algorithm>
#include <iterator>

namespace tidemill::cusbf {

namespace {

void scan_letters(const Layout& layout, const uint8_t* bases, Chunk& chunk) {
  uint32_t rank[kBases];
  Strands strands;
  int good = 0;
  chunk.valid_kmers = 0;
  std::fill(std::begin(chunk.valid), std::end(chunk.valid), 0);
  const int k = static_cast<int>(layout.k), m = static_cast<int>(layout.m),
            s = static_cast<int>(layout.s), letters = chunk.kmers + k - 1;
  for (int i = 0; i < letters; ++i) {
    strands.push(base_code(bases[i]));
    good = is_base(bases[i]) ? good + 1 : 0;
    if (i + 1 >= m) rank[i + 1 - m] = strands.rank(layout);
    if (i + 1 >= s) {
      const Mixed mixed =
          mix(strands.mer(layout.s, layout.canonical), layout.smer_lo, layout.smer_hi);
      for (uint32_t group = 0; group < layout.groups(); ++group)
        chunk.place[group][i + 1 - s] = places(layout, mixed, group);
    }
    if (i + 1 >= k && good >= k) {
      chunk.valid[(i + 1 - k) / 64] |= uint64_t{1} << ((i + 1 - k) % 64);
      ++chunk.valid_kmers;
    }
  }
  for (int i = 0; i < chunk.kmers; ++i)
    chunk.minimizer[i] = *std::max_element(rank + i, rank + i + layout.window());
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
    chunk.end[chunk.runs] = static_cast<uint16_t>(end);
    chunk.shard[chunk.runs++] = shard_of(layout, chunk.minimizer[i]);
    i = end - 1;
  }
}

}  // namespace

void scan(const Layout& layout, const uint64_t*, const uint8_t* bases, int kmers, Chunk& chunk) {
  chunk.kmers = kmers;
  scan_letters(layout, bases, chunk);
  find_runs(layout, chunk);
}

}  // namespace tidemill::cusbf

#endif

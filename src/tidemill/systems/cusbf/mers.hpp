// Packed k-mers and their count: what the filters are fed with, compared with and sized by.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hash.hpp"

namespace tidemill::cusbf {

// Each window as 2k bits, first base lowest; canonical: the strand that the filters would hash.
// `valid[i]` is 0 where the window holds another letter; its `mers[i]` is then 0. Returns the
// valid.
size_t pack_kmers(uint32_t k, bool canonical, const uint8_t* bases, size_t kmers, uint64_t* mers,
                  uint8_t* valid);

// HyperLogLog (Flajolet et al. 2007): folds all valid k-mers into 2^precision registers.
size_t count_distinct(uint32_t k, bool canonical, const uint8_t* bases, size_t kmers,
                      uint8_t* registers, uint32_t precision);

uint64_t count_ones(const uint64_t* words, size_t count);

// Mean over all shards of the product of its sectors' fill, each to the power `tests`: how often
// `tests` random bits of every sector of a random shard are all set.
double chance_of_all(const uint64_t* words, size_t shards, uint32_t tests);

}  // namespace tidemill::cusbf

// Baselines over plain 64-bit keys: a blocked Bloom filter as cuCollections builds it, and a cuckoo
// filter. `blocks` are 256 bits; `buckets` (a power of two) hold four 16-bit fingerprints each.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hash.hpp"

namespace tidemill::cusbf {

void keyed_insert(uint64_t* words, uint64_t blocks, const uint64_t* keys, size_t count);
size_t keyed_contains(const uint64_t* words, uint64_t blocks, const uint64_t* keys, size_t count,
                      uint8_t* found);

// Returns how many keys went in; fewer than `count` when the table is full.
size_t cuckoo_insert(uint16_t* table, uint64_t buckets, const uint64_t* keys, size_t count);
size_t cuckoo_contains(const uint16_t* table, uint64_t buckets, const uint64_t* keys, size_t count,
                       uint8_t* found);

}  // namespace tidemill::cusbf

// Attention over pages of 32 keys and values in fp16, with an online softmax.
//
// What a query gets does not depend on which other queries are computed with it: positions are cut
// into ranges at absolute multiples of kRange, each range has its own softmax, and ranges are
// merged in order. So a prompt in one piece, in chunks or token by token gives the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tidemill::models {

constexpr size_t kPageTokens = 32;
constexpr size_t kRange = 256;  // positions; a whole number of pages

uint16_t float_to_half(float value);

// Keys of one head lie transposed, [dimension][token], so that 32 scores are a row of registers;
// values lie as [token][padded dimension]. `padded` is head_dim rounded up to 8.
struct HeadPage {
  const uint16_t* keys;
  const uint16_t* values;
};

// One query's running softmax over the keys seen so far.
struct Softmax {
  float top;    // largest score
  float total;  // sum of exp(score - top)
};

// Rows of queries that share their keys, each with the positions [low, high) that it sees.
struct Rows {
  size_t count;
  const float* q;  // count x head_dim, scaled
  const size_t* low;
  const size_t* high;
  Softmax* softmax;
  float* sums;    // count x padded: sum of exp(score - top) * value
  float* scores;  // count x kPageTokens, scratch
};

// Adds the keys and values of the page that begins at position `first`.
void add_page(const HeadPage& page, size_t first, size_t head_dim, size_t padded, const Rows& rows);

// Adds what another range came to.
void merge(Softmax& into, float* sums, const Softmax& other, const float* other_sums,
           size_t padded);

}  // namespace tidemill::models

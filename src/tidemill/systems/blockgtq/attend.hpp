// Decode attention over packed tiles, and over dense keys and values as its rival.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "codec.hpp"

namespace tidemill::blockgtq {

// Queries of `rows` KV heads, each with `heads` query heads, over the tokens of their tiles
// `skip`..`tokens` and `window` dense ones. All arrays are dense, rows first.
struct Request {
  std::vector<const Codec*> codecs;
  std::vector<const uint8_t*> tiles;
  size_t heads, dim, tokens, skip, window;
  int64_t base;  // position of the token in slot 0 of tile 0
  float scale;
  const float *queries, *window_keys, *window_values;
  float* out;
  unsigned threads;
};
void attend(const Request& request);

// Keys as tiles of 32 tokens, dimension by dimension, so that 8 tokens fill a register; values
// token by token. `Cell` is a half (uint16_t) or a float.
template <class Cell>
struct DenseRequest {
  std::vector<const Cell*> keys, values;
  size_t heads, dim, tokens;
  float scale;
  const float* queries;
  float* out;
  unsigned threads;
};
void attend_dense(const DenseRequest<uint16_t>& request);
void attend_dense(const DenseRequest<float>& request);

}  // namespace tidemill::blockgtq

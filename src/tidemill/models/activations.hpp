// The input of a product, as floats and, when a matrix asks for it, as int8 in blocks of 32.
//
// One object serves every product of a step, so that its memory is taken once, and matrices with
// the same input (q, k, v; gate, up) share one quantisation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "pool.hpp"

namespace tidemill::models {

constexpr size_t kBlock = 32;   // inputs that share a scale
constexpr size_t kChunk = 128;  // columns (tokens) that lie together, so that a chunk stays in L2

// An input of more than this many times its token's rms is kept as a float, beside the codes. So
// the error of the codes is at most kTowering^2 / (12 * 127^2) of the token's energy, however far a
// few inputs tower over the others.
constexpr float kTowering = 3.0f;

struct Tower {
  float value;
  uint16_t token;  // in its chunk
  uint8_t column;  // in its block
};

// Of one block of one token: x ~ scale * code.
struct BlockInfo {
  float scale;         // NaN when the block holds a NaN or an infinity, so that outputs show it
  float scaled_sum;    // scale * sum, what a matrix with minima multiplies them with
  int32_t sum;         // of all 32 codes
  int32_t first_half;  // of the first 16
};

class Activations {
 public:
  // Points at tokens x cols floats, row i at x + i * ldx, and forgets the codes of the former ones.
  // The floats must stay until the last product with them.
  void bind(const float* x, size_t ldx, size_t tokens, size_t cols);
  // Makes the codes if they are not there yet.
  void quantise(Pool& pool);

  const float* row(size_t token) const { return x_ + token * ldx_; }
  size_t tokens() const { return tokens_; }
  size_t cols() const { return cols_; }
  size_t blocks() const { return blocks_; }
  // False once quantise has met a NaN or an infinity.
  bool is_finite() const { return finite_; }

  // Tokens lie in chunks of kChunk (the last may hold fewer): codes as [block][token][32] and infos
  // as [block][token] inside a chunk.
  size_t chunks() const { return (tokens_ + kChunk - 1) / kChunk; }
  size_t chunk_tokens(size_t chunk) const {
    return chunk + 1 < chunks() ? kChunk : tokens_ - chunk * kChunk;
  }
  const int8_t* codes(size_t chunk) const {
    return codes_.data() + chunk * kChunk * blocks_ * kBlock;
  }
  const BlockInfo* infos(size_t chunk) const { return infos_.data() + chunk * kChunk * blocks_; }

  // What is kept as floats in a block of a chunk, by token, then column.
  std::span<const Tower> towers(size_t chunk, size_t block) const {
    const Chunk& list = lists_[chunk];
    return {list.towers.data() + list.ends[block], list.towers.data() + list.ends[block + 1]};
  }

 private:
  struct Found {
    uint32_t block;
    uint8_t column;
    float value;
  };
  struct Chunk {
    std::vector<Tower> towers;
    std::vector<uint32_t> ends;  // of the block before; one more than there are blocks
  };

  bool quantise_token(size_t token);
  void list_towers(size_t chunk);

  const float* x_ = nullptr;
  size_t ldx_ = 0, tokens_ = 0, cols_ = 0, blocks_ = 0;
  bool quantised_ = false;
  bool finite_ = true;
  std::vector<int8_t> codes_;
  std::vector<BlockInfo> infos_;
  std::vector<std::vector<Found>> found_;  // of each token
  std::vector<Chunk> lists_;
};

}  // namespace tidemill::models

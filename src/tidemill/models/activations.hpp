// The input of a product, as floats and, when a matrix asks for it, as int8 in blocks of 32.
//
// One object serves every product of a step, so that its memory is taken once, and matrices with
// the same input (q, k, v; gate, up) share one quantisation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "pool.hpp"

namespace tidemill::models {

constexpr size_t kBlock = 32;   // inputs that share a scale
constexpr size_t kChunk = 128;  // columns (tokens) that lie together, so that a chunk stays in L2

// A block whose largest input is more than this many times its token's rms has a second plane of
// codes for what the first leaves, 1/256 as large. So the error that is left is at most
// kFine^2 / (12 * 127^2) of the token's energy, however a few inputs tower over the others.
constexpr float kFine = 3.0f;
constexpr float kFinePart = 1.0f / 256.0f;

// Of one block of one token: x ~ scale * code, summed over its planes.
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

  // The second planes, where there are any: codes and infos as those of the first, but only those
  // of the listed tokens count. fine_tokens: kChunk for each block, fine_counts of them in use.
  const int8_t* fine_codes(size_t chunk) const {
    return fine_codes_.data() + chunk * kChunk * blocks_ * kBlock;
  }
  const BlockInfo* fine_infos(size_t chunk) const {
    return fine_infos_.data() + chunk * kChunk * blocks_;
  }
  const uint8_t* fine_tokens(size_t chunk) const {
    return fine_tokens_.data() + chunk * kChunk * blocks_;
  }
  const uint8_t* fine_counts(size_t chunk) const { return fine_counts_.data() + chunk * blocks_; }

 private:
  bool quantise_token(size_t token);
  void list_fine(size_t chunk);

  const float* x_ = nullptr;
  size_t ldx_ = 0, tokens_ = 0, cols_ = 0, blocks_ = 0;
  bool quantised_ = false;
  bool finite_ = true;
  std::vector<int8_t> codes_, fine_codes_;
  std::vector<BlockInfo> infos_, fine_infos_;
  std::vector<uint8_t> is_fine_, fine_tokens_, fine_counts_;
};

}  // namespace tidemill::models

// A whole decoder in one call: tokens of any number of sequences in, logits out.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "kv.hpp"
#include "linear.hpp"
#include "pool.hpp"

namespace tidemill::models {

struct DecoderShape {
  size_t hidden = 0, inner = 0, heads = 0, kv_heads = 0, head_dim = 0, vocab = 0, context = 0;
  float eps = 0, query_scale = 0, embedding_scale = 1;
  bool gelu = false;         // else SiLU
  bool interleaved = false;  // how rotations pair dimensions
};

// Vectors that an architecture lacks are empty.
struct Layer {
  std::shared_ptr<Linear> q, k, v, o, gate, up, down;
  std::vector<float> attn_norm, q_bias, k_bias, v_bias, o_bias, q_norm, k_norm, post_attn_norm;
  std::vector<float> ffn_norm, post_ffn_norm;
  std::vector<float> frequencies;  // radians per position, head_dim / 2
  float magnitude = 1;             // of rotated q and k
  size_t window = 0;               // 0: all
};

// What a step does for one sequence: a piece of a prompt, or one token of a text.
struct Slice {
  std::shared_ptr<KVCache> cache;
  const int32_t* tokens;
  size_t count;
  size_t wanted;  // logits after the last so many of them; at most count
};

class Decoder {
 public:
  // Throws std::invalid_argument naming the part whose size does not fit.
  Decoder(DecoderShape shape, std::vector<Layer> layers, std::shared_ptr<Linear> embedding,
          std::shared_ptr<Linear> head, std::vector<float> output_norm);

  const DecoderShape& shape() const { return shape_; }
  KVShape kv_shape() const { return {layers_.size(), shape_.kv_heads, shape_.head_dim}; }
  size_t bytes() const;                        // of weights that a step of one token reads
  double seconds() const { return seconds_; }  // spent in steps so far, waiting not counted

  // Writes the wanted rows, vocab floats each, in the order of the slices. Throws InputError or
  // OutOfPool, and then no cache has changed. Calls take turns; a cache that another call holds is
  // refused.
  void step(std::span<const Slice> slices, float* logits, Pool& pool);
  // As step, but the id of the largest logit of each row (the first of equal ones).
  void step_greedy(std::span<const Slice> slices, size_t* best, Pool& pool);

 private:
  struct Buffers;
  void run(std::span<const Slice> slices, float* logits, size_t* best, Pool& pool);
  void check(std::span<const Slice> slices) const;
  void embed(std::span<const Slice> slices, Pool& pool);
  void attend(const Layer& layer, size_t index, std::span<const Slice> slices, Pool& pool);
  void rotate_all(const Layer& layer, size_t index, Pool& pool);
  void mix(const Layer& layer, size_t index, std::span<const Slice> slices, Pool& pool);
  void feed_forward(const Layer& layer, size_t index, Pool& pool);
  void add_output(const std::vector<float>& bias, const std::vector<float>& post_norm, Pool& pool);
  size_t norm_outputs(std::span<const Slice> slices);
  void write_logits(std::span<const Slice> slices, float* logits, size_t* best, Pool& pool);
  bool look_through(const float* logits, size_t rows, size_t* best, Pool& pool);
  void norm(const std::vector<float>& weight, size_t index, Pool& pool);
  size_t table_of(const Layer& layer);

  DecoderShape shape_;
  std::vector<Layer> layers_;
  std::vector<size_t> tables_;       // of each layer, which angles
  std::vector<size_t> table_owner_;  // of each table of angles, the first layer that has it
  std::shared_ptr<Linear> embedding_, head_;
  std::vector<float> output_norm_;
  std::mutex turn_;
  std::atomic<double> seconds_{0};
  std::shared_ptr<Buffers> buffers_;
};

}  // namespace tidemill::models

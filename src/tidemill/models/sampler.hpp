// The next token from logits: penalties, temperature, top-k, top-p, min-p, and a seeded draw.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

namespace tidemill::models {

/// Philox4x32-10 (Salmon et al. 2011): the random words of one counter under one key.
std::array<uint32_t, 4> philox(uint64_t key, uint64_t counter);

/// A number in [0, 1) with 53 random bits, the `counter`-th of `seed`.
double uniform(uint64_t seed, uint64_t counter);

/// Values as checked by Python's SamplingParams; the defaults change nothing.
struct SamplingSettings {
  float temperature = 1;  // 0: always the largest logit
  size_t top_k = 0;       // 0: all
  double top_p = 1;
  double min_p = 0;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  uint64_t seed = 0;
};

/// Draws the tokens of one sequence; for one thread. Reuses its buffers from token to token.
///
/// Order as in transformers: bias, repetition penalty, presence and frequency penalty (vLLM's, of
/// generated tokens), temperature, top-k, top-p, min-p. Of equal logits, top-k keeps all, top-p
/// drops the lower ids first, greedy takes the lowest. The draw goes through the kept tokens by id.
class Sampler {
 public:
  Sampler(const SamplingSettings& settings, std::vector<std::pair<int32_t, float>> bias)
      : settings_(settings), bias_(std::move(bias)) {}

  /// Counts a token of the prompt, for the repetition penalty.
  void see_prompt(int32_t id) { seen_.try_emplace(id, 0); }
  /// Counts a generated token, as `sample` does with what it returns.
  void see_output(int32_t id);

  /// The next token's id; it is counted. Throws std::domain_error for a NaN or +inf logit, or when
  /// all are -inf. O(vocabulary), no sort of it.
  int32_t sample(std::span<const float> logits);

  uint64_t drawn() const { return drawn_; }

 private:
  std::span<const float> penalised(std::span<const float> logits);
  int32_t id_of(size_t kept) const {
    return ids_.empty() ? static_cast<int32_t>(kept) : ids_[kept];
  }
  void keep_all(std::span<const float> logits);
  void keep_top_k(std::span<const float> logits);
  double weigh(float largest);
  void keep_top_p(double total);
  void keep_min_p();
  int32_t pick();
  template <class Keeps>
  void compact(const Keeps& keeps);

  SamplingSettings settings_;
  std::vector<std::pair<int32_t, float>> bias_;
  std::unordered_map<int32_t, uint32_t> seen_;  // how often generated; 0: only in the prompt
  uint64_t drawn_ = 0;
  std::vector<float> changed_;      // the logits with bias and penalties
  std::vector<float> largest_;      // of each block of them
  std::vector<float> scores_;       // of the tokens still kept, by id: logits over temperature,
  std::vector<double> weights_;     // exp(score - largest score),
  std::vector<int32_t> ids_;        // and ids; empty while all are kept
  std::vector<double> sums_;        // scratch of pick
  std::vector<uint32_t> crossing_;  // scratch of keep_top_p
};

}  // namespace tidemill::models

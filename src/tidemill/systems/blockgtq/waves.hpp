// What the mean key adds to the scores of a tile: Σ_b x_b cos(θ_b u) + y_b sin(θ_b u) for each
// head, u being the distance from the tile's middle, ±0.5 … ±15.5 tokens.
//
// Most RoPE blocks turn little within a tile: their cosines and sines are polynomials of degree 5
// in u to within kWaveError, so that all of them together are one polynomial, six numbers a head.
// Only the few fast blocks are summed one by one. Cosines are even and sines odd, so that half of
// the tokens give the other half.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tidemill::blockgtq {

inline constexpr double kWaveError = 1.0 / 65536;  // of a slow block's amplitude
inline constexpr size_t kTerms = 3;                // of an even or odd polynomial
inline constexpr size_t kHalfTile = 16;

// The blocks that carry a mean, slow ones first; both kinds are padded to whole registers with
// blocks that stand still and carry nothing.
struct Waves {
  static constexpr uint32_t kPadding = UINT32_MAX;
  size_t slow = 0, fast = 0;               // how many, padding included
  std::vector<uint32_t> blocks;            // of the head; slow + fast of them
  std::vector<double> frequencies;         // radians per token
  std::vector<double> step_cos, step_sin;  // of a tile
  std::vector<float> even, odd;     // terms x slow: cos(θu) ≈ Σ even x^2k, sin(θu) ≈ Σ odd x^(2k+1)
  std::vector<float> cosine, sine;  // fast x 16, at u = 0.5 …
  bool empty() const { return blocks.empty(); }
  size_t count() const { return blocks.size(); }

  Waves() = default;
  Waves(const std::vector<uint32_t>& carrying, const std::vector<double>& all_frequencies);
};

// Of one query head: qᵀR_p μ = Σ even cos(θp) + odd sin(θp) at position p, blocks in `waves`'
// order.
struct Amplitudes {
  std::vector<float> even, odd;
  Amplitudes(const Waves& waves, const float* query, const float* mean, size_t half, float scale);
};

// Where the blocks stand at the middle of one tile after the other.
class Phases {
 public:
  Phases(const Waves& waves, int64_t position);  // of the first tile's first token
  void next();
  const float* cosine() const { return shown_cos_.data(); }
  const float* sine() const { return shown_sin_.data(); }

 private:
  void show();
  const Waves& waves_;
  std::vector<double> cos_, sin_;
  std::vector<float> shown_cos_, shown_sin_;
};

// Writes the 32 scores of one head.
void wave_scores(const Waves& waves, const Phases& phases, const Amplitudes& head, float* scores);

}  // namespace tidemill::blockgtq

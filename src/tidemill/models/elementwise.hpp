// What stands between the products of a layer: norms, rotations, the gate of the MLP.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace tidemill::models {

// exp within 2 ulp for finite x, clamped to [e^-87, e^88]; NaN stays NaN. Plain arithmetic, so that
// the compiler turns a loop of it into vectors.
inline float fast_exp(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds to an integer
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float power = std::bit_cast<float>((std::bit_cast<int32_t>(shifted) << 23) + (127 << 23));
  return (p * r * r + r + 1.0f) * power;
}

// y = x / sqrt(mean(x^2) + eps) * weight; may be in place. False if x holds a NaN or an infinity.
bool rms_norm(const float* x, const float* weight, size_t size, float eps, float* y);

// One token's angles, `half` of each.
void angles_of(const float* frequencies, size_t half, float magnitude, size_t position, float* cos,
               float* sin);
// Rotates one head in place: pairs (2i, 2i + 1) if interleaved, else (i, i + half).
void rotate(float* head, size_t half, const float* cos, const float* sin, bool interleaved);

void add_to(float* x, const float* other, size_t size);
// gate = act(gate) * up
void gate_silu(float* gate, const float* up, size_t size);
void gate_gelu(float* gate, const float* up, size_t size);

size_t largest_of(const float* values, size_t size);  // the first of equal ones; all finite
bool all_finite(const float* values, size_t size);

}  // namespace tidemill::models

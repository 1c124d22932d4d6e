#include "elementwise.hpp"

#include <algorithm>
#include <cmath>

namespace tidemill::models {

namespace {

constexpr size_t kLanes = 16;

float sum_of_squares(const float* x, size_t size) {
  float lanes[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= size; i += kLanes)
    for (size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += x[i + lane] * x[i + lane];
  for (size_t lane = 0; i < size; ++i, ++lane) lanes[lane] += x[i] * x[i];
  for (size_t width = kLanes / 2; width > 0; width /= 2)
    for (size_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  return lanes[0];
}

}  // namespace

bool rms_norm(const float* x, const float* weight, size_t size, float eps, float* y) {
  const float squares = sum_of_squares(x, size);
  const float scale = 1.0f / std::sqrt(squares / static_cast<float>(size) + eps);
  for (size_t i = 0; i < size; ++i) y[i] = x[i] * scale * weight[i];
  return std::isfinite(squares);
}

void angles_of(const float* frequencies, size_t half, float magnitude, size_t position, float* cos,
               float* sin) {
  for (size_t i = 0; i < half; ++i) {
    const float angle = static_cast<float>(position) * frequencies[i];
    cos[i] = std::cos(angle) * magnitude;
    sin[i] = std::sin(angle) * magnitude;
  }
}

void rotate(float* head, size_t half, const float* cos, const float* sin, bool interleaved) {
  const size_t step = interleaved ? 2 : 1, distance = interleaved ? 1 : half;
  for (size_t i = 0; i < half; ++i) {
    float& first = head[i * step];
    float& second = head[i * step + distance];
    const float x = first, y = second;
    first = x * cos[i] - y * sin[i];
    second = x * sin[i] + y * cos[i];
  }
}

void add_to(float* x, const float* other, size_t size) {
  for (size_t i = 0; i < size; ++i) x[i] += other[i];
}

void gate_silu(float* gate, const float* up, size_t size) {
  for (size_t i = 0; i < size; ++i) gate[i] = gate[i] / (1.0f + fast_exp(-gate[i])) * up[i];
}

// tanh(z) = 1 - 2 / (exp(2z) + 1), so gelu(x) = x - x / (exp(2z) + 1).
void gate_gelu(float* gate, const float* up, size_t size) {
  constexpr float kTwice = 2.0f * 0.7978845608f;
  for (size_t i = 0; i < size; ++i) {
    const float x = gate[i];
    const float z = kTwice * x * (1.0f + 0.044715f * x * x);
    gate[i] = (x - x / (fast_exp(z) + 1.0f)) * up[i];
  }
}

size_t largest_of(const float* values, size_t size) {
  float lanes[kLanes];
  for (float& lane : lanes) lane = values[0];
  size_t i = 0;
  for (; i + kLanes <= size; i += kLanes)
    for (size_t lane = 0; lane < kLanes; ++lane)
      lanes[lane] = values[i + lane] > lanes[lane] ? values[i + lane] : lanes[lane];
  float top = *std::max_element(lanes, lanes + kLanes);
  for (; i < size; ++i) top = std::max(top, values[i]);
  return static_cast<size_t>(std::find(values, values + size, top) - values);
}

bool all_finite(const float* values, size_t size) {
  float lanes[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= size; i += kLanes)
    for (size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += values[i + lane] * 0.0f;
  for (; i < size; ++i) lanes[0] += values[i] * 0.0f;
  return std::all_of(lanes, lanes + kLanes, [](float lane) { return lane == 0.0f; });
}

}  // namespace tidemill::models

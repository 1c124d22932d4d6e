#include "selector.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace tidemill::grinqh {

namespace {

float as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

uint32_t as_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

void take_above(const std::vector<float>& energy, float slope, float water,
                std::vector<uint8_t>& taken) {
  for (size_t j = 0; j < energy.size(); ++j) taken[j] += energy[j] * slope > water;
}

}  // namespace

bool Selector::pool(const float* x, size_t block, std::vector<float>& energy) const {
  constexpr size_t kLanes = 8;
  energy.resize(channels() / block);
  if (block == 1) {
    for (size_t j = 0; j < energy.size(); ++j) energy[j] = x[j] * x[j] * norm2_[j];
  } else {
    for (size_t j = 0; j < energy.size(); ++j) {
      float sum = 0;
      for (size_t i = j * block; i < (j + 1) * block; ++i) sum += x[i] * x[i] * norm2_[i];
      energy[j] = sum / static_cast<float>(block);
    }
  }
  float total[kLanes] = {};  // of lanes, so that the compiler adds them in one register
  size_t j = 0;
  for (; j + kLanes <= energy.size(); j += kLanes)
    for (size_t k = 0; k < kLanes; ++k) total[k] += energy[j + k];
  for (; j < energy.size(); ++j) total[0] += energy[j];
  bool is_finite = true;
  for (const float each : total) is_finite &= std::isfinite(each);
  return is_finite;
}

size_t Selector::cost_above(const std::vector<float>& energy, float water) const {
  size_t cost = 0;
  for (const Step& step : steps_) {
    uint32_t count = 0;
    for (size_t j = 0; j < energy.size(); ++j) count += energy[j] * step.slope > water;
    cost += size_t{count} * step.cost;
  }
  return cost;
}

void Selector::write(const std::vector<uint8_t>& taken, size_t block, uint8_t* levels) const {
  uint8_t level[8] = {0};
  for (size_t k = 0; k < steps_.size(); ++k) level[k + 1] = steps_[k].level;
  for (size_t j = 0; j < taken.size(); ++j) std::fill_n(levels + j * block, block, level[taken[j]]);
}

bool Selector::within(const float* x, size_t budget, size_t block, uint8_t* levels) const {
  static thread_local std::vector<float> energy;
  static thread_local std::vector<uint8_t> taken;
  if (!pool(x, block, energy)) return false;
  // The least water for which the steps above it fit; positive floats are ordered as their bits.
  // It is looked for around that of the last token, which does not change what is found.
  const auto fits = [&](uint32_t bits, size_t& cost) {
    cost = cost_above(energy, as_float(bits));
    return cost <= budget;
  };
  const uint32_t none = as_bits(std::numeric_limits<float>::infinity());
  uint32_t low = 0, high = none, step = uint32_t{1} << 21;
  size_t cost = 0, found = 0;
  uint32_t probe = hint_.load(std::memory_order_relaxed);
  if (fits(probe, found)) {
    high = probe;
    cost = found;
    while (cost != budget && high > step && fits(probe = high - step, found)) {
      high = probe;
      cost = found;
      step *= 2;
    }
    low = high > step ? high - step + 1 : 0;
  } else {
    low = probe + 1;
    while (none - low > step && !fits(probe = low + step, found)) {
      low = probe + 1;
      step *= 2;
    }
    if (none - low > step) {
      high = probe;
      cost = found;
    }
  }
  while (low < high && cost != budget) {  // when all is spent, a lower water changes nothing
    const uint32_t middle = low + (high - low) / 2;
    if (fits(middle, found)) {
      high = middle;
      cost = found;
    } else {
      low = middle + 1;
    }
  }
  hint_.store(high, std::memory_order_relaxed);
  const float water = as_float(high);
  taken.assign(energy.size(), 0);
  for (const Step& step : steps_) take_above(energy, step.slope, water, taken);
  size_t left = budget - cost;
  for (size_t k = 0; k < steps_.size(); ++k) {  // ties: lower step, then lower channel
    for (size_t j = 0; j < energy.size() && left > 0; ++j) {
      if (taken[j] != k || energy[j] * steps_[k].slope != water) continue;
      if (steps_[k].cost > left) {
        left = 0;
        break;
      }
      ++taken[j];
      left -= steps_[k].cost;
    }
  }
  write(taken, block, levels);
  return true;
}

bool Selector::above(const float* x, float water, size_t block, uint8_t* levels) const {
  static thread_local std::vector<float> energy;
  static thread_local std::vector<uint8_t> taken;
  if (!pool(x, block, energy)) return false;
  taken.assign(energy.size(), 0);
  for (const Step& step : steps_) take_above(energy, step.slope, water, taken);
  write(taken, block, levels);
  return true;
}

}  // namespace tidemill::grinqh

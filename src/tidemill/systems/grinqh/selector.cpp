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
  constexpr size_t kLanes = 32;  // compared as floats, then counted as bytes
  size_t j = 0;
  for (; j + kLanes <= energy.size(); j += kLanes) {
    uint32_t is_above[kLanes];
    for (size_t k = 0; k < kLanes; ++k) is_above[k] = energy[j + k] * slope > water;
    for (size_t k = 0; k < kLanes; ++k) taken[j + k] += static_cast<uint8_t>(is_above[k]);
  }
  for (; j < energy.size(); ++j) taken[j] += energy[j] * slope > water;
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

Selector::Above Selector::above_water(const std::vector<float>& energy, float water) const {
  Above above{0, 0};
  for (const Step& step : steps_) {
    uint32_t count = 0;
    for (size_t j = 0; j < energy.size(); ++j) count += energy[j] * step.slope > water;
    above.cost += size_t{count} * step.cost;
    above.count += count;
  }
  return above;
}

void Selector::write(const std::vector<uint8_t>& taken, size_t block, uint8_t* levels) const {
  uint8_t level[8] = {0};
  for (size_t k = 0; k < steps_.size(); ++k) level[k + 1] = steps_[k].level;
  if (block == 1) {
    for (size_t j = 0; j < taken.size(); ++j) levels[j] = level[taken[j]];
    return;
  }
  for (size_t j = 0; j < taken.size(); ++j) std::fill_n(levels + j * block, block, level[taken[j]]);
}

bool Selector::within(const float* x, size_t budget, size_t block, uint8_t* levels) const {
  static thread_local std::vector<float> energy;
  static thread_local std::vector<uint8_t> taken;
  if (!pool(x, block, energy)) return false;
  // The least water for which the steps above it fit; positive floats are ordered as their bits.
  // It is looked for around that of the last token, which does not change what is found.
  const uint32_t none = as_bits(std::numeric_limits<float>::infinity());
  uint32_t low = 0, high = none, reach = uint32_t{1} << 21;
  Above best{0, 0}, beyond{0, std::numeric_limits<size_t>::max()};  // at high; below low
  const auto probe = [&](uint32_t bits) {
    const Above found = above_water(energy, as_float(bits));
    const bool fits = found.cost <= budget;
    (fits ? high : low) = fits ? bits : bits + 1;
    (fits ? best : beyond) = found;
    return fits;
  };
  // when all is spent a lower water changes nothing, nor when the only step left does not fit
  const auto is_settled = [&] {
    return low >= high || best.cost == budget || beyond.count - best.count == 1;
  };
  if (probe(hint_.load(std::memory_order_relaxed))) {
    while (!is_settled() && high > reach && probe(high - reach)) reach *= 2;
  } else {
    while (none - low > reach && !probe(low + reach)) reach *= 2;
  }
  for (size_t turn = 1; !is_settled(); ++turn) {
    double share =
        0.5;  // costs fall about evenly with the bits of a water: two guesses, one halving
    if (turn % 3 != 0 && low > 0)
      share =
          static_cast<double>(beyond.cost - budget) / static_cast<double>(beyond.cost - best.cost);
    probe(low + static_cast<uint32_t>(share * static_cast<double>(high - low - 1)));
  }
  hint_.store(high, std::memory_order_relaxed);
  const float water = as_float(high);
  taken.assign(energy.size(), 0);
  for (const Step& step : steps_) take_above(energy, step.slope, water, taken);
  size_t left = low < high ? 0 : budget - best.cost;
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

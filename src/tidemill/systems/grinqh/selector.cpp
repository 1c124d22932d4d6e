#include "selector.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

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
  energy.resize(channels() / block);
  float total = 0;
  for (size_t j = 0; j < energy.size(); ++j) {
    float sum = 0;
    for (size_t i = j * block; i < (j + 1) * block; ++i) sum += x[i] * x[i] * norm2_[i];
    energy[j] = sum / static_cast<float>(block);
    total += energy[j];
  }
  return std::isfinite(total);
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
  // the least water for which the steps above it fit; positive floats are ordered as their bits
  const float most = *std::max_element(energy.begin(), energy.end()) * steps_[0].slope;
  uint32_t low = 0, high = as_bits(most);
  const uint32_t likely = as_bits(most * 0x1p-40f);
  (cost_above(energy, as_float(likely)) <= budget ? high : low) = likely;
  size_t cost = cost_above(energy, as_float(high));
  while (low < high && cost != budget) {  // when all is spent, a lower water changes nothing
    const uint32_t middle = low + (high - low) / 2;
    const size_t found = cost_above(energy, as_float(middle));
    if (found <= budget) {
      high = middle;
      cost = found;
    } else {
      low = middle + 1;
    }
  }
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

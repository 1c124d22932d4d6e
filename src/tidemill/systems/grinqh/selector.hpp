// Which channels a token reads at which level: water-filling over activation energy.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace tidemill::grinqh {

// From the level below to `level` costs `cost` bits and saves `slope` of the energy for each.
struct Step {
  uint8_t level;
  uint32_t cost;
  float slope;  // lower than that of the step before
};

// Of one or more matrices with a common input. The energy of channel j is x[j]^2 norm2[j]; blocks
// of neighbouring channels share a level, that of their mean energy.
class Selector {
 public:
  Selector(const float* norm2, size_t channels, std::vector<Step> steps)
      : norm2_(norm2, norm2 + channels), steps_(std::move(steps)) {}

  size_t channels() const { return norm2_.size(); }

  // The best levels that take at most `budget` bits, counted in blocks; ties go to the lower step,
  // then to the lower channel. Equal to selection.by_budget. False: an input is not finite.
  bool within(const float* x, size_t budget, size_t block, uint8_t* levels) const;
  // Every step that saves more than `water` per bit. Equal to selection.by_threshold.
  bool above(const float* x, float water, size_t block, uint8_t* levels) const;

 private:
  bool pool(const float* x, size_t block, std::vector<float>& energy) const;
  struct Above {
    size_t cost, count;  // of all steps that save more
  };
  Above above_water(const std::vector<float>& energy, float water) const;
  void write(const std::vector<uint8_t>& taken, size_t block, uint8_t* levels) const;

  mutable std::atomic<uint32_t> hint_{0x3f800000};  // the last water, as bits
  std::vector<float> norm2_;
  std::vector<Step> steps_;
};

}  // namespace tidemill::grinqh

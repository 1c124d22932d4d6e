#include "sampler.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <queue>
#include <stdexcept>

namespace tidemill::models {

namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();
constexpr size_t kBlock = 64;
constexpr size_t kLanes = 16;
constexpr size_t kHeapLimit = 1024;  // more than that are selected in a copy

/// exp(x) for x <= 0 to 1 ulp, without a call or a branch so that the loop around it is vector
/// code.
inline double exp_of(double x) {
  constexpr double kMagic = 0x1.8p52;  // adding it rounds to an integer, kept in the low bits
  constexpr double kLog2E = 0x1.71547652b82fep0;
  constexpr double kLn2High = 0x1.62e42fefa0000p-1, kLn2Low = 0x1.cf79abc9e3b3ap-40;
  const double clamped = x < -708.0 ? -708.0 : x;
  const double shifted = clamped * kLog2E + kMagic;
  const double power = shifted - kMagic;
  const double r = (clamped - power * kLn2High) - power * kLn2Low;
  double y = 1.0 / 6227020800.0;
  y = y * r + 1.0 / 479001600.0;
  y = y * r + 1.0 / 39916800.0;
  y = y * r + 1.0 / 3628800.0;
  y = y * r + 1.0 / 362880.0;
  y = y * r + 1.0 / 40320.0;
  y = y * r + 1.0 / 5040.0;
  y = y * r + 1.0 / 720.0;
  y = y * r + 1.0 / 120.0;
  y = y * r + 1.0 / 24.0;
  y = y * r + 1.0 / 6.0;
  y = y * r + 0.5;
  y = y * r + 1.0;
  y = y * r + 1.0;
  const double scale = std::bit_cast<double>((std::bit_cast<uint64_t>(shifted) + 1023) << 52);
  return x < -708.0 ? 0.0 : y * scale;
}

/// The largest of each block; throws for NaN and +inf, and when all are -inf.
float scan(std::span<const float> logits, std::vector<float>& largest) {
  largest.resize((logits.size() + kBlock - 1) / kBlock);
  bool nan = false;
  float all = kLowest;
  for (size_t block = 0; block < largest.size(); ++block) {
    const float* at = logits.data() + block * kBlock;
    const size_t count = std::min(kBlock, logits.size() - block * kBlock);
    float most[kLanes];
    int odd[kLanes] = {};
    std::fill_n(most, kLanes, kLowest);
    size_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      for (size_t lane = 0; lane < kLanes; ++lane) {
        const float value = at[i + lane];
        most[lane] = value > most[lane] ? value : most[lane];
        odd[lane] |= value != value;
      }
    }
    for (; i < count; ++i) {
      most[0] = std::max(most[0], at[i]);
      odd[0] |= at[i] != at[i];
    }
    largest[block] = *std::max_element(most, most + kLanes);
    all = std::max(all, largest[block]);
    for (const int found : odd) nan |= found != 0;
  }
  if (nan) throw std::domain_error("NaN");
  if (all == -kLowest) throw std::domain_error("+inf");
  if (all == kLowest) throw std::domain_error("-inf everywhere");
  return all;
}

/// Rounded on its own, where the compiler would fuse it into a sum that NumPy rounds twice.
float product(float a, float b) {
  return static_cast<float>(static_cast<double>(a) * static_cast<double>(b));
}

double sum(std::span<const double> values) {
  double sums[4] = {};
  size_t i = 0;
  for (; i + 4 <= values.size(); i += 4)
    for (size_t lane = 0; lane < 4; ++lane) sums[lane] += values[i + lane];
  for (; i < values.size(); ++i) sums[0] += values[i];
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

/// Eight buckets an octave, the largest weights (1) in the first.
constexpr size_t kBuckets = 8 * 1024;
size_t bucket_of(double weight) {
  return (std::bit_cast<uint64_t>(1.0) - std::bit_cast<uint64_t>(weight)) >> 49;
}

/// The k-th largest logit. `largest` holds that of each block, so most blocks are skipped.
float kth_largest(std::span<const float> logits, size_t k, const std::vector<float>& largest) {
  if (k > kHeapLimit) {
    std::vector<float> copy(logits.begin(), logits.end());
    std::nth_element(copy.begin(), copy.begin() + static_cast<ptrdiff_t>(k - 1), copy.end(),
                     std::greater<>());
    return copy[k - 1];
  }
  std::priority_queue<float, std::vector<float>, std::greater<>> best;
  for (size_t block = 0; block < largest.size(); ++block) {
    if (best.size() == k && largest[block] <= best.top()) continue;
    const size_t end = std::min(logits.size(), (block + 1) * kBlock);
    for (size_t i = block * kBlock; i < end; ++i) {
      if (best.size() < k) {
        best.push(logits[i]);
      } else if (logits[i] > best.top()) {
        best.pop();
        best.push(logits[i]);
      }
    }
  }
  return best.top();
}

}  // namespace

std::array<uint32_t, 4> philox(uint64_t key, uint64_t counter) {
  std::array<uint32_t, 4> words{static_cast<uint32_t>(counter),
                                static_cast<uint32_t>(counter >> 32), 0, 0};
  auto low = static_cast<uint32_t>(key), high = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * words[0], b = uint64_t{0xCD9E8D57} * words[2];
    words = {static_cast<uint32_t>(b >> 32) ^ words[1] ^ low, static_cast<uint32_t>(b),
             static_cast<uint32_t>(a >> 32) ^ words[3] ^ high, static_cast<uint32_t>(a)};
    low += 0x9E3779B9;
    high += 0xBB67AE85;
  }
  return words;
}

double uniform(uint64_t seed, uint64_t counter) {
  const auto words = philox(seed, counter);
  return static_cast<double>((uint64_t{words[1]} << 32 | words[0]) >> 11) * 0x1p-53;
}

void Sampler::see_output(int32_t id) {
  ++seen_[id];
  ++drawn_;
}

std::span<const float> Sampler::penalised(std::span<const float> logits) {
  const SamplingSettings& s = settings_;
  const bool penalties =
      s.repetition_penalty != 1 || s.presence_penalty != 0 || s.frequency_penalty != 0;
  if (bias_.empty() && (seen_.empty() || !penalties)) return logits;
  changed_.assign(logits.begin(), logits.end());
  for (const auto& [id, amount] : bias_)
    if (static_cast<size_t>(id) < changed_.size()) changed_[static_cast<size_t>(id)] += amount;
  if (!penalties) return changed_;
  for (const auto& [id, count] : seen_) {
    if (static_cast<size_t>(id) >= changed_.size()) continue;
    float& logit = changed_[static_cast<size_t>(id)];
    logit = logit < 0 ? product(logit, s.repetition_penalty) : logit / s.repetition_penalty;
    if (count == 0) continue;
    logit -= product(s.frequency_penalty, static_cast<float>(count));
    logit -= s.presence_penalty;
  }
  return changed_;
}

int32_t Sampler::sample(std::span<const float> given) {
  const std::span<const float> logits = penalised(given);
  const float largest = scan(logits, largest_);
  int32_t id;
  if (settings_.temperature == 0) {
    const size_t block = static_cast<size_t>(std::find(largest_.begin(), largest_.end(), largest) -
                                             largest_.begin());
    id = static_cast<int32_t>(
        std::find(logits.begin() + static_cast<ptrdiff_t>(block * kBlock), logits.end(), largest) -
        logits.begin());
  } else {
    if (settings_.top_k > 0 && settings_.top_k < logits.size()) {
      keep_top_k(logits);
    } else {
      keep_all(logits);
    }
    const double total = weigh(largest / settings_.temperature);
    if (settings_.top_p < 1) keep_top_p(total);
    if (settings_.min_p > 0) keep_min_p();
    id = pick();
  }
  see_output(id);
  return id;
}

void Sampler::keep_all(std::span<const float> logits) {
  ids_.clear();
  scores_.resize(logits.size());
  const float temperature = settings_.temperature;
  for (size_t i = 0; i < logits.size(); ++i) scores_[i] = logits[i] / temperature;
}

void Sampler::keep_top_k(std::span<const float> logits) {
  const float temperature = settings_.temperature;
  const float least = kth_largest(logits, settings_.top_k, largest_) / temperature;
  scores_.clear();
  ids_.clear();
  for (size_t block = 0; block < largest_.size(); ++block) {
    if (largest_[block] / temperature < least) continue;
    const size_t end = std::min(logits.size(), (block + 1) * kBlock);
    for (size_t i = block * kBlock; i < end; ++i) {
      const float score = logits[i] / temperature;
      if (score < least) continue;
      scores_.push_back(score);
      ids_.push_back(static_cast<int32_t>(i));
    }
  }
}

double Sampler::weigh(float largest) {
  const size_t count = scores_.size();
  weights_.resize(count);
  for (size_t i = 0; i < count; ++i)
    weights_[i] = exp_of(static_cast<double>(scores_[i]) - static_cast<double>(largest));
  return sum(weights_);
}

template <class Keeps>
void Sampler::compact(const Keeps& keeps) {
  const bool all = ids_.empty();
  if (all) ids_.resize(scores_.size());
  size_t count = 0;
  for (size_t i = 0; i < scores_.size(); ++i) {
    if (!keeps(i)) continue;
    ids_[count] = all ? static_cast<int32_t>(i) : ids_[i];
    scores_[count] = scores_[i];
    weights_[count] = weights_[i];
    ++count;
  }
  ids_.resize(count);
  scores_.resize(count);
  weights_.resize(count);
}

void Sampler::keep_top_p(double total) {
  // In falling order, a token stays while the mass before it is less than top_p. The buckets tell
  // in which the border lies; only that one is sorted.
  thread_local std::vector<double> mass;
  mass.assign(kBuckets + 1, 0.0);
  for (const double weight : weights_)
    if (weight > 0) mass[bucket_of(weight)] += weight;
  const double wanted = settings_.top_p * total;
  double before = 0;
  size_t border = 0;
  while (border < kBuckets && before + mass[border] < wanted) before += mass[border++];
  crossing_.clear();
  for (size_t i = 0; i < weights_.size(); ++i)
    if (weights_[i] > 0 && bucket_of(weights_[i]) == border)
      crossing_.push_back(static_cast<uint32_t>(i));
  std::sort(crossing_.begin(), crossing_.end(), [this](uint32_t a, uint32_t b) {
    return scores_[a] != scores_[b] ? scores_[a] > scores_[b] : a > b;
  });
  float least = kLowest;
  uint32_t first = 0;
  for (const uint32_t i : crossing_) {
    if (before >= wanted) break;
    before += weights_[i];
    least = scores_[i];
    first = i;
  }
  compact([&](size_t i) {
    return weights_[i] > 0 && (scores_[i] > least || (scores_[i] == least && i >= first));
  });
}

void Sampler::keep_min_p() {
  compact([this](size_t i) { return weights_[i] >= settings_.min_p; });
}

int32_t Sampler::pick() {
  // Sums of blocks first: four chains of additions instead of one, and only one block is walked.
  const size_t blocks = (weights_.size() + kBlock - 1) / kBlock;
  sums_.resize(blocks);
  double total = 0;
  for (size_t block = 0; block < blocks; ++block) {
    const size_t begin = block * kBlock, end = std::min(weights_.size(), begin + kBlock);
    sums_[block] = sum({weights_.data() + begin, end - begin});
    total += sums_[block];
  }
  const double target = uniform(settings_.seed, drawn_) * total;
  double passed = 0;
  size_t block = 0;
  while (block + 1 < blocks && passed + sums_[block] <= target) passed += sums_[block++];
  while (sums_[block] == 0) --block;  // rounding led past the last weight
  size_t chosen = block * kBlock;
  for (size_t i = chosen; i < std::min(weights_.size(), (block + 1) * kBlock); ++i) {
    if (weights_[i] == 0) continue;
    chosen = i;
    passed += weights_[i];
    if (passed > target) break;
  }
  return id_of(chosen);
}

}  // namespace tidemill::models

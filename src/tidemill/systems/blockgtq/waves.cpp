#include "waves.hpp"

#include <algorithm>
#include <cmath>
#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace tidemill::blockgtq {

namespace {

constexpr size_t kLanes = 8, kTile = 2 * kHalfTile;
constexpr size_t kMostWaves = 272;  // 256 blocks and their padding

double distance(size_t i) { return static_cast<double>(i) + 0.5; }

// A polynomial of z = x², x = u / 16, through an even function of u at three Chebyshev nodes.
struct Fit {
  double terms[kTerms];
  double at(double z) const { return terms[0] + z * (terms[1] + z * terms[2]); }

  template <class Function>
  explicit Fit(const Function& function) {
    constexpr double kTop = 15.5 * 15.5 / 256, kPi = 3.14159265358979323846;
    double z[kTerms], y[kTerms];
    for (size_t i = 0; i < kTerms; ++i) {
      z[i] = kTop / 2 * (1 + std::cos(kPi * (2.0 * static_cast<double>(i) + 1) / (2.0 * kTerms)));
      y[i] = function(16 * std::sqrt(z[i]));
    }
    const double first = (y[1] - y[0]) / (z[1] - z[0]), other = (y[2] - y[1]) / (z[2] - z[1]);
    const double second = (other - first) / (z[2] - z[0]);
    terms[0] = y[0] - first * z[0] + second * z[0] * z[1];
    terms[1] = first - second * (z[0] + z[1]);
    terms[2] = second;
  }
};

struct Fits {
  Fit even, odd;
  explicit Fits(double frequency)
      : even([=](double u) { return std::cos(frequency * u); }),
        odd([=](double u) { return std::sin(frequency * u) / (u / 16); }) {}

  double error(double frequency) const {
    double worst = 0;
    for (size_t i = 0; i < kHalfTile; ++i) {
      const double u = distance(i), x = u / 16;
      worst = std::max(worst, std::fabs(even.at(x * x) - std::cos(frequency * u)));
      worst = std::max(worst, std::fabs(x * odd.at(x * x) - std::sin(frequency * u)));
    }
    return worst;
  }
};

template <class T>
void pad(std::vector<T>& list, T with) {
  while (list.size() % kLanes != 0) list.push_back(with);
}

}  // namespace

Waves::Waves(const std::vector<uint32_t>& carrying, const std::vector<double>& all_frequencies) {
  std::vector<uint32_t> fast_blocks;
  for (const uint32_t block : carrying) {
    const double frequency = all_frequencies[block];
    (Fits(frequency).error(frequency) > kWaveError ? fast_blocks : blocks).push_back(block);
  }
  // slow blocks that would begin a register of their own take the places that fast ones leave
  const size_t rest = blocks.size() % kLanes, places = -fast_blocks.size() % kLanes;
  if (rest <= places) {
    const auto end = blocks.begin() + static_cast<std::ptrdiff_t>(rest);
    fast_blocks.insert(fast_blocks.end(), blocks.begin(), end);
    blocks.erase(blocks.begin(), end);
  }
  pad(blocks, kPadding);
  pad(fast_blocks, kPadding);
  slow = blocks.size();
  fast = fast_blocks.size();
  blocks.insert(blocks.end(), fast_blocks.begin(), fast_blocks.end());
  for (const uint32_t block : blocks)
    frequencies.push_back(block == kPadding ? 0.0 : all_frequencies[block]);
  for (const double frequency : frequencies) {
    step_cos.push_back(std::cos(frequency * kTile));
    step_sin.push_back(std::sin(frequency * kTile));
  }
  even.resize(kTerms * slow);
  odd.resize(kTerms * slow);
  for (size_t b = 0; b < slow; ++b) {
    const Fits fits(frequencies[b]);
    for (size_t k = 0; k < kTerms; ++k) {
      even[k * slow + b] = static_cast<float>(fits.even.terms[k]);
      odd[k * slow + b] = static_cast<float>(fits.odd.terms[k]);
    }
  }
  for (size_t b = slow; b < count(); ++b)
    for (size_t i = 0; i < kHalfTile; ++i) {
      cosine.push_back(static_cast<float>(std::cos(frequencies[b] * distance(i))));
      sine.push_back(static_cast<float>(std::sin(frequencies[b] * distance(i))));
    }
}

Amplitudes::Amplitudes(const Waves& waves, const float* query, const float* mean, size_t half,
                       float scale) {
  for (const uint32_t block : waves.blocks) {
    const bool is_real = block != Waves::kPadding;
    const double x = is_real ? mean[block] : 0, y = is_real ? mean[block + half] : 0;
    const double one = is_real ? query[block] : 0, two = is_real ? query[block + half] : 0;
    even.push_back(static_cast<float>(scale * (one * x + two * y)));
    odd.push_back(static_cast<float>(scale * (two * x - one * y)));
  }
}

Phases::Phases(const Waves& waves, int64_t position)
    : waves_(waves), shown_cos_(waves.count()), shown_sin_(waves.count()) {
  for (const double frequency : waves.frequencies) {
    const double angle = frequency * (static_cast<double>(position) + kHalfTile - 0.5);
    cos_.push_back(std::cos(angle));
    sin_.push_back(std::sin(angle));
  }
  show();
}

void Phases::next() {
  for (size_t b = 0; b < cos_.size(); ++b) {
    const double c = cos_[b], s = sin_[b];
    cos_[b] = c * waves_.step_cos[b] - s * waves_.step_sin[b];
    sin_[b] = s * waves_.step_cos[b] + c * waves_.step_sin[b];
  }
  show();
}

void Phases::show() {
  for (size_t b = 0; b < cos_.size(); ++b) {
    shown_cos_[b] = static_cast<float>(cos_[b]);
    shown_sin_[b] = static_cast<float>(sin_[b]);
  }
}

#ifdef __AVX2__

namespace {

inline __m256 load(const float* at) { return _mm256_loadu_ps(at); }

// Sums of the lanes of eight registers.
inline __m256 lane_sums(const __m256* x) {
  const __m256 a = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
  const __m256 b = _mm256_hadd_ps(_mm256_hadd_ps(x[4], x[5]), _mm256_hadd_ps(x[6], x[6]));
  return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}

struct Turned {
  __m256 x, y;  // amplitudes at the tile's middle
  Turned(const Phases& phases, const Amplitudes& head, size_t b) {
    const __m256 c = load(phases.cosine() + b), s = load(phases.sine() + b);
    const __m256 even = load(head.even.data() + b), odd = load(head.odd.data() + b);
    x = _mm256_fmadd_ps(even, c, _mm256_mul_ps(odd, s));
    y = _mm256_fmsub_ps(odd, c, _mm256_mul_ps(even, s));
  }
};

// The six numbers of the slow blocks' polynomial: even terms, then odd.
inline void polynomial(const Waves& waves, const Phases& phases, const Amplitudes& head,
                       float* terms) {
  __m256 sums[2 * kTerms + 1];
  for (__m256& sum : sums) sum = _mm256_setzero_ps();
  for (size_t b = 0; b < waves.slow; b += kLanes) {
    const Turned turned(phases, head, b);
    for (size_t k = 0; k < kTerms; ++k) {
      const size_t at = k * waves.slow + b;
      sums[k] = _mm256_fmadd_ps(load(waves.even.data() + at), turned.x, sums[k]);
      sums[kTerms + k] = _mm256_fmadd_ps(load(waves.odd.data() + at), turned.y, sums[kTerms + k]);
    }
  }
  _mm256_storeu_ps(terms, lane_sums(sums));
}

inline __m256 horner(const float* terms, __m256 z) {
  const __m256 high = _mm256_fmadd_ps(_mm256_set1_ps(terms[2]), z, _mm256_set1_ps(terms[1]));
  return _mm256_fmadd_ps(high, z, _mm256_set1_ps(terms[0]));
}

inline __m256 reversed(__m256 x) {
  return _mm256_permutevar8x32_ps(x, _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0));
}

}  // namespace

void wave_scores(const Waves& waves, const Phases& phases, const Amplitudes& head, float* scores) {
  alignas(32) float terms[kLanes], x[kMostWaves], y[kMostWaves];
  polynomial(waves, phases, head, terms);
  for (size_t b = 0; b < waves.fast; b += kLanes) {
    const Turned turned(phases, head, waves.slow + b);
    _mm256_store_ps(x + b, turned.x);
    _mm256_store_ps(y + b, turned.y);
  }
  const __m256 step = _mm256_set1_ps(1.0f / 16);
  const __m256 near =
      _mm256_mul_ps(step, _mm256_setr_ps(.5f, 1.5f, 2.5f, 3.5f, 4.5f, 5.5f, 6.5f, 7.5f));
  const __m256 far = _mm256_add_ps(near, _mm256_set1_ps(0.5f));
  const __m256 near_z = _mm256_mul_ps(near, near), far_z = _mm256_mul_ps(far, far);
  __m256 even[2] = {horner(terms, near_z), horner(terms, far_z)};
  __m256 odd[2] = {_mm256_mul_ps(near, horner(terms + kTerms, near_z)),
                   _mm256_mul_ps(far, horner(terms + kTerms, far_z))};
  const float *c = waves.cosine.data(), *s = waves.sine.data();
  for (size_t b = 0; b < waves.fast; ++b) {
    const __m256 one = _mm256_set1_ps(x[b]), two = _mm256_set1_ps(y[b]);
    for (size_t i = 0; i < 2; ++i) {
      even[i] = _mm256_fmadd_ps(one, load(c + b * kHalfTile + 8 * i), even[i]);
      odd[i] = _mm256_fmadd_ps(two, load(s + b * kHalfTile + 8 * i), odd[i]);
    }
  }
  _mm256_storeu_ps(scores, reversed(_mm256_sub_ps(even[1], odd[1])));
  _mm256_storeu_ps(scores + 8, reversed(_mm256_sub_ps(even[0], odd[0])));
  _mm256_storeu_ps(scores + 16, _mm256_add_ps(even[0], odd[0]));
  _mm256_storeu_ps(scores + 24, _mm256_add_ps(even[1], odd[1]));
}

#else

void wave_scores(const Waves& waves, const Phases& phases, const Amplitudes& head, float* scores) {
  float x[kMostWaves], y[kMostWaves], terms[2 * kTerms] = {};
  for (size_t b = 0; b < waves.count(); ++b) {
    const float c = phases.cosine()[b], s = phases.sine()[b];
    x[b] = head.even[b] * c + head.odd[b] * s;
    y[b] = head.odd[b] * c - head.even[b] * s;
  }
  for (size_t k = 0; k < kTerms; ++k)
    for (size_t b = 0; b < waves.slow; ++b) {
      terms[k] += waves.even[k * waves.slow + b] * x[b];
      terms[kTerms + k] += waves.odd[k * waves.slow + b] * y[b];
    }
  for (size_t i = 0; i < kHalfTile; ++i) {
    const float u = (static_cast<float>(i) + 0.5f) / 16, z = u * u;
    float even = terms[0] + z * (terms[1] + z * terms[2]);
    float odd = u * (terms[3] + z * (terms[4] + z * terms[5]));
    for (size_t b = 0; b < waves.fast; ++b) {
      even += x[waves.slow + b] * waves.cosine[b * kHalfTile + i];
      odd += y[waves.slow + b] * waves.sine[b * kHalfTile + i];
    }
    scores[kHalfTile - 1 - i] = even - odd;
    scores[kHalfTile + i] = even + odd;
  }
}

#endif

}  // namespace tidemill::blockgtq

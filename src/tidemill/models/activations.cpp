#include "activations.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace tidemill::models {

namespace {

constexpr float kSmallest = 1e-30f;  // below it 127 / largest overflows; such a block is zero
constexpr size_t kTokensPerTask = 4;

struct Planes {
  BlockInfo first, fine;
  bool has_fine = false;
};

Planes failed(int8_t* codes) {
  std::fill_n(codes, kBlock, int8_t{0});
  const float nan = std::numeric_limits<float>::quiet_NaN();
  Planes planes;
  planes.first = {nan, nan, 0, 0};
  return planes;
}

// Adds the last few squares (fewer than eight) and the strands.
float finish_energy(const float* x, size_t left, float (&lanes)[8]) {
  for (size_t lane = 0; lane < left; ++lane) lanes[lane] = std::fma(x[lane], x[lane], lanes[lane]);
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
         ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

BlockInfo info_of(float scale, int32_t first_half, int32_t second_half) {
  const int32_t sum = first_half + second_half;
  return {scale, scale * static_cast<float>(sum), sum, first_half};
}

#ifdef __AVX2__

int32_t sum_of(__m128i lanes) {
  lanes = _mm_add_epi32(lanes, _mm_shuffle_epi32(lanes, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(lanes, _mm_shuffle_epi32(lanes, 0xb1)));
}

// Of 32 codes; the sums of 16 each.
void sums_of(__m256i codes, int32_t& first, int32_t& second) {
  const __m256i ones = _mm256_set1_epi8(1);
  const __m256i quads = _mm256_madd_epi16(_mm256_maddubs_epi16(ones, codes), _mm256_set1_epi16(1));
  first = sum_of(_mm256_castsi256_si128(quads));
  second = sum_of(_mm256_extracti128_si256(quads, 1));
}

// The sum of squares in eight strands, then pairwise: the same bits on every build.
float energy_of(const float* x, size_t size) {
  __m256 sums = _mm256_setzero_ps();
  size_t i = 0;
  for (; i + 8 <= size; i += 8) {
    const __m256 values = _mm256_loadu_ps(x + i);
    sums = _mm256_fmadd_ps(values, values, sums);
  }
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, sums);
  return finish_energy(x + i, size - i, lanes);
}

__m256i packed_codes(const __m256i (&rounded)[4]) {
  const __m256i low = _mm256_packs_epi32(rounded[0], rounded[1]);
  const __m256i high = _mm256_packs_epi32(rounded[2], rounded[3]);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
}

BlockInfo store_codes(__m256i packed, float scale, int8_t* codes) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), packed);
  int32_t first, second;
  sums_of(packed, first, second);
  return info_of(scale, first, second);
}

Planes quantise_block(const float* x, float limit, int8_t* codes, int8_t* fine) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  __m256 value[4], top = _mm256_setzero_ps(), poison = _mm256_setzero_ps();
  for (int i = 0; i < 4; ++i) {
    value[i] = _mm256_loadu_ps(x + 8 * i);
    top = _mm256_max_ps(top, _mm256_andnot_ps(sign, value[i]));
    poison = _mm256_or_ps(poison, _mm256_sub_ps(value[i], value[i]));
  }
  if (_mm256_movemask_ps(_mm256_cmp_ps(poison, poison, _CMP_UNORD_Q)) != 0) return failed(codes);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(top), _mm256_extractf128_ps(top, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  const float largest = _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
  const bool is_zero = largest < kSmallest;
  const __m256 inverse = _mm256_set1_ps(is_zero ? 0.0f : 127.0f / largest);
  __m256i rounded[4];
  for (int i = 0; i < 4; ++i) rounded[i] = _mm256_cvtps_epi32(_mm256_mul_ps(value[i], inverse));
  Planes planes;
  const float scale = is_zero ? 0.0f : largest / 127.0f;
  planes.first = store_codes(packed_codes(rounded), scale, codes);
  planes.has_fine = largest > limit;
  if (!planes.has_fine) return planes;
  const __m256i most = _mm256_set1_epi32(127), least = _mm256_set1_epi32(-127);
  for (int i = 0; i < 4; ++i) {
    const __m256 rest = _mm256_fmsub_ps(value[i], inverse, _mm256_cvtepi32_ps(rounded[i]));
    const __m256i code = _mm256_cvtps_epi32(_mm256_mul_ps(rest, _mm256_set1_ps(256.0f)));
    rounded[i] = _mm256_max_epi32(_mm256_min_epi32(code, most), least);
  }
  planes.fine = store_codes(packed_codes(rounded), scale * kFinePart, fine);
  return planes;
}

#else

float energy_of(const float* x, size_t size) {
  float lanes[8] = {};
  size_t i = 0;
  for (; i + 8 <= size; i += 8)
    for (size_t lane = 0; lane < 8; ++lane)
      lanes[lane] = std::fma(x[i + lane], x[i + lane], lanes[lane]);
  return finish_energy(x + i, size - i, lanes);
}

BlockInfo sum_codes(const int8_t* codes, float scale) {
  int32_t half[2] = {0, 0};
  for (size_t i = 0; i < kBlock; ++i) half[i / 16] += codes[i];
  return info_of(scale, half[0], half[1]);
}

Planes quantise_block(const float* x, float limit, int8_t* codes, int8_t* fine) {
  float largest = 0.0f;
  for (size_t i = 0; i < kBlock; ++i) {
    if (!std::isfinite(x[i])) return failed(codes);
    largest = std::max(largest, std::fabs(x[i]));
  }
  const bool is_zero = largest < kSmallest;
  const float inverse = is_zero ? 0.0f : 127.0f / largest;
  for (size_t i = 0; i < kBlock; ++i) codes[i] = static_cast<int8_t>(std::lrintf(x[i] * inverse));
  Planes planes;
  const float scale = is_zero ? 0.0f : largest / 127.0f;
  planes.first = sum_codes(codes, scale);
  planes.has_fine = largest > limit;
  if (!planes.has_fine) return planes;
  for (size_t i = 0; i < kBlock; ++i) {
    const float rest = std::fma(x[i], inverse, -static_cast<float>(codes[i]));
    const auto code = std::lrintf(rest * 256.0f);
    fine[i] = static_cast<int8_t>(std::clamp(code, -127L, 127L));
  }
  planes.fine = sum_codes(fine, scale * kFinePart);
  return planes;
}

#endif

}  // namespace

void Activations::bind(const float* x, size_t ldx, size_t tokens, size_t cols) {
  x_ = x;
  ldx_ = ldx;
  tokens_ = tokens;
  cols_ = cols;
  blocks_ = (cols + kBlock - 1) / kBlock;
  quantised_ = false;
  finite_ = true;
}

void Activations::quantise(Pool& pool) {
  if (quantised_) return;
  codes_.resize(std::max(codes_.size(), tokens_ * blocks_ * kBlock));
  infos_.resize(std::max(infos_.size(), tokens_ * blocks_));
  fine_codes_.resize(codes_.size());
  fine_infos_.resize(infos_.size());
  is_fine_.resize(infos_.size());
  fine_tokens_.resize(std::max(fine_tokens_.size(), chunks() * kChunk * blocks_));
  fine_counts_.resize(std::max(fine_counts_.size(), chunks() * blocks_));
  std::atomic<bool> finite{true};
  pool.run((tokens_ + kTokensPerTask - 1) / kTokensPerTask, [&](unsigned, size_t task) {
    const size_t end = std::min(tokens_, (task + 1) * kTokensPerTask);
    bool all = true;
    for (size_t token = task * kTokensPerTask; token < end; ++token) all &= quantise_token(token);
    if (!all) finite.store(false, std::memory_order_relaxed);
  });
  pool.run(chunks(), [&](unsigned, size_t chunk) { list_fine(chunk); });
  finite_ = finite.load();
  quantised_ = true;
}

bool Activations::quantise_token(size_t token) {
  const size_t chunk = token / kChunk, width = chunk_tokens(chunk);
  const size_t base = chunk * kChunk * blocks_ + token % kChunk;
  const float limit = kFine * std::sqrt(energy_of(row(token), cols_) / static_cast<float>(cols_));
  bool finite = true;
  for (size_t block = 0; block < blocks_; ++block) {
    const float* x = row(token) + block * kBlock;
    const size_t there = cols_ - block * kBlock;
    float padded[kBlock] = {};
    if (there < kBlock) {
      std::copy_n(x, there, padded);
      x = padded;
    }
    const size_t at = base + block * width;
    const Planes planes =
        quantise_block(x, limit, codes_.data() + at * kBlock, fine_codes_.data() + at * kBlock);
    infos_[at] = planes.first;
    fine_infos_[at] = planes.fine;
    is_fine_[at] = planes.has_fine;
    finite &= !std::isnan(planes.first.scale);
  }
  return finite;
}

void Activations::list_fine(size_t chunk) {
  const size_t width = chunk_tokens(chunk);
  const uint8_t* is_fine = is_fine_.data() + chunk * kChunk * blocks_;
  uint8_t* tokens = fine_tokens_.data() + chunk * kChunk * blocks_;
  uint8_t* const counts = fine_counts_.data() + chunk * blocks_;
  for (size_t block = 0; block < blocks_; ++block, is_fine += width, tokens += kChunk) {
    size_t count = 0;
    for (size_t token = 0; token < width; ++token) {
      tokens[count] = static_cast<uint8_t>(token);
      count += is_fine[token];
    }
    counts[block] = static_cast<uint8_t>(count);
  }
}

}  // namespace tidemill::models

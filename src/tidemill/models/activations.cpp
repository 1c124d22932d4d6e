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

BlockInfo failed(int8_t* codes) {
  std::fill_n(codes, kBlock, int8_t{0});
  const float nan = std::numeric_limits<float>::quiet_NaN();
  return {nan, nan, 0, 0};
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

BlockInfo quantise_block(const float* x, int8_t* codes) {
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
  const __m256i low = _mm256_packs_epi32(rounded[0], rounded[1]);
  const __m256i high = _mm256_packs_epi32(rounded[2], rounded[3]);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i packed = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), packed);
  int32_t first, second;
  sums_of(packed, first, second);
  return info_of(is_zero ? 0.0f : largest / 127.0f, first, second);
}

#else

BlockInfo quantise_block(const float* x, int8_t* codes) {
  float largest = 0.0f;
  for (size_t i = 0; i < kBlock; ++i) {
    if (!std::isfinite(x[i])) return failed(codes);
    largest = std::max(largest, std::fabs(x[i]));
  }
  const bool is_zero = largest < kSmallest;
  const float inverse = is_zero ? 0.0f : 127.0f / largest;
  int32_t half[2] = {0, 0};
  for (size_t i = 0; i < kBlock; ++i) {
    codes[i] = static_cast<int8_t>(std::lrintf(x[i] * inverse));
    half[i / 16] += codes[i];
  }
  return info_of(is_zero ? 0.0f : largest / 127.0f, half[0], half[1]);
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
  std::atomic<bool> finite{true};
  pool.run((tokens_ + kTokensPerTask - 1) / kTokensPerTask, [&](unsigned, size_t task) {
    const size_t end = std::min(tokens_, (task + 1) * kTokensPerTask);
    bool all = true;
    for (size_t token = task * kTokensPerTask; token < end; ++token) all &= quantise_token(token);
    if (!all) finite.store(false, std::memory_order_relaxed);
  });
  finite_ = finite.load();
  quantised_ = true;
}

bool Activations::quantise_token(size_t token) {
  const size_t chunk = token / kChunk, width = chunk_tokens(chunk);
  const size_t base = chunk * kChunk * blocks_ + token % kChunk;
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
    infos_[at] = quantise_block(x, codes_.data() + at * kBlock);
    finite &= !std::isnan(infos_[at].scale);
  }
  return finite;
}

}  // namespace tidemill::models

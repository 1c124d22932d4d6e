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

float largest_in(const float* x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  __m256 top = _mm256_setzero_ps();
  for (size_t i = 0; i < kBlock; i += 8)
    top = _mm256_max_ps(top, _mm256_andnot_ps(sign, _mm256_loadu_ps(x + i)));
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(top), _mm256_extractf128_ps(top, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

bool is_finite_block(const float* x) {
  __m256 poison = _mm256_setzero_ps();
  for (size_t i = 0; i < kBlock; i += 8) {
    const __m256 value = _mm256_loadu_ps(x + i);
    poison = _mm256_or_ps(poison, _mm256_sub_ps(value, value));
  }
  return _mm256_movemask_ps(_mm256_cmp_ps(poison, poison, _CMP_UNORD_Q)) == 0;
}

BlockInfo code_block(const float* x, float largest, int8_t* codes) {
  const bool is_zero = largest < kSmallest;
  const __m256 inverse = _mm256_set1_ps(is_zero ? 0.0f : 127.0f / largest);
  __m256i rounded[4];
  for (int i = 0; i < 4; ++i)
    rounded[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), inverse));
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

float energy_of(const float* x, size_t size) {
  float lanes[8] = {};
  size_t i = 0;
  for (; i + 8 <= size; i += 8)
    for (size_t lane = 0; lane < 8; ++lane)
      lanes[lane] = std::fma(x[i + lane], x[i + lane], lanes[lane]);
  return finish_energy(x + i, size - i, lanes);
}

float largest_in(const float* x) {
  float largest = 0.0f;
  for (size_t i = 0; i < kBlock; ++i) largest = std::max(largest, std::fabs(x[i]));
  return largest;
}

bool is_finite_block(const float* x) {
  return std::all_of(x, x + kBlock, [](float value) { return std::isfinite(value); });
}

BlockInfo code_block(const float* x, float largest, int8_t* codes) {
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
  found_.resize(std::max(found_.size(), tokens_));
  lists_.resize(std::max(lists_.size(), chunks()));
  std::atomic<bool> finite{true};
  pool.run((tokens_ + kTokensPerTask - 1) / kTokensPerTask, [&](unsigned, size_t task) {
    const size_t end = std::min(tokens_, (task + 1) * kTokensPerTask);
    bool all = true;
    for (size_t token = task * kTokensPerTask; token < end; ++token) all &= quantise_token(token);
    if (!all) finite.store(false, std::memory_order_relaxed);
  });
  pool.run(chunks(), [&](unsigned, size_t chunk) { list_towers(chunk); });
  finite_ = finite.load();
  quantised_ = true;
}

bool Activations::quantise_token(size_t token) {
  const size_t chunk = token / kChunk, width = chunk_tokens(chunk);
  const size_t base = chunk * kChunk * blocks_ + token % kChunk;
  const float mean = energy_of(row(token), cols_) / static_cast<float>(cols_);
  // Squares that underflow tell nothing: then nothing towers.
  const float limit = mean < std::numeric_limits<float>::min()
                          ? std::numeric_limits<float>::infinity()
                          : kTowering * std::sqrt(mean);
  std::vector<Found>& found = found_[token];
  found.clear();
  bool finite = true;
  for (size_t block = 0; block < blocks_; ++block) {
    const float* x = row(token) + block * kBlock;
    const size_t there = cols_ - block * kBlock;
    float copy[kBlock] = {};
    if (there < kBlock) x = std::copy_n(x, there, copy) - there;
    const size_t at = base + block * width;
    int8_t* const codes = codes_.data() + at * kBlock;
    if (!is_finite_block(x)) {
      infos_[at] = failed(codes);
      finite = false;
      continue;
    }
    float largest = largest_in(x);
    if (largest > limit) {
      if (x != copy) std::copy_n(x, kBlock, copy);
      for (size_t column = 0; column < kBlock; ++column) {
        if (!(std::fabs(copy[column]) > limit)) continue;
        found.push_back({static_cast<uint32_t>(block), static_cast<uint8_t>(column), copy[column]});
        copy[column] = 0.0f;
      }
      x = copy;
      largest = largest_in(x);
    }
    infos_[at] = code_block(x, largest, codes);
  }
  return finite;
}

// Sorts what the tokens of a chunk found by block.
void Activations::list_towers(size_t chunk) {
  Chunk& list = lists_[chunk];
  const size_t first = chunk * kChunk, end = first + chunk_tokens(chunk);
  list.ends.assign(blocks_ + 1, 0);
  for (size_t token = first; token < end; ++token)
    for (const Found& found : found_[token]) ++list.ends[found.block + 1];
  for (size_t block = 0; block < blocks_; ++block) list.ends[block + 1] += list.ends[block];
  list.towers.resize(list.ends[blocks_]);
  std::vector<uint32_t> next(list.ends.begin(), list.ends.end());
  for (size_t token = first; token < end; ++token)
    for (const Found& found : found_[token])
      list.towers[next[found.block]++] = {found.value, static_cast<uint16_t>(token - first),
                                          found.column};
}

}  // namespace tidemill::models

#include "gemm.hpp"

#include <algorithm>

#include "gemm_block.hpp"
#include "layout.hpp"

namespace tidemill::models {

namespace {

constexpr size_t kPrefetch =
    4096;  // bytes ahead: 15 % over 2048; the hardware's own stops at pages

template <class F>
inline void prefetch(const uint8_t* block) {
  for (size_t line = 0; line < F::kBlockBytes; line += 64)
    __builtin_prefetch(block + kPrefetch + line, 0, 2);
}

// The tokens of one chunk.
struct Columns {
  const Activations& x;
  size_t chunk;
  const int8_t* codes;
  const BlockInfo* infos;
  size_t width;  // tokens: the stride from block to block
};

void store_rows(float* y, size_t rows, const Sums& sums) {
  if (rows >= kRows) return store_sums(y, sums);
  float all[kRows];
  store_sums(all, sums);
  std::copy_n(all, rows, y);
}

// Calls fn(block, index) for each block of a row group in order.
template <class B, class F, class Fn>
inline void each_block(const uint8_t* group, size_t blocks, Fn&& fn) {
  for (size_t first = 0; first < blocks; first += F::kSuperBlocks, group += F::kSuperBytes)
    for (size_t b = 0; b < F::kSuperBlocks; ++b) {
      const uint8_t* const at = group + F::kHeaderBytes + b * F::kBlockBytes;
      prefetch<F>(at);
      fn(B(group, at), first + b);
    }
}

// Up to four tokens, their sums in registers.
template <class F, bool kVnni, size_t kTokens>
void multiply_few(const uint8_t* group, size_t blocks, const Columns& x, size_t rows, float* y,
                  size_t ldy) {
  using Opened = Block<F, kVnni>;
  Sums sums[kTokens];
  for (Sums& sum : sums) sum = zero_sums();
  each_block<Opened, F>(group, blocks, [&](const Opened& block, size_t index) {
    const size_t at = index * kTokens;
    for (size_t t = 0; t < kTokens; ++t)
      sums[t] = block.add(sums[t], x.codes + (at + t) * kBlock, x.infos[at + t]);
    for (const Tower& tower : x.x.towers(x.chunk, index)) {
      const Sums weights = block.column(tower.column);
      for (size_t t = 0; t < kTokens; ++t)  // no index but a constant: sums stay in registers
        if (tower.token == t) sums[t] = add_product(sums[t], weights, tower.value);
    }
  });
  for (size_t t = 0; t < kTokens; ++t) store_rows(y + t * ldy, rows, sums[t]);
}

// A chunk: each block is opened once and meets all tokens, their sums in L1.
template <class F, bool kVnni>
void multiply_many(const uint8_t* group, size_t blocks, const Columns& x, size_t rows, float* y,
                   size_t ldy) {
  using Opened = Block<F, kVnni>;
  Sums sums[kChunk];
  std::fill_n(sums, x.width, zero_sums());
  each_block<Opened, F>(group, blocks, [&](const Opened& block, size_t index) {
    const size_t at = index * x.width;
    for (size_t t = 0; t < x.width; ++t)
      sums[t] = block.add(sums[t], x.codes + (at + t) * kBlock, x.infos[at + t]);
    for (const Tower& tower : x.x.towers(x.chunk, index))
      sums[tower.token] = add_product(sums[tower.token], block.column(tower.column), tower.value);
  });
  for (size_t t = 0; t < x.width; ++t) store_rows(y + t * ldy, rows, sums[t]);
}

template <class F, bool kVnni>
void multiply_chunk(const uint8_t* group, size_t blocks, const Columns& x, size_t rows, float* y,
                    size_t ldy) {
  switch (x.width) {
    case 1:
      return multiply_few<F, kVnni, 1>(group, blocks, x, rows, y, ldy);
    case 2:
      return multiply_few<F, kVnni, 2>(group, blocks, x, rows, y, ldy);
    case 3:
      return multiply_few<F, kVnni, 3>(group, blocks, x, rows, y, ldy);
    case 4:
      return multiply_few<F, kVnni, 4>(group, blocks, x, rows, y, ldy);
    default:
      return multiply_many<F, kVnni>(group, blocks, x, rows, y, ldy);
  }
}

template <class F, bool kVnni>
void multiply_all(const uint8_t* weights, size_t groups, size_t rows, const Activations& x,
                  float* y, size_t ldy) {
  const size_t blocks = x.blocks(), group_bytes = blocks / F::kSuperBlocks * F::kSuperBytes;
  for (size_t chunk = 0; chunk < x.chunks(); ++chunk) {
    const Columns columns{x, chunk, x.codes(chunk), x.infos(chunk), x.chunk_tokens(chunk)};
    float* const out = y + chunk * kChunk * ldy;
    for (size_t group = 0; group < groups; ++group) {
      const size_t row = group * kRows;
      multiply_chunk<F, kVnni>(weights + group * group_bytes, blocks, columns,
                               std::min(kRows, rows - row), out + row, ldy);
    }
  }
}

}  // namespace

template <class F>
void multiply_groups(const uint8_t* weights, size_t groups, size_t rows, const Activations& x,
                     float* y, size_t ldy) {
  if (uses_vnni())
    multiply_all<F, true>(weights, groups, rows, x, y, ldy);
  else
    multiply_all<F, false>(weights, groups, rows, x, y, ldy);
}

template void multiply_groups<I8>(const uint8_t*, size_t, size_t, const Activations&, float*,
                                  size_t);
template void multiply_groups<U5>(const uint8_t*, size_t, size_t, const Activations&, float*,
                                  size_t);
template void multiply_groups<U4>(const uint8_t*, size_t, size_t, const Activations&, float*,
                                  size_t);
template void multiply_groups<U5M>(const uint8_t*, size_t, size_t, const Activations&, float*,
                                   size_t);
template void multiply_groups<U4M>(const uint8_t*, size_t, size_t, const Activations&, float*,
                                   size_t);
template void multiply_groups<U5K>(const uint8_t*, size_t, size_t, const Activations&, float*,
                                   size_t);
template void multiply_groups<U4K>(const uint8_t*, size_t, size_t, const Activations&, float*,
                                   size_t);
template void multiply_groups<U6K>(const uint8_t*, size_t, size_t, const Activations&, float*,
                                   size_t);
template void multiply_groups<U3K>(const uint8_t*, size_t, size_t, const Activations&, float*,
                                   size_t);
template void multiply_groups<U2K>(const uint8_t*, size_t, size_t, const Activations&, float*,
                                   size_t);

}  // namespace tidemill::models

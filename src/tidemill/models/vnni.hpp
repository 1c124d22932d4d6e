// Sums of four products of bytes in one instruction, asked for by name: the build is for AVX2, and
// whether the CPU has it is found out at run time.
#pragma once

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace tidemill::models {

// Whether the CPU has it and nobody has said no: results are the same with and without.
bool uses_vnni();
// Says whether it may be used; returns what was said before.
bool set_vnni(bool wanted);

#ifdef __AVX2__

// What maddubs, madd and two additions do: codes are unsigned, what `four` points to is signed.
inline __m256i add_dots(__m256i sums, __m256i codes, const void* four) {
  const auto* const inputs = static_cast<const int*>(four);
  asm("vpdpbusd %2%{1to8%}, %1, %0" : "+x"(sums) : "x"(codes), "m"(*inputs));
  return sums;
}

inline __m256i add_dots(__m256i sums, __m256i codes, __m256i inputs) {
  asm("vpdpbusd %2, %1, %0" : "+x"(sums) : "x"(codes), "x"(inputs));
  return sums;
}

#endif

}  // namespace tidemill::models

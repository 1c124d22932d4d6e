// What software does to the caches of memory that no hardware keeps coherent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tidemill::cxl {

inline constexpr size_t kLine = 64;

// The instruction that writes a line back: "clwb", "clflushopt", "clflush" or "none".
const char* write_back_instruction();

// All lines that the range touches. They are ordered by the next `fence`.
void write_back(const uint8_t* at, size_t count);
void invalidate(const uint8_t* at, size_t count);
void fence();

// A plain 8-byte store or load of an aligned word.
void store_word(uint8_t* at, uint64_t value);
uint64_t load_word(const uint8_t* at);

// Runs `touch`; false if a page of a mapping was not there (its file was cut) instead of SIGBUS.
bool survives(void (*touch)(void*), void* argument);

}  // namespace tidemill::cxl

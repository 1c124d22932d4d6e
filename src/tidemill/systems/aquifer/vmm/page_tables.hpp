// What lies in the guest's first 2 MiB: page tables, descriptor tables and the stubs of ring 0.
#pragma once

#include <cstdint>

namespace tidemill::aquifer {

inline constexpr uint64_t kTop = 0x1000;          // PML4
inline constexpr uint64_t kPointers = 0x2000;     // one page-directory-pointer table
inline constexpr uint64_t kDescriptors = 0x3000;  // GDT
inline constexpr uint64_t kInterrupts = 0x4000;   // IDT
inline constexpr uint64_t kTaskState = 0x5000;    // TSS
inline constexpr uint64_t kStubs = 0x6000;        // 16 bytes each: 0-31 exceptions, 32 syscall
inline constexpr uint64_t kFirstPages = 0x7000;   // one page table for the first 2 MiB
inline constexpr uint64_t kStackTop = 0x9000;     // where an exception's frame is pushed
inline constexpr uint64_t kDirectories = 0x10000;

inline constexpr unsigned kExceptions = 32;
inline constexpr uint64_t kSyscallStub = kStubs + 16 * kExceptions;
inline constexpr uint8_t kSyscallPort = 0x10;
inline constexpr uint8_t kExceptionPort = 0x20;  // plus the vector

inline constexpr uint16_t kTaskFixed = 104;  // then one bit for each of 256 ports and a last 0xFF
inline constexpr uint16_t kTaskLimit = kTaskFixed + 32;

inline constexpr uint16_t kKernelCode = 0x08, kKernelData = 0x10, kTaskSelector = 0x28;
inline constexpr uint16_t kUserData = 0x18 | 3, kUserCode = 0x20 | 3;  // the order sysret expects

// Writes them; `memory` holds `size` bytes, all zero below 2 MiB.
void write_tables(uint8_t* memory, uint64_t size);

}  // namespace tidemill::aquifer

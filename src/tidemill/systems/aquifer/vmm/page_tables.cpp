#include "page_tables.hpp"

#include <cstring>

#include "guest_memory.hpp"

namespace tidemill::aquifer {

namespace {

static_assert(kSyscallPort % 8 == 0);

enum : uint64_t {
  kPresent = 1 << 0,
  kWritable = 1 << 1,
  kUser = 1 << 2,
  kAccessed = 1 << 5,
  kDirty = 1 << 6,  // set from the start, so that the processor never writes to a table
  kLarge = 1 << 7,
};

constexpr uint64_t kTable = kPresent | kWritable | kUser | kAccessed;

void put(uint8_t* memory, uint64_t at, uint64_t value) {
  std::memcpy(memory + at, &value, sizeof value);
}

// The first 2 MiB in small pages: supervisor only, but for the stubs. Those a program may execute
// (`out` is a #GP in ring 3) and not change: kvm-pvm fetches the target of `syscall` as ring 3
// does.
void write_first_pages(uint8_t* memory) {
  put(memory, kDirectories, kFirstPages | kTable);
  for (uint64_t page = 0; page < kUserBase; page += kPage) {
    const uint64_t reach = page == kStubs ? uint64_t{kUser} : uint64_t{kWritable};
    put(memory, kFirstPages + page / kPage * 8, page | kPresent | reach | kAccessed | kDirty);
  }
}

void write_pages(uint8_t* memory, uint64_t size) {
  put(memory, kTop, kPointers | kTable);
  for (uint64_t gib = 0; gib << 30 < size; ++gib) {
    const uint64_t directory = kDirectories + gib * kPage;
    put(memory, kPointers + 8 * gib, directory | kTable);
    for (uint64_t i = 0; i < 512; ++i) {
      const uint64_t page = (gib << 30) + i * kLargePage;
      if (page >= size) break;
      put(memory, directory + 8 * i, page | kTable | kDirty | kLarge);
    }
  }
  write_first_pages(memory);
}

void write_segments(uint8_t* memory) {
  put(memory, kDescriptors + kKernelCode, 0x00AF9B000000FFFF);
  put(memory, kDescriptors + kKernelData, 0x00CF93000000FFFF);
  put(memory, kDescriptors + (kUserData & ~3), 0x00CFF3000000FFFF);
  put(memory, kDescriptors + (kUserCode & ~3), 0x00AFFB000000FFFF);
  // A busy 64-bit TSS at kTaskState.
  put(memory, kDescriptors + kTaskSelector, 0x00008B0000000000 | kTaskLimit | kTaskState << 16);
  put(memory, kTaskState + 4, kStackTop);   // RSP0
  put(memory, kTaskState + 36, kStackTop);  // IST1
  const uint16_t map = kTaskFixed;
  std::memcpy(memory + kTaskState + 102, &map, sizeof map);
  // Ring 3 may write to the syscall port, which is no more than making a call: kvm-pvm keeps the
  // ring of the caller when `syscall` jumps to the stub.
  uint8_t* ports = memory + kTaskState + kTaskFixed;
  std::memset(ports, 0xFF, kTaskLimit + 1 - kTaskFixed);
  ports[kSyscallPort / 8] = 0xF0;  // 0x10 to 0x13: one `out` of four bytes
}

void write_stubs(uint8_t* memory) {
  for (unsigned vector = 0; vector < kExceptions; ++vector) {
    const uint64_t stub = kStubs + 16 * vector;
    const uint8_t code[] = {0xE6, static_cast<uint8_t>(kExceptionPort + vector), 0xF4};
    std::memcpy(memory + stub, code, sizeof code);  // out port, al; hlt
    // A 64-bit interrupt gate on IST1, DPL 0: `int n` of the guest is a #GP.
    put(memory, kInterrupts + 16 * vector, stub | uint64_t{kKernelCode} << 16 | 0x8E01ULL << 32);
  }
  const uint8_t code[] = {0xE7, kSyscallPort, 0xF4};
  std::memcpy(memory + kSyscallStub, code, sizeof code);  // out port, eax; hlt
}

}  // namespace

void write_tables(uint8_t* memory, uint64_t size) {
  write_pages(memory, size);
  write_segments(memory);
  write_stubs(memory);
}

}  // namespace tidemill::aquifer

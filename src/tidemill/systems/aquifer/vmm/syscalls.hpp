// The Linux system calls that a guest may make. Each handler checks every pointer it is given.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <variant>

#include "process.hpp"

namespace tidemill::aquifer {

using Arguments = std::array<uint64_t, 6>;
using Handler = int64_t (*)(Process&, const Arguments&);

struct Call {
  int number;
  const char* name;
  Handler handler;
};

// No errno: the call waits for a request and is made again when there is one.
inline constexpr int64_t kWaits = INT64_MIN;

// One table for each topic, each in a file of its own.
std::span<const Call> memory_calls();
std::span<const Call> file_calls();
std::span<const Call> path_calls();
std::span<const Call> process_calls();
std::span<const Call> time_calls();

// Result in Linux' convention (minus an errno), or kWaits. Unknown calls are ENOSYS with a warning.
int64_t make_call(Process& process, uint64_t number, const Arguments& arguments);

// For handlers -------------------------------------------------------------------------------

inline constexpr uint64_t kLongestPath = 4096;

// An absolute path from a guest's string and directory descriptor, or minus an errno.
std::variant<std::string, int> absolute_path(const Process& process, int folder, uint64_t address);
// Opens a path for reading; minus an errno, EROFS for anything that would write.
std::variant<std::shared_ptr<OpenFile>, int> open_file(const Process& process,
                                                       const std::string& path, uint32_t flags);
// Reads file bytes into host memory that is the guest's; what Linux' pread gives.
int64_t read_at(const OpenFile& file, uint8_t* to, uint64_t count, uint64_t offset);

}  // namespace tidemill::aquifer

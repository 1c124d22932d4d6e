// Page faults answered in user space: the kernel's userfaultfd, for this process or another's.
#pragma once

#include <linux/userfaultfd.h>

#include <cstddef>
#include <cstdint>

#include "host_fd.hpp"

namespace tidemill::memory {

struct FaultEvent {
  uint8_t kind = 0;      // UFFD_EVENT_*
  uint64_t address = 0;  // of the fault, or the first byte removed
  uint64_t end = 0;      // first byte behind what was removed
  uint64_t flags = 0;    // UFFD_PAGEFAULT_FLAG_*
};

enum class Installed : uint8_t {
  Done,   // every page is there, or no longer registered
  Again,  // an event must be read before the rest can be installed
  Gone,   // so is the process
};

// All calls throw std::system_error for what the caller cannot have expected.
class Userfaultfd {
 public:
  static Userfaultfd open(uint64_t features);
  explicit Userfaultfd(HostFd fd) : fd_(static_cast<HostFd&&>(fd)) {}

  int fd() const { return fd_.get(); }
  void register_range(uint64_t address, uint64_t bytes, uint64_t modes) const;
  void unregister_range(uint64_t address, uint64_t bytes) const;
  void write_protect(uint64_t address, uint64_t bytes, bool on) const;
  void wake(uint64_t address, uint64_t bytes) const;
  // Up to `most` events that wait now.
  size_t read(FaultEvent* to, size_t most) const;

  // Installs whole pages from `from`, or zero pages if it is null, beginning at byte `done`, which
  // it moves on. Pages that are there already are left as they are and their waiters woken.
  Installed install(uint64_t to, const uint8_t* from, uint64_t bytes, uint64_t page_bytes,
                    bool wakes, uint64_t& done) const;

 private:
  HostFd fd_;
};

}  // namespace tidemill::memory

#include "guest_memory.hpp"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <system_error>

namespace tidemill::aquifer {

namespace {

// Below this, writing zeros is cheaper than unmapping and faulting the pages in again.
constexpr uint64_t kWorthUnmapping = 64 * 1024;

uint8_t* map(uint64_t size, int flags, int fd, uint64_t offset) {
  if (size < kLeastMemory || size > kMostMemory || size % kLargePage != 0)
    throw std::invalid_argument("guest memory must be 8 MiB to 3 GiB in steps of 2 MiB");
  // From a large page on, so that a large page of the guest can be one of the host.
  void* room = ::mmap(nullptr, size + kLargePage, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap");
  auto* first = static_cast<uint8_t*>(room);
  const uint64_t before = (kLargePage - reinterpret_cast<uint64_t>(room) % kLargePage) % kLargePage;
  if (before != 0) ::munmap(first, before);
  ::munmap(first + before + size, kLargePage - before);
  void* at = ::mmap(first + before, size, PROT_READ | PROT_WRITE, flags | MAP_FIXED | MAP_NORESERVE,
                    fd, static_cast<off_t>(offset));
  if (at == MAP_FAILED) {
    const int error = errno;
    ::munmap(first + before, size);
    throw std::system_error(error, std::generic_category(), "mmap");
  }
  ::madvise(at, size, MADV_DONTFORK);    // KVM refuses the memory of another process anyway
  ::madvise(at, size, MADV_NOHUGEPAGE);  // else 4 KiB touched make 2 MiB of a snapshot
  return static_cast<uint8_t*>(at);
}

}  // namespace

std::shared_ptr<GuestMemory> GuestMemory::anonymous(uint64_t size, Backing backing) {
  uint8_t* data = map(size, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return std::shared_ptr<GuestMemory>(new GuestMemory(data, size, backing));
}

std::shared_ptr<GuestMemory> GuestMemory::file(int fd, uint64_t offset, uint64_t size) {
  struct stat status = {};
  if (::fstat(fd, &status) != 0) throw std::system_error(errno, std::generic_category(), "fstat");
  const auto length = static_cast<uint64_t>(status.st_size);
  if (offset % kPage != 0 || offset > length || size > length - offset)
    throw std::invalid_argument("the file is shorter than the guest's memory");
  uint8_t* data = map(size, MAP_PRIVATE, fd, offset);
  return std::shared_ptr<GuestMemory>(new GuestMemory(data, size, Backing::File));
}

GuestMemory::~GuestMemory() { ::munmap(data_, size_); }

std::optional<std::string> GuestMemory::string(uint64_t address, uint64_t most) const {
  if (!in_user(address, 1)) return std::nullopt;
  const uint64_t room = std::min(most, size_ - address);
  const auto* from = reinterpret_cast<const char*>(data_ + address);
  const size_t length = ::strnlen(from, room);
  if (length == room) return std::nullopt;
  return std::string(from, length);
}

void GuestMemory::discard(uint64_t address, uint64_t length) const {
  uint8_t* at = user(address, length);
  if (at == nullptr || length == 0) return;
  if (backing_ == Backing::Anonymous && length >= kWorthUnmapping) {
    if (::madvise(at, length, MADV_DONTNEED) == 0) return;
  }
  std::memset(at, 0, length);
}

}  // namespace tidemill::aquifer

#include "userfaultfd.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>

namespace tidemill::memory {

namespace {

constexpr size_t kBatch = 16;

[[noreturn]] void fail(int error, const char* what) {
  throw std::system_error(error, std::generic_category(), what);
}

template <class T>
void call(int fd, unsigned long request, T& argument, const char* what) {
  while (::ioctl(fd, request, &argument) != 0)
    if (errno != EINTR && errno != EAGAIN) fail(errno, what);
}

// The system call where this user may, else the device, which an administrator can open to it.
int open_any() {
  const auto fd = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
  if (fd >= 0) return fd;
  const int error = errno;
  const HostFd device(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
  if (!device) fail(error, "userfaultfd");
  const int opened = ::ioctl(device.get(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
  if (opened < 0) fail(errno, "/dev/userfaultfd");
  return opened;
}

// Bytes done, or the negative error.
int64_t copy_once(int fd, uint64_t to, const uint8_t* from, uint64_t bytes, bool wakes) {
  uffdio_copy copy = {};
  copy.dst = to;
  copy.src = reinterpret_cast<uint64_t>(from);
  copy.len = bytes;
  copy.mode = wakes ? 0 : UFFDIO_COPY_MODE_DONTWAKE;
  if (::ioctl(fd, UFFDIO_COPY, &copy) == 0) return static_cast<int64_t>(bytes);
  return copy.copy != 0 ? copy.copy : -errno;
}

int64_t zero_once(int fd, uint64_t to, uint64_t bytes, bool wakes) {
  uffdio_zeropage zero = {};
  zero.range = {to, bytes};
  zero.mode = wakes ? 0 : UFFDIO_ZEROPAGE_MODE_DONTWAKE;
  if (::ioctl(fd, UFFDIO_ZEROPAGE, &zero) == 0) return static_cast<int64_t>(bytes);
  return zero.zeropage != 0 ? zero.zeropage : -errno;
}

}  // namespace

Userfaultfd Userfaultfd::open(uint64_t features) {
  Userfaultfd made{HostFd(open_any())};
  uffdio_api api = {};
  api.api = UFFD_API;
  api.features = features;
  if (::ioctl(made.fd(), UFFDIO_API, &api) != 0) fail(errno, "UFFDIO_API");
  return made;
}

void Userfaultfd::register_range(uint64_t address, uint64_t bytes, uint64_t modes) const {
  uffdio_register range = {};
  range.range = {address, bytes};
  range.mode = modes;
  call(fd(), UFFDIO_REGISTER, range, "UFFDIO_REGISTER");
}

void Userfaultfd::unregister_range(uint64_t address, uint64_t bytes) const {
  uffdio_range range = {address, bytes};
  call(fd(), UFFDIO_UNREGISTER, range, "UFFDIO_UNREGISTER");
}

void Userfaultfd::write_protect(uint64_t address, uint64_t bytes, bool on) const {
  uffdio_writeprotect range = {};
  range.range = {address, bytes};
  range.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0;
  call(fd(), UFFDIO_WRITEPROTECT, range, "UFFDIO_WRITEPROTECT");
}

void Userfaultfd::wake(uint64_t address, uint64_t bytes) const {
  uffdio_range range = {address, bytes};
  if (::ioctl(fd(), UFFDIO_WAKE, &range) != 0 && errno != ENOENT && errno != ESRCH)
    fail(errno, "UFFDIO_WAKE");
}

size_t Userfaultfd::read(FaultEvent* to, size_t most) const {
  std::array<uffd_msg, kBatch> messages;
  const ssize_t got = ::read(fd(), messages.data(), std::min(most, kBatch) * sizeof(uffd_msg));
  if (got < 0) {
    if (errno == EAGAIN || errno == EINTR) return 0;
    fail(errno, "reading page faults");
  }
  const size_t count = static_cast<size_t>(got) / sizeof(uffd_msg);
  for (size_t i = 0; i < count; ++i) {
    const uffd_msg& message = messages[i];
    to[i] = {message.event, message.arg.pagefault.address, 0, message.arg.pagefault.flags};
    if (message.event == UFFD_EVENT_REMOVE || message.event == UFFD_EVENT_UNMAP)
      to[i] = {message.event, message.arg.remove.start, message.arg.remove.end, 0};
  }
  return count;
}

Installed Userfaultfd::install(uint64_t to, const uint8_t* from, uint64_t bytes,
                               uint64_t page_bytes, bool wakes, uint64_t& done) const {
  while (done < bytes) {
    const int64_t moved = from != nullptr
                              ? copy_once(fd(), to + done, from + done, bytes - done, wakes)
                              : zero_once(fd(), to + done, bytes - done, wakes);
    if (moved > 0) {
      done += static_cast<uint64_t>(moved);
    } else if (moved == -EEXIST || moved == -ENOENT) {
      if (wakes && moved == -EEXIST) wake(to + done, page_bytes);
      done += page_bytes;
    } else if (moved == -EAGAIN) {
      return Installed::Again;
    } else if (moved == -ESRCH) {
      return Installed::Gone;
    } else {
      fail(static_cast<int>(-moved), from != nullptr ? "UFFDIO_COPY" : "UFFDIO_ZEROPAGE");
    }
  }
  return Installed::Done;
}

}  // namespace tidemill::memory

// Calls on a descriptor.
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "syscalls.hpp"

namespace tidemill::aquifer {

int64_t read_at(const OpenFile& file, uint8_t* to, uint64_t count, uint64_t offset) {
  const ssize_t got = ::pread(file.host.get(), to, count, static_cast<off_t>(offset));
  return got < 0 ? -errno : got;
}

namespace {

constexpr uint64_t kMostTransfer = 0x7FFFF000;  // Linux' own
constexpr uint64_t kMostVectors = 1024;

// What descriptor 1002 reads as: who this machine is, and entropy that no other one is given.
int64_t read_identity(const Process& process, uint8_t* to, uint64_t count) {
  uint8_t bytes[16 + 32];
  std::memcpy(bytes, process.identity.data(), 16);
  if (::getrandom(bytes + 16, 32, 0) != 32) return -EIO;
  const uint64_t given = std::min<uint64_t>(count, sizeof bytes);
  std::memcpy(to, bytes, given);
  return static_cast<int64_t>(given);
}

int64_t read_from(Process& process, OpenFile& file, uint64_t address, uint64_t count) {
  count = std::min(count, kMostTransfer);
  uint8_t* to = process.memory->user(address, count);
  if (to == nullptr) return -EFAULT;
  switch (file.kind) {
    case FileKind::Null:
      return 0;
    case FileKind::Random:
      return ::getrandom(to, std::min<uint64_t>(count, 256), 0);
    case FileKind::Request: {
      const auto given = process.channel.read(to, count);
      return given ? static_cast<int64_t>(*given) : kWaits;
    }
    case FileKind::Identity:
      return read_identity(process, to, count);
    case FileKind::Regular: {
      const int64_t got = read_at(file, to, count, file.offset);
      if (got > 0) file.offset += static_cast<uint64_t>(got);
      return got;
    }
    case FileKind::Folder:
      return -EISDIR;
    default:
      return -EBADF;
  }
}

int64_t write_to(Process& process, const OpenFile& file, uint64_t address, uint64_t count) {
  count = std::min(count, kMostTransfer);
  const uint8_t* from = process.memory->user(address, count);
  if (from == nullptr) return -EFAULT;
  switch (file.kind) {
    case FileKind::Null:
      return static_cast<int64_t>(count);
    case FileKind::Output: {
      std::string& text = process.output[file.stream];
      const uint64_t kept = std::min<uint64_t>(count, kMostOutput - text.size());
      text.append(reinterpret_cast<const char*>(from), kept);
      process.dropped[file.stream] += count - kept;
      return static_cast<int64_t>(count);
    }
    case FileKind::Answer:
      return process.channel.write(from, count) ? static_cast<int64_t>(count) : -ENOSPC;
    default:
      return -EBADF;
  }
}

int64_t sys_read(Process& process, const Arguments& a) {
  OpenFile* file = process.files.find(static_cast<int>(a[0]));
  return file == nullptr ? -EBADF : read_from(process, *file, a[1], a[2]);
}

int64_t sys_write(Process& process, const Arguments& a) {
  const OpenFile* file = process.files.find(static_cast<int>(a[0]));
  return file == nullptr ? -EBADF : write_to(process, *file, a[1], a[2]);
}

// Applies `one` to each buffer of an iovec array until one is short.
template <class One>
int64_t for_each_buffer(const Process& process, uint64_t address, uint64_t count, One one) {
  if (count > kMostVectors) return -EINVAL;
  int64_t total = 0;
  for (uint64_t i = 0; i < count; ++i) {
    const auto buffer = process.memory->load<iovec>(address + i * sizeof(iovec));
    if (!buffer) return total > 0 ? total : -EFAULT;
    if (buffer->iov_len == 0) continue;
    const int64_t got = one(reinterpret_cast<uint64_t>(buffer->iov_base), buffer->iov_len);
    if (got < 0) return total > 0 && got != kWaits ? total : got;
    total += got;
    if (static_cast<uint64_t>(got) < buffer->iov_len) break;
  }
  return total;
}

int64_t sys_readv(Process& process, const Arguments& a) {
  OpenFile* file = process.files.find(static_cast<int>(a[0]));
  if (file == nullptr) return -EBADF;
  bool first = true;  // a request has been begun: the rest of the buffers must not wait
  return for_each_buffer(process, a[1], a[2], [&](uint64_t address, uint64_t count) -> int64_t {
    if (!first && file->kind == FileKind::Request) return 0;
    first = false;
    return read_from(process, *file, address, count);
  });
}

int64_t sys_writev(Process& process, const Arguments& a) {
  const OpenFile* file = process.files.find(static_cast<int>(a[0]));
  if (file == nullptr) return -EBADF;
  return for_each_buffer(process, a[1], a[2], [&](uint64_t address, uint64_t count) {
    return write_to(process, *file, address, count);
  });
}

int64_t sys_pread64(Process& process, const Arguments& a) {
  const OpenFile* file = process.files.find(static_cast<int>(a[0]));
  if (file == nullptr) return -EBADF;
  if (file->kind == FileKind::Folder) return -EISDIR;
  if (file->kind != FileKind::Regular) return -ESPIPE;
  if (static_cast<int64_t>(a[3]) < 0) return -EINVAL;
  const uint64_t count = std::min(a[2], kMostTransfer);
  uint8_t* to = process.memory->user(a[1], count);
  return to == nullptr ? -EFAULT : read_at(*file, to, count, a[3]);
}

int64_t sys_lseek(Process& process, const Arguments& a) {
  OpenFile* file = process.files.find(static_cast<int>(a[0]));
  if (file == nullptr) return -EBADF;
  if (file->kind == FileKind::Folder) {
    const off_t at = ::lseek(file->host.get(), static_cast<off_t>(a[1]), static_cast<int>(a[2]));
    return at < 0 ? -errno : at;
  }
  if (file->kind != FileKind::Regular) return -ESPIPE;
  const auto shift = static_cast<int64_t>(a[1]);
  int64_t from = 0;
  if (a[2] == SEEK_CUR)
    from = static_cast<int64_t>(file->offset);
  else if (a[2] == SEEK_END)
    from = file->status.st_size;
  else if (a[2] != SEEK_SET)
    return -EINVAL;
  int64_t to = 0;
  if (__builtin_add_overflow(from, shift, &to) || to < 0) return -EINVAL;
  file->offset = static_cast<uint64_t>(to);
  return to;
}

int64_t sys_close(Process& process, const Arguments& a) {
  return process.files.close(static_cast<int>(a[0]));
}

int64_t sys_getdents64(Process& process, const Arguments& a) {
  const OpenFile* file = process.files.find(static_cast<int>(a[0]));
  if (file == nullptr) return -EBADF;
  if (file->kind != FileKind::Folder) return -ENOTDIR;
  const uint64_t count = std::min(a[2], kMostTransfer);
  uint8_t* to = process.memory->user(a[1], count);
  if (to == nullptr) return -EFAULT;
  const long got = ::syscall(SYS_getdents64, file->host.get(), to, count);
  return got < 0 ? -errno : got;
}

int64_t duplicate(Process& process, int fd, int least, bool close_on_exec) {
  const Descriptor* descriptor = process.files.descriptor(fd);
  if (descriptor == nullptr) return -EBADF;
  return process.files.add(descriptor->file, least, close_on_exec);
}

int64_t sys_dup(Process& process, const Arguments& a) {
  return duplicate(process, static_cast<int>(a[0]), 0, false);
}

int64_t sys_dup3(Process& process, const Arguments& a) {
  const Descriptor* descriptor = process.files.descriptor(static_cast<int>(a[0]));
  if (descriptor == nullptr) return -EBADF;
  const std::shared_ptr<OpenFile> file = descriptor->file;
  return process.files.add_at(static_cast<int>(a[1]), {file, (a[2] & O_CLOEXEC) != 0});
}

int64_t sys_dup2(Process& process, const Arguments& a) {
  if (process.files.find(static_cast<int>(a[0])) == nullptr) return -EBADF;
  if (a[0] == a[1]) return static_cast<int64_t>(a[1]);
  return sys_dup3(process, {a[0], a[1], 0});
}

int64_t sys_fcntl(Process& process, const Arguments& a) {
  Descriptor* descriptor = process.files.descriptor(static_cast<int>(a[0]));
  if (descriptor == nullptr) return -EBADF;
  switch (a[1]) {
    case F_DUPFD:
    case F_DUPFD_CLOEXEC:
      return duplicate(process, static_cast<int>(a[0]), static_cast<int>(a[2]),
                       a[1] == F_DUPFD_CLOEXEC);
    case F_GETFD:
      return descriptor->close_on_exec ? FD_CLOEXEC : 0;
    case F_SETFD:
      descriptor->close_on_exec = (a[2] & FD_CLOEXEC) != 0;
      return 0;
    case F_GETFL:
      return descriptor->file->flags & ~uint32_t{O_CLOEXEC};
    case F_SETFL:
      return 0;
    default:
      return -EINVAL;
  }
}

int64_t sys_ioctl(Process& process, const Arguments& a) {
  Descriptor* descriptor = process.files.descriptor(static_cast<int>(a[0]));
  if (descriptor == nullptr) return -EBADF;
  if (a[1] != FIOCLEX && a[1] != FIONCLEX) return -ENOTTY;
  descriptor->close_on_exec = a[1] == FIOCLEX;
  return 0;
}

// Everything is ready at once, but for a request that has not come: that is known only by reading.
int64_t sys_poll(Process& process, const Arguments& a) {
  if (a[1] > process.files.limit() + 3) return -EINVAL;
  int64_t ready = 0;
  for (uint64_t i = 0; i < a[1]; ++i) {
    const uint64_t at = a[0] + i * sizeof(pollfd);
    auto entry = process.memory->load<pollfd>(at);
    if (!entry) return -EFAULT;
    entry->revents = 0;
    if (entry->fd >= 0)
      entry->revents = process.files.find(entry->fd) == nullptr
                           ? static_cast<short>(POLLNVAL)
                           : static_cast<short>(entry->events & (POLLIN | POLLOUT));
    ready += entry->revents != 0;
    process.memory->store(at, *entry);
  }
  return ready;
}

constexpr Call kCalls[] = {
    {SYS_read, "read", sys_read},
    {SYS_write, "write", sys_write},
    {SYS_readv, "readv", sys_readv},
    {SYS_writev, "writev", sys_writev},
    {SYS_pread64, "pread64", sys_pread64},
    {SYS_lseek, "lseek", sys_lseek},
    {SYS_close, "close", sys_close},
    {SYS_getdents64, "getdents64", sys_getdents64},
    {SYS_dup, "dup", sys_dup},
    {SYS_dup2, "dup2", sys_dup2},
    {SYS_dup3, "dup3", sys_dup3},
    {SYS_fcntl, "fcntl", sys_fcntl},
    {SYS_ioctl, "ioctl", sys_ioctl},
    {SYS_poll, "poll", sys_poll},
};

}  // namespace

std::span<const Call> file_calls() { return kCalls; }

}  // namespace tidemill::aquifer

// brk, mmap and their kin. Memory is readable, writable and executable whatever was asked.
#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "syscalls.hpp"

namespace tidemill::aquifer {

namespace {

int64_t release(Process& process, uint64_t start, uint64_t length) {
  if (!process.space.release(start, length)) return -ENOMEM;
  process.memory->discard(start, length);
  return 0;
}

int64_t sys_brk(Process& process, const Arguments& a) {
  const auto current = static_cast<int64_t>(process.brk_end);
  const uint64_t wanted = a[0];
  if (wanted < process.brk_start || wanted > process.space.high()) return current;
  const uint64_t old_end = page_ceil(process.brk_end), new_end = page_ceil(wanted);
  if (new_end > old_end && !process.space.take_at(old_end, new_end - old_end)) return current;
  if (new_end < old_end && release(process, new_end, old_end - new_end) != 0) return current;
  if (wanted < process.brk_end && wanted < page_ceil(wanted))
    std::memset(process.memory->user(wanted, page_ceil(wanted) - wanted), 0,
                page_ceil(wanted) - wanted);
  process.brk_end = wanted;
  return static_cast<int64_t>(wanted);
}

// Where a mapping goes, taken and zero; or minus an errno.
int64_t place(Process& process, uint64_t hint, uint64_t length, uint64_t flags) {
  constexpr uint64_t kNoReplace = 0x100000;
  if ((flags & (MAP_FIXED | kNoReplace)) != 0) {
    if (hint % kPage != 0) return -EINVAL;
    if (!process.space.inside(hint, length)) return -ENOMEM;
    if ((flags & kNoReplace) != 0) {
      if (!process.space.is_free(hint, length)) return -EEXIST;
    } else if (!process.space.is_free(hint, length) && release(process, hint, length) != 0) {
      return -ENOMEM;
    }
    return process.space.take_at(hint, length) ? static_cast<int64_t>(hint) : -ENOMEM;
  }
  const uint64_t near = page_floor(hint);
  if (near != 0 && process.space.take_at(near, length)) return static_cast<int64_t>(near);
  const auto start = process.space.take(length);
  return start ? static_cast<int64_t>(*start) : -ENOMEM;
}

int64_t sys_mmap(Process& process, const Arguments& a) {
  const uint64_t prot = a[2], flags = a[3], offset = a[5];
  if (a[1] == 0 || (flags & (MAP_SHARED | MAP_PRIVATE)) == 0) return -EINVAL;
  if (a[1] > process.memory->size()) return -ENOMEM;
  const uint64_t length = page_ceil(a[1]);
  const OpenFile* file = nullptr;
  if ((flags & MAP_ANONYMOUS) == 0) {
    file = process.files.find(static_cast<int>(a[4]));
    if (file == nullptr) return -EBADF;
    if (file->kind != FileKind::Regular) return -ENODEV;
    if (offset % kPage != 0 || offset > INT64_MAX - length) return -EINVAL;
    const bool is_shared = (flags & MAP_SHARED) != 0;
    if (is_shared && (prot & PROT_WRITE) != 0) return -EACCES;  // files are read-only
  }
  const int64_t start = place(process, a[0], length, flags);
  if (start < 0 || file == nullptr) return start;
  const auto at = static_cast<uint64_t>(start);
  uint64_t done = 0;
  while (done < length) {
    const int64_t got = read_at(*file, process.memory->user(at + done, length - done),
                                length - done, offset + done);
    if (got < 0) {
      release(process, at, length);
      return got;
    }
    if (got == 0) break;
    done += static_cast<uint64_t>(got);
  }
  return start;
}

int64_t sys_munmap(Process& process, const Arguments& a) {
  if (a[0] % kPage != 0 || a[1] == 0) return -EINVAL;
  if (a[1] > process.memory->size()) return -EINVAL;
  const uint64_t length = page_ceil(a[1]);
  return process.space.inside(a[0], length) ? release(process, a[0], length) : -EINVAL;
}

int64_t move_mapping(Process& process, uint64_t start, uint64_t old_length, uint64_t new_length) {
  const auto to = process.space.take(new_length);
  if (!to) return -ENOMEM;
  std::memcpy(process.memory->user(*to, old_length), process.memory->user(start, old_length),
              old_length);
  release(process, start, old_length);
  return static_cast<int64_t>(*to);
}

int64_t sys_mremap(Process& process, const Arguments& a) {
  const uint64_t most = process.memory->size();
  if (a[0] % kPage != 0 || a[2] == 0 || a[1] == 0 || a[1] > most) return -EINVAL;
  if (a[2] > most) return -ENOMEM;
  const uint64_t start = a[0], old_length = page_ceil(a[1]), new_length = page_ceil(a[2]);
  const uint64_t flags = a[3];
  if ((flags & ~uint64_t{MREMAP_MAYMOVE}) != 0) return -EINVAL;  // no fixed target
  if (!process.space.inside(start, old_length)) return -EFAULT;
  if (new_length <= old_length) {
    if (new_length < old_length)
      return release(process, start + new_length, old_length - new_length) == 0
                 ? static_cast<int64_t>(start)
                 : -ENOMEM;
    return static_cast<int64_t>(start);
  }
  if (process.space.take_at(start + old_length, new_length - old_length))
    return static_cast<int64_t>(start);
  if ((flags & MREMAP_MAYMOVE) == 0) return -ENOMEM;
  return move_mapping(process, start, old_length, new_length);
}

int64_t sys_mprotect(Process& process, const Arguments& a) {
  if (a[0] % kPage != 0) return -EINVAL;
  return process.memory->in_user(a[0], a[1]) ? 0 : -ENOMEM;
}

int64_t sys_madvise(Process& process, const Arguments& a) {
  if (a[0] % kPage != 0 || a[1] > process.memory->size()) return -EINVAL;
  const uint64_t length = page_ceil(a[1]);
  if (!process.space.inside(a[0], length)) return -ENOMEM;
  if (a[2] == MADV_DONTNEED) process.memory->discard(a[0], length);
  return 0;
}

constexpr Call kCalls[] = {
    {SYS_brk, "brk", sys_brk},
    {SYS_mmap, "mmap", sys_mmap},
    {SYS_munmap, "munmap", sys_munmap},
    {SYS_mremap, "mremap", sys_mremap},
    {SYS_mprotect, "mprotect", sys_mprotect},
    {SYS_madvise, "madvise", sys_madvise},
};

}  // namespace

std::span<const Call> memory_calls() { return kCalls; }

}  // namespace tidemill::aquifer

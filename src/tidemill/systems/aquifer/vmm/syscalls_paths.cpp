// Calls that name a file: everything is looked up below the allowed roots, nothing is written.
#include <dirent.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "syscalls.hpp"

namespace tidemill::aquifer {

std::variant<std::string, int> absolute_path(const Process& process, int folder, uint64_t address) {
  auto path = process.memory->string(address, kLongestPath);
  if (!path) return process.memory->in_user(address, 1) ? -ENAMETOOLONG : -EFAULT;
  if (path->empty()) return -ENOENT;
  if (path->front() == '/') return std::move(*path);
  if (folder == AT_FDCWD) return process.working_folder + "/" + *path;
  const OpenFile* at = process.files.find(folder);
  if (at == nullptr) return -EBADF;
  if (at->kind != FileKind::Folder) return -ENOTDIR;
  return at->path + "/" + *path;
}

namespace {

std::shared_ptr<OpenFile> device(FileKind kind, const std::string& path, uint32_t flags) {
  auto file = std::make_shared<OpenFile>();
  file->kind = kind;
  file->path = path;
  file->flags = flags;
  return file;
}

}  // namespace

std::variant<std::shared_ptr<OpenFile>, int> open_file(const Process& process,
                                                       const std::string& path, uint32_t flags) {
  if (path == "/dev/null") return device(FileKind::Null, path, flags);
  if (path == "/dev/urandom" || path == "/dev/random") return device(FileKind::Random, path, flags);
  auto found = process.roots.find(path, (flags & O_NOFOLLOW) == 0, false);
  if (std::holds_alternative<int>(found)) return std::get<int>(found);
  Place& place = std::get<Place>(found);
  const bool writes = (flags & O_ACCMODE) != O_RDONLY ||
                      (flags & (O_CREAT | O_TRUNC | (O_TMPFILE & ~O_DIRECTORY))) != 0;
  if (writes) return -EROFS;
  const bool is_folder = S_ISDIR(place.status.st_mode);
  if ((flags & O_DIRECTORY) != 0 && !is_folder) return -ENOTDIR;
  auto opened = Roots::open(place);
  if (std::holds_alternative<int>(opened)) return std::get<int>(opened);
  auto file = device(is_folder ? FileKind::Folder : FileKind::Regular, place.path, flags);
  file->host = std::move(std::get<HostFd>(opened));
  file->status = place.status;
  return file;
}

namespace {

int64_t open_at(Process& process, int folder, uint64_t address, uint32_t flags) {
  auto path = absolute_path(process, folder, address);
  if (std::holds_alternative<int>(path)) return std::get<int>(path);
  const std::string& name = std::get<std::string>(path);
  auto file = open_file(process, name, flags);
  if (std::holds_alternative<int>(file)) {
    if (std::get<int>(file) == -EACCES)
      process.warn("open " + name + ": outside the allowed roots");
    return std::get<int>(file);
  }
  return process.files.add(std::get<std::shared_ptr<OpenFile>>(file), 0, (flags & O_CLOEXEC) != 0);
}

int64_t sys_open(Process& process, const Arguments& a) {
  return open_at(process, AT_FDCWD, a[0], static_cast<uint32_t>(a[1]));
}

int64_t sys_openat(Process& process, const Arguments& a) {
  return open_at(process, static_cast<int>(a[0]), a[1], static_cast<uint32_t>(a[2]));
}

struct stat device_status(const OpenFile& file) {
  struct stat status = {};
  status.st_mode =
      (file.kind == FileKind::Null || file.kind == FileKind::Random ? S_IFCHR : S_IFIFO) | 0600;
  status.st_ino = 1 + static_cast<ino_t>(file.kind);
  status.st_nlink = 1;
  status.st_blksize = kPage;
  return status;
}

int64_t store_status(const Process& process, uint64_t to, const struct stat& status) {
  return process.memory->store(to, status) ? 0 : -EFAULT;
}

int64_t status_of_fd(Process& process, int fd, uint64_t to) {
  const OpenFile* file = process.files.find(fd);
  if (file == nullptr) return -EBADF;
  return store_status(process, to, file->host ? file->status : device_status(*file));
}

int64_t status_at(Process& process, int folder, uint64_t address, uint64_t to, bool follow) {
  auto path = absolute_path(process, folder, address);
  if (std::holds_alternative<int>(path)) return std::get<int>(path);
  const std::string& name = std::get<std::string>(path);
  if (name == "/dev/null") return store_status(process, to, device_status(OpenFile{}));
  auto found = process.roots.find(name, follow, true);
  if (std::holds_alternative<int>(found)) return std::get<int>(found);
  return store_status(process, to, std::get<Place>(found).status);
}

int64_t sys_stat(Process& process, const Arguments& a) {
  return status_at(process, AT_FDCWD, a[0], a[1], true);
}

int64_t sys_lstat(Process& process, const Arguments& a) {
  return status_at(process, AT_FDCWD, a[0], a[1], false);
}

int64_t sys_fstat(Process& process, const Arguments& a) {
  return status_of_fd(process, static_cast<int>(a[0]), a[1]);
}

int64_t sys_newfstatat(Process& process, const Arguments& a) {
  const auto folder = static_cast<int>(a[0]);
  const auto first = process.memory->load<char>(a[1]);
  if (!first) return -EFAULT;
  if (*first == '\0' && (a[3] & AT_EMPTY_PATH) != 0) return status_of_fd(process, folder, a[2]);
  return status_at(process, folder, a[1], a[2], (a[3] & AT_SYMLINK_NOFOLLOW) == 0);
}

int64_t access_at(Process& process, int folder, uint64_t address, uint64_t mode) {
  auto path = absolute_path(process, folder, address);
  if (std::holds_alternative<int>(path)) return std::get<int>(path);
  const std::string& name = std::get<std::string>(path);
  if (name == "/dev/null") return 0;
  auto found = process.roots.find(name, true, true);
  if (std::holds_alternative<int>(found)) return std::get<int>(found);
  if ((mode & W_OK) != 0) return -EROFS;
  const bool executable = (std::get<Place>(found).status.st_mode & 0111) != 0;
  return (mode & X_OK) != 0 && !executable ? -EACCES : 0;
}

int64_t sys_access(Process& process, const Arguments& a) {
  return access_at(process, AT_FDCWD, a[0], a[1]);
}

int64_t sys_faccessat(Process& process, const Arguments& a) {
  return access_at(process, static_cast<int>(a[0]), a[1], a[2]);
}

int64_t give_bytes(const Process& process, std::string_view text, uint64_t to, uint64_t count) {
  const uint64_t given = std::min<uint64_t>(count, text.size());
  uint8_t* at = process.memory->user(to, given);
  if (at == nullptr) return -EFAULT;
  std::memcpy(at, text.data(), given);
  return static_cast<int64_t>(given);
}

int64_t readlink_at(Process& process, int folder, uint64_t address, uint64_t to, uint64_t count) {
  if (count == 0) return -EINVAL;
  auto path = absolute_path(process, folder, address);
  if (std::holds_alternative<int>(path)) return std::get<int>(path);
  const std::string& name = std::get<std::string>(path);
  if (name == "/proc/self/exe") return give_bytes(process, process.executable, to, count);
  auto found = process.roots.find(name, false, true);
  if (std::holds_alternative<int>(found)) return std::get<int>(found);
  char target[kLongestPath];
  const ssize_t length = ::readlinkat(std::get<Place>(found).fd.get(), "", target, sizeof target);
  if (length < 0) return S_ISLNK(std::get<Place>(found).status.st_mode) ? -errno : -EINVAL;
  return give_bytes(process, {target, static_cast<size_t>(length)}, to, count);
}

int64_t sys_readlink(Process& process, const Arguments& a) {
  return readlink_at(process, AT_FDCWD, a[0], a[1], a[2]);
}

int64_t sys_readlinkat(Process& process, const Arguments& a) {
  return readlink_at(process, static_cast<int>(a[0]), a[1], a[2], a[3]);
}

int64_t sys_getcwd(Process& process, const Arguments& a) {
  const std::string& folder = process.working_folder;
  if (a[1] < folder.size() + 1) return -ERANGE;
  return give_bytes(process, {folder.c_str(), folder.size() + 1}, a[0], a[1]);
}

int64_t sys_chdir(Process& process, const Arguments& a) {
  auto path = absolute_path(process, AT_FDCWD, a[0]);
  if (std::holds_alternative<int>(path)) return std::get<int>(path);
  auto found = process.roots.find(std::get<std::string>(path), true, false);
  if (std::holds_alternative<int>(found)) return std::get<int>(found);
  if (!S_ISDIR(std::get<Place>(found).status.st_mode)) return -ENOTDIR;
  process.working_folder = std::get<Place>(found).path;
  return 0;
}

// Whatever would change a file system.
int64_t sys_read_only(Process&, const Arguments&) { return -EROFS; }

constexpr Call kCalls[] = {
    {SYS_open, "open", sys_open},
    {SYS_openat, "openat", sys_openat},
    {SYS_stat, "stat", sys_stat},
    {SYS_lstat, "lstat", sys_lstat},
    {SYS_fstat, "fstat", sys_fstat},
    {SYS_newfstatat, "newfstatat", sys_newfstatat},
    {SYS_access, "access", sys_access},
    {SYS_faccessat, "faccessat", sys_faccessat},
    {439, "faccessat2", sys_faccessat},
    {SYS_readlink, "readlink", sys_readlink},
    {SYS_readlinkat, "readlinkat", sys_readlinkat},
    {SYS_getcwd, "getcwd", sys_getcwd},
    {SYS_chdir, "chdir", sys_chdir},
    {SYS_mkdir, "mkdir", sys_read_only},
    {SYS_mkdirat, "mkdirat", sys_read_only},
    {SYS_rmdir, "rmdir", sys_read_only},
    {SYS_unlink, "unlink", sys_read_only},
    {SYS_unlinkat, "unlinkat", sys_read_only},
    {SYS_rename, "rename", sys_read_only},
    {SYS_renameat2, "renameat2", sys_read_only},
    {SYS_chmod, "chmod", sys_read_only},
    {SYS_utimensat, "utimensat", sys_read_only},
};

}  // namespace

std::span<const Call> path_calls() { return kCalls; }

}  // namespace tidemill::aquifer

#include "roots.hpp"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <filesystem>

namespace tidemill::aquifer {

namespace {

// No magic link (/proc/self/fd/…, /proc/…/root) is ever followed on a guest's behalf.
int open_path(const std::string& path, bool follow) {
  open_how how = {};
  how.flags = O_PATH | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW);
  how.resolve = RESOLVE_NO_MAGICLINKS;
  return static_cast<int>(::syscall(SYS_openat2, AT_FDCWD, path.c_str(), &how, sizeof how));
}

std::string link_of(int fd) { return "/proc/self/fd/" + std::to_string(fd); }

bool below(const std::string& path, const std::string& root) {
  return path.starts_with(root) && (path.size() == root.size() || path[root.size()] == '/');
}

}  // namespace

std::string lexically_normal(const std::string& path) {
  std::string normal = std::filesystem::path(path).lexically_normal().string();
  if (normal.size() > 1 && normal.back() == '/') normal.pop_back();
  return normal;
}

bool Roots::contains(const std::string& real) const {
  for (const std::string& root : paths_)
    if (below(real, root)) return true;
  return false;
}

bool Roots::leads_to_root(const std::string& real) const {
  for (const std::string& root : paths_)
    if (real == "/" || below(root, real)) return true;
  return false;
}

std::variant<Place, int> Roots::find(const std::string& path, bool follow, bool only_status) const {
  HostFd fd(open_path(path, follow));
  const int error = errno;
  if (!fd) {
    const bool known = (error == ENOENT || error == ENOTDIR) && contains(lexically_normal(path));
    return known ? -error : -EACCES;
  }
  char real[PATH_MAX];
  const ssize_t length = ::readlink(link_of(fd.get()).c_str(), real, sizeof real);
  if (length <= 0 || length == sizeof real) return -EACCES;
  Place place{std::move(fd), std::string(real, static_cast<size_t>(length)), {}};
  if (!contains(place.path) && !(only_status && leads_to_root(place.path))) return -EACCES;
  if (::fstat(place.fd.get(), &place.status) != 0) return -errno;
  return place;
}

std::variant<HostFd, int> Roots::open(const Place& place) {
  if (S_ISLNK(place.status.st_mode)) return -ELOOP;
  if (!S_ISREG(place.status.st_mode) && !S_ISDIR(place.status.st_mode)) return -EACCES;
  // By the descriptor, not by the path: what was judged is what is opened.
  HostFd fd(::open(link_of(place.fd.get()).c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!fd) return -errno;
  return fd;
}

}  // namespace tidemill::aquifer

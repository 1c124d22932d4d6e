// Which host files a guest may read: those below the allowed roots, whatever path leads there.
#pragma once

#include <sys/stat.h>

#include <string>
#include <variant>
#include <vector>

#include "../../../memory/linux/host_fd.hpp"

namespace tidemill::aquifer {

using memory::HostFd;

// A place in the host's file system that was opened with O_PATH and judged by where it really is.
struct Place {
  HostFd fd;
  std::string path;
  struct stat status = {};
};

class Roots {
 public:
  // Canonical absolute paths of folders or files.
  explicit Roots(std::vector<std::string> paths) : paths_(std::move(paths)) {}

  bool contains(const std::string& real) const;
  // The place of an absolute path, or minus an errno. Outside the roots everything is EACCES, there
  // or not; ancestors of a root can be looked at (`only_status`) but not opened.
  std::variant<Place, int> find(const std::string& path, bool follow, bool only_status) const;
  // The file of a place for reading; minus an errno unless it is a regular file or a folder.
  static std::variant<HostFd, int> open(const Place& place);

 private:
  bool leads_to_root(const std::string& real) const;

  std::vector<std::string> paths_;
};

// `path` without ".", ".." and double slashes, by its letters alone.
std::string lexically_normal(const std::string& path);

}  // namespace tidemill::aquifer

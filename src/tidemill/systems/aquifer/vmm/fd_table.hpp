// The guest's descriptors: files of the host for reading, captured output, the hypercall channel.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "../../../memory/linux/host_fd.hpp"

namespace tidemill::aquifer {

using memory::HostFd;

inline constexpr int kRequestFd = 1000, kAnswerFd = 1001, kIdentityFd = 1002;

enum class FileKind : uint8_t {
  Null,     // reads as empty, swallows what is written
  Output,   // 1 and 2: captured by the monitor
  Random,   // /dev/urandom
  Request,  // one message to a read, see channel.hpp
  Answer,
  Identity,  // changes with every restore, see identity in process.hpp
  Regular,
  Folder,
};

// One open file; duplicates of a descriptor share it, with its offset.
struct OpenFile {
  FileKind kind = FileKind::Null;
  std::string path;
  HostFd host;              // of Regular and Folder
  uint64_t offset = 0;      // of Regular; a folder's is the host descriptor's
  uint32_t flags = 0;       // O_… as the guest gave them
  struct stat status = {};  // when it was opened
  uint8_t stream = 0;       // Output: 1 or 2
};

struct Descriptor {
  std::shared_ptr<OpenFile> file;
  bool close_on_exec = false;
};

class FdTable {
 public:
  explicit FdTable(size_t limit) : limit_(limit) {}

  void add_standard();  // 0, 1, 2 and the three of the channel
  OpenFile* find(int fd) const;
  Descriptor* descriptor(int fd);
  // The lowest free number from `least`, or -EMFILE.
  int add(std::shared_ptr<OpenFile> file, int least, bool close_on_exec);
  int add_at(int fd, Descriptor descriptor);  // replaces; -EMFILE or -EBADF
  int close(int fd);                          // 0 or -EBADF
  const std::map<int, Descriptor>& all() const { return table_; }
  size_t limit() const { return limit_; }

 private:
  size_t limit_;
  std::map<int, Descriptor> table_;
};

}  // namespace tidemill::aquifer

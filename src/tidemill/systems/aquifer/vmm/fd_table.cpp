#include "fd_table.hpp"

#include <cerrno>

namespace tidemill::aquifer {

void FdTable::add_standard() {
  const auto put = [this](int fd, FileKind kind, const char* path) {
    auto file = std::make_shared<OpenFile>();
    file->kind = kind;
    file->path = path;
    file->flags = 2;  // O_RDWR
    file->stream = static_cast<uint8_t>(fd <= 2 ? fd : 0);
    table_[fd] = {std::move(file), false};
  };
  put(0, FileKind::Null, "/dev/null");
  put(1, FileKind::Output, "stdout");
  put(2, FileKind::Output, "stderr");
  put(kRequestFd, FileKind::Request, "request");
  put(kAnswerFd, FileKind::Answer, "answer");
  put(kIdentityFd, FileKind::Identity, "identity");
}

OpenFile* FdTable::find(int fd) const {
  const auto it = table_.find(fd);
  return it == table_.end() ? nullptr : it->second.file.get();
}

Descriptor* FdTable::descriptor(int fd) {
  const auto it = table_.find(fd);
  return it == table_.end() ? nullptr : &it->second;
}

int FdTable::add(std::shared_ptr<OpenFile> file, int least, bool close_on_exec) {
  if (least < 0) return -EINVAL;
  int fd = least;
  while (table_.contains(fd)) ++fd;
  if (static_cast<size_t>(fd) >= limit_) return -EMFILE;
  table_[fd] = {std::move(file), close_on_exec};
  return fd;
}

int FdTable::add_at(int fd, Descriptor descriptor) {
  const bool is_channel = fd >= kRequestFd && fd <= kIdentityFd;
  if (fd < 0 || (static_cast<size_t>(fd) >= limit_ && !is_channel)) return -EBADF;
  table_[fd] = std::move(descriptor);
  return fd;
}

int FdTable::close(int fd) { return table_.erase(fd) == 1 ? 0 : -EBADF; }

}  // namespace tidemill::aquifer

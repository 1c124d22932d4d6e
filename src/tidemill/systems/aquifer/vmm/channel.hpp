// Requests in, answers out. A read of descriptor 1000 gives bytes of one request, then 0 once; the
// next read waits. An answer is what was written to 1001 until the guest waits again.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

namespace tidemill::aquifer {

class Channel {
 public:
  static constexpr size_t kMostBytes = size_t{64} << 20;

  bool has_request() const { return open_; }
  void put(std::string request) {
    request_ = std::move(request);
    offset_ = 0;
    open_ = true;
    answer_.clear();
  }
  // Bytes of the request, 0 at its end; nothing when the guest has to wait for the next one.
  std::optional<size_t> read(uint8_t* to, size_t count) {
    if (!open_) return std::nullopt;
    const size_t given = std::min(count, request_.size() - offset_);
    std::memcpy(to, request_.data() + offset_, given);
    offset_ += given;
    if (given == 0 && count > 0) open_ = false;
    return given;
  }
  bool write(const uint8_t* from, size_t count) {
    if (count > kMostBytes - answer_.size()) return false;
    answer_.append(reinterpret_cast<const char*>(from), count);
    return true;
  }
  std::string take_answer() { return std::exchange(answer_, {}); }

 private:
  std::string request_, answer_;
  size_t offset_ = 0;
  bool open_ = false;
};

}  // namespace tidemill::aquifer

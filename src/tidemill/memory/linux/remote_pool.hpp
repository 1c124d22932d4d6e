// Page servers that hold the same extents, and the link that lies between them and this host.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "../link.hpp"
#include "extents.hpp"
#include "page_connection.hpp"
#include "wire.hpp"

namespace tidemill::memory {

class RemotePool {
 public:
  // `timeout_ns`: how long one server may keep a request before another is asked.
  RemotePool(std::vector<std::string> addresses, const Link& link, int64_t timeout_ns);

  size_t replicas() const { return addresses_.size(); }
  int64_t timeout_ns() const { return timeout_ns_; }
  LinkClock& link() { return clock_; }
  const std::string& address(size_t replica) const { return addresses_[replica]; }

  // A connection nobody else uses, an idle one if there is any; throws std::system_error.
  std::unique_ptr<PageConnection> take(size_t replica);
  void give_back(size_t replica, std::unique_ptr<PageConnection> connection);
  void drop_idle(size_t replica);  // the server went

  // These wait for the answer of one server. Throw std::system_error: it is gone or too slow.
  Reply call(size_t replica, const Request& request, std::span<const uint8_t> body = {},
             std::span<uint8_t> into = {});
  void get(size_t replica, uint64_t offset, std::span<uint8_t> into);
  void put(size_t replica, uint64_t offset, std::span<const uint8_t> from);
  // Where an extent lies, and a connection: the server keeps its bytes as long as that lasts.
  std::pair<Reply, std::unique_ptr<PageConnection>> hold(size_t replica, const ExtentKey& key);

 private:
  Reply exchange(size_t replica, PageConnection& connection, const Request& request,
                 std::span<const uint8_t> body, std::span<uint8_t> into);

  const std::vector<std::string> addresses_;
  LinkClock clock_;
  const int64_t timeout_ns_;
  std::mutex mutex_;
  std::vector<std::vector<std::unique_ptr<PageConnection>>> idle_;
};

}  // namespace tidemill::memory

// A memory node: hands out and takes in bytes of one big region, by offset, and does nothing else
// with them.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "extents.hpp"
#include "host_fd.hpp"
#include "wire.hpp"

namespace tidemill::memory {

class PageServer {
 public:
  // Throws std::system_error. The memory is reserved, not yet occupied.
  PageServer(const std::string& address, uint64_t bytes);
  PageServer(const PageServer&) = delete;
  ~PageServer();

  std::string address() const { return address_; }
  void run();  // until `stop` is called, by whatever thread
  void stop();

 private:
  struct Client {
    HostFd socket;
    Request request;            // being read
    uint64_t head_done = 0;     // of its head
    uint64_t body_done = 0;     // of the bytes of a Put
    std::deque<Reply> replies;  // heads not sent in full
    std::deque<const uint8_t*> bodies;
    uint64_t sent = 0;     // of the first reply
    uint32_t watched = 0;  // EPOLL*
    std::vector<HeldExtent> held;
  };

  void accept_all();
  bool serve(Client& client);  // false: it is gone
  bool read_requests(Client& client);
  bool write_replies(Client& client);
  void answer(Client& client);
  Reply reply_to(Client& client);
  bool in_range(const Request& request) const;

  std::string address_;
  HostFd listener_, poll_, stop_;
  uint8_t* memory_ = nullptr;
  uint64_t bytes_ = 0;
  Extents extents_;
  std::map<int, Client> clients_;
};

}  // namespace tidemill::memory

// One connection to a page server with any number of requests under way; for one thread at a time.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "host_fd.hpp"
#include "wire.hpp"

namespace tidemill::memory {

class PageConnection {
 public:
  explicit PageConnection(HostFd socket) : socket_(std::move(socket)) {}

  // Asks for bytes, which will be written to `into`; the id that `pump` will report.
  uint64_t get(uint64_t offset, uint64_t bytes, uint8_t* into);
  // Sends any request, with the bytes of a Put, which must stay until it is reported.
  uint64_t send(Request request, std::span<const uint8_t> body = {});
  // Moves what can be moved without waiting and appends what is complete. False: it broke.
  bool pump(std::vector<Reply>& done);

  int fd() const { return socket_.get(); }
  short events() const;  // what to poll for
  bool is_idle() const { return targets_.empty(); }

 private:
  struct Outgoing {
    Request head;
    std::span<const uint8_t> body;
  };
  struct Target {
    uint8_t* into = nullptr;
    uint64_t most = 0;
  };

  bool write();
  bool read(std::vector<Reply>& done);

  HostFd socket_;
  uint64_t next_id_ = 1;
  std::deque<Outgoing> outgoing_;
  uint64_t sent_ = 0;  // of the first of them
  std::unordered_map<uint64_t, Target> targets_;
  Reply reply_;
  uint64_t head_done_ = 0, body_done_ = 0;
};

}  // namespace tidemill::memory

// Reads pieces of an extent asynchronously: many under way, each verified, another server asked
// when one fails, none given out before the link would have delivered it. For one thread.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <queue>
#include <string>
#include <unordered_map>
#include <vector>

#include "remote_pool.hpp"

namespace tidemill::memory {

struct ChunkRead {
  uint64_t tag = 0;  // the asker's
  uint64_t offset = 0, bytes = 0;
  std::optional<uint32_t> crc;
  std::unique_ptr<uint8_t[]> data;
  int64_t asked_ns = 0, sent_ns = 0, due_ns = 0;
};

class ChunkReader {
 public:
  // `bases`: where the extent begins on each server.
  ChunkReader(std::shared_ptr<RemotePool> pool, std::vector<uint64_t> bases, int64_t deadline_ns);
  ~ChunkReader();

  void ask(ChunkRead read);
  // Moves bytes; appends what is there, verified and due.
  void pump(std::vector<ChunkRead>& ready);
  // Why nothing more will come: no server gave a read in time. Empty: all is well.
  const std::string& failure() const { return failure_; }

  int fd() const { return connection_ ? connection_->fd() : -1; }
  short events() const { return connection_ ? connection_->events() : 0; }
  int64_t next_ns() const;  // when to pump again if the socket stays quiet
  size_t under_way() const { return flying_.size() + waiting_.size() + landed_.size(); }
  uint64_t failovers() const { return failovers_; }

 private:
  struct Later {
    bool operator()(const ChunkRead& a, const ChunkRead& b) const { return a.due_ns > b.due_ns; }
  };

  void send_waiting(int64_t now);
  void land(const Reply& reply, int64_t now);
  void give_up_server(int64_t now, const std::string& why);
  void check_deadlines(int64_t now);

  const std::shared_ptr<RemotePool> pool_;
  const std::vector<uint64_t> bases_;
  const int64_t deadline_ns_;
  std::unique_ptr<PageConnection> connection_;
  size_t replica_ = 0;
  int64_t connect_at_ns_ = 0;
  uint64_t failovers_ = 0;
  std::deque<ChunkRead> waiting_;
  std::unordered_map<uint64_t, ChunkRead> flying_;
  std::priority_queue<ChunkRead, std::vector<ChunkRead>, Later> landed_;
  std::string failure_, last_trouble_;
};

}  // namespace tidemill::memory

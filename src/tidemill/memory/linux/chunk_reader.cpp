#include "chunk_reader.hpp"

#include <algorithm>
#include <limits>
#include <system_error>

#include "../crc32c.hpp"
#include "moment.hpp"

namespace tidemill::memory {

namespace {

constexpr int64_t kRetryNs = 10'000'000;  // between rounds through all servers

}  // namespace

ChunkReader::ChunkReader(std::shared_ptr<RemotePool> pool, std::vector<uint64_t> bases,
                         int64_t deadline_ns)
    : pool_(std::move(pool)), bases_(std::move(bases)), deadline_ns_(deadline_ns) {}

ChunkReader::~ChunkReader() {
  if (connection_) pool_->give_back(replica_, std::move(connection_));
}

void ChunkReader::ask(ChunkRead read) {
  read.asked_ns = now_ns();
  read.data = std::make_unique_for_overwrite<uint8_t[]>(read.bytes);
  waiting_.push_back(std::move(read));
}

void ChunkReader::pump(std::vector<ChunkRead>& ready) {
  int64_t now = now_ns();
  send_waiting(now);
  if (connection_) {
    std::vector<Reply> done;
    const bool works = connection_->pump(done);
    now = now_ns();
    for (const Reply& reply : done) land(reply, now);
    if (!works && connection_) give_up_server(now, "it closed the connection");
  }
  while (!landed_.empty() && landed_.top().due_ns - now <= kSpinNs) {
    wait_until(landed_.top().due_ns);
    ready.push_back(std::move(const_cast<ChunkRead&>(landed_.top())));
    landed_.pop();
  }
  check_deadlines(now);
}

void ChunkReader::send_waiting(int64_t now) {
  if (waiting_.empty() || (!connection_ && now < connect_at_ns_)) return;
  if (!connection_) {
    try {
      connection_ = pool_->take(replica_);
    } catch (const std::system_error& error) {
      give_up_server(now, error.code().message());
      return;
    }
  }
  while (!waiting_.empty() && flying_.size() < pool_->link().link().outstanding) {
    ChunkRead read = std::move(waiting_.front());
    waiting_.pop_front();
    read.sent_ns = now;
    read.due_ns = pool_->link().complete_at(now, read.bytes);
    const uint64_t id =
        connection_->get(bases_[replica_] + read.offset, read.bytes, read.data.get());
    flying_.emplace(id, std::move(read));
  }
}

void ChunkReader::land(const Reply& reply, int64_t now) {
  const auto at = flying_.find(reply.id);
  if (at == flying_.end()) return;
  ChunkRead read = std::move(at->second);
  flying_.erase(at);
  const bool is_right = reply.answer == Answer::Fine && reply.bytes == read.bytes &&
                        (!read.crc || crc32c({read.data.get(), read.bytes}) == *read.crc);
  if (is_right) {
    landed_.push(std::move(read));
  } else {
    waiting_.push_front(std::move(read));
    if (connection_) give_up_server(now, "what it gave is not what was published");
  }
}

void ChunkReader::give_up_server(int64_t now, const std::string& why) {
  last_trouble_ = pool_->address(replica_) + ": " + why;
  for (auto& [id, read] : flying_) waiting_.push_front(std::move(read));
  flying_.clear();
  connection_.reset();
  pool_->drop_idle(replica_);
  ++failovers_;
  replica_ = (replica_ + 1) % pool_->replicas();
  connect_at_ns_ = failovers_ % pool_->replicas() == 0 ? now + kRetryNs : now;
}

void ChunkReader::check_deadlines(int64_t now) {
  const int64_t slow = std::min(pool_->timeout_ns(), deadline_ns_);
  const bool hangs = std::any_of(flying_.begin(), flying_.end(), [&](const auto& entry) {
    return now - entry.second.sent_ns > slow;
  });
  if (hangs) give_up_server(now, "it does not answer");
  for (const ChunkRead& read : waiting_)
    if (now - read.asked_ns > deadline_ns_)
      failure_ = "no server gives its pages; " + last_trouble_;
}

int64_t ChunkReader::next_ns() const {
  int64_t next = std::numeric_limits<int64_t>::max();
  if (!waiting_.empty())
    next = connection_ ? waiting_.front().asked_ns + deadline_ns_ : connect_at_ns_;
  for (const auto& [id, read] : flying_)
    next = std::min(next, read.sent_ns + std::min(pool_->timeout_ns(), deadline_ns_));
  if (!landed_.empty()) next = std::min(next, landed_.top().due_ns - kSpinNs);
  return next;
}

}  // namespace tidemill::memory

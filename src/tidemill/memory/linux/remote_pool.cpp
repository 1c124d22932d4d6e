#include "remote_pool.hpp"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <system_error>

#include "moment.hpp"
#include "sockets.hpp"

namespace tidemill::memory {

namespace {

constexpr size_t kMostIdle = 16;

[[noreturn]] void fail(int error, const std::string& address) {
  throw std::system_error(error, std::generic_category(), address);
}

}  // namespace

RemotePool::RemotePool(std::vector<std::string> addresses, const Link& link, int64_t timeout_ns)
    : addresses_(std::move(addresses)),
      clock_(link),
      timeout_ns_(timeout_ns),
      idle_(addresses_.size()) {
  if (addresses_.empty()) throw std::invalid_argument("a remote pool needs an address");
}

std::unique_ptr<PageConnection> RemotePool::take(size_t replica) {
  {
    const std::lock_guard lock(mutex_);
    auto& idle = idle_.at(replica);
    if (!idle.empty()) {
      auto found = std::move(idle.back());
      idle.pop_back();
      return found;
    }
  }
  return std::make_unique<PageConnection>(connect_to(addresses_.at(replica), timeout_ns_));
}

void RemotePool::give_back(size_t replica, std::unique_ptr<PageConnection> connection) {
  const std::lock_guard lock(mutex_);
  if (connection->is_idle() && idle_.at(replica).size() < kMostIdle)
    idle_.at(replica).push_back(std::move(connection));
}

void RemotePool::drop_idle(size_t replica) {
  const std::lock_guard lock(mutex_);
  idle_.at(replica).clear();
}

Reply RemotePool::call(size_t replica, const Request& request, std::span<const uint8_t> body,
                       std::span<uint8_t> into) {
  auto connection = take(replica);
  const Reply reply = exchange(replica, *connection, request, body, into);
  give_back(replica, std::move(connection));
  return reply;
}

std::pair<Reply, std::unique_ptr<PageConnection>> RemotePool::hold(size_t replica,
                                                                   const ExtentKey& key) {
  auto own = std::make_unique<PageConnection>(connect_to(addresses_.at(replica), timeout_ns_));
  Request request;
  request.verb = Verb::Hold;
  request.key = key;
  const Reply reply = exchange(replica, *own, request, {}, {});
  return {reply, std::move(own)};
}

Reply RemotePool::exchange(size_t replica, PageConnection& connection, const Request& request,
                           std::span<const uint8_t> body, std::span<uint8_t> into) {
  const int64_t asked = now_ns();
  if (into.empty())
    connection.send(request, body);
  else
    connection.get(request.offset, into.size(), into.data());
  std::vector<Reply> done;
  while (done.empty()) {
    if (!connection.pump(done)) {
      drop_idle(replica);
      fail(ECONNRESET, addresses_[replica]);
    }
    if (!done.empty()) break;
    const int64_t left = asked + timeout_ns_ - now_ns();
    if (left <= 0) fail(ETIMEDOUT, addresses_[replica]);
    pollfd wait = {connection.fd(), connection.events(), 0};
    ::poll(&wait, 1, static_cast<int>(left / 1'000'000 + 1));
  }
  wait_until(clock_.complete_at(asked, std::max(body.size(), into.size())));
  return done.front();
}

void RemotePool::get(size_t replica, uint64_t offset, std::span<uint8_t> into) {
  for (uint64_t done = 0; done < into.size();) {
    Request request;
    request.offset = offset + done;
    const uint64_t bytes = std::min<uint64_t>(kMostBytes, into.size() - done);
    const Reply reply = call(replica, request, {}, into.subspan(done, bytes));
    if (reply.answer != Answer::Fine) fail(ERANGE, addresses_[replica]);
    done += bytes;
  }
}

void RemotePool::put(size_t replica, uint64_t offset, std::span<const uint8_t> from) {
  for (uint64_t done = 0; done < from.size();) {
    Request request;
    request.verb = Verb::Put;
    request.offset = offset + done;
    request.bytes = std::min<uint64_t>(kMostBytes, from.size() - done);
    const Reply reply = call(replica, request, from.subspan(done, request.bytes));
    if (reply.answer != Answer::Fine) fail(ERANGE, addresses_[replica]);
    done += request.bytes;
  }
}

}  // namespace tidemill::memory

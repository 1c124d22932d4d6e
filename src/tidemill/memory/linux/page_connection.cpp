#include "page_connection.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <cerrno>

namespace tidemill::memory {

namespace {

bool is_blocked(ssize_t moved) { return moved < 0 && (errno == EAGAIN || errno == EINTR); }

}  // namespace

uint64_t PageConnection::get(uint64_t offset, uint64_t bytes, uint8_t* into) {
  Request request;
  request.offset = offset;
  request.bytes = bytes;
  const uint64_t id = send(request);
  targets_[id] = {into, bytes};
  return id;
}

uint64_t PageConnection::send(Request request, std::span<const uint8_t> body) {
  request.id = next_id_++;
  targets_[request.id] = {};
  outgoing_.push_back({request, body});
  return request.id;
}

short PageConnection::events() const {
  return static_cast<short>(outgoing_.empty() ? POLLIN : POLLIN | POLLOUT);
}

bool PageConnection::pump(std::vector<Reply>& done) { return write() && read(done); }

bool PageConnection::write() {
  while (!outgoing_.empty()) {
    const Outgoing& first = outgoing_.front();
    iovec parts[2];
    int count = 0;
    if (sent_ < sizeof(Request)) {
      auto* head = reinterpret_cast<uint8_t*>(const_cast<Request*>(&first.head));
      parts[count++] = {head + sent_, sizeof(Request) - sent_};
    }
    const uint64_t skip = sent_ > sizeof(Request) ? sent_ - sizeof(Request) : 0;
    if (first.body.size() > skip)
      parts[count++] = {const_cast<uint8_t*>(first.body.data()) + skip, first.body.size() - skip};
    msghdr message = {};
    message.msg_iov = parts;
    message.msg_iovlen = static_cast<size_t>(count);
    const ssize_t sent = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
    if (is_blocked(sent)) return true;
    if (sent < 0) return false;
    sent_ += static_cast<uint64_t>(sent);
    if (sent_ < sizeof(Request) + first.body.size()) continue;
    outgoing_.pop_front();
    sent_ = 0;
  }
  return true;
}

bool PageConnection::read(std::vector<Reply>& done) {
  for (;;) {
    const bool in_body = head_done_ == sizeof(Reply);
    Target* target = nullptr;
    if (in_body) target = &targets_.at(reply_.id);
    uint8_t* to =
        in_body ? target->into + body_done_ : reinterpret_cast<uint8_t*>(&reply_) + head_done_;
    const uint64_t wanted = in_body ? reply_.bytes - body_done_ : sizeof(Reply) - head_done_;
    const ssize_t got = ::recv(socket_.get(), to, wanted, 0);
    if (is_blocked(got)) return true;
    if (got <= 0) return false;
    (in_body ? body_done_ : head_done_) += static_cast<uint64_t>(got);
    if (static_cast<uint64_t>(got) < wanted) continue;
    if (!in_body) {
      const auto at = targets_.find(reply_.id);
      if (at == targets_.end()) return false;  // an answer to nothing that was asked
      const bool has_body = at->second.into != nullptr && reply_.bytes > 0;
      if (has_body && reply_.bytes != at->second.most) return false;
      if (has_body) continue;
    }
    targets_.erase(reply_.id);
    done.push_back(reply_);
    head_done_ = body_done_ = 0;
  }
}

}  // namespace tidemill::memory

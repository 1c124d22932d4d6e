#include "page_server.hpp"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>

#include "sockets.hpp"

namespace tidemill::memory {

namespace {

constexpr size_t kMostReplies = 256;  // of one client; it is not read while it has so many
constexpr size_t kMostParts = 64;
constexpr size_t kBatch = 32;

void watch(int poll, int action, int fd, uint32_t events) {
  epoll_event event = {};
  event.events = events;
  event.data.fd = fd;
  if (::epoll_ctl(poll, action, fd, &event) != 0)
    throw std::system_error(errno, std::generic_category(), "epoll_ctl");
}

bool is_blocked(ssize_t moved) { return moved < 0 && (errno == EAGAIN || errno == EINTR); }

}  // namespace

PageServer::PageServer(const std::string& address, uint64_t bytes)
    : listener_(listen_at(address)),
      poll_(::epoll_create1(EPOLL_CLOEXEC)),
      stop_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      bytes_(bytes),
      extents_(bytes) {
  address_ = address_of(listener_, address);
  void* at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap");
  memory_ = static_cast<uint8_t*>(at);
  watch(poll_.get(), EPOLL_CTL_ADD, listener_.get(), EPOLLIN);
  watch(poll_.get(), EPOLL_CTL_ADD, stop_.get(), EPOLLIN);
}

PageServer::~PageServer() {
  if (memory_ != nullptr) ::munmap(memory_, bytes_);
}

void PageServer::stop() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(stop_.get(), &one, sizeof one);
}

void PageServer::run() {
  std::array<epoll_event, kBatch> events;
  for (;;) {
    const int count = ::epoll_wait(poll_.get(), events.data(), kBatch, -1);
    if (count < 0 && errno != EINTR)
      throw std::system_error(errno, std::generic_category(), "epoll_wait");
    for (int i = 0; i < count; ++i) {
      const int fd = events[i].data.fd;
      if (fd == stop_.get()) return;
      if (fd == listener_.get()) {
        accept_all();
      } else if (const auto at = clients_.find(fd); at != clients_.end() && !serve(at->second)) {
        clients_.erase(at);
      }
    }
  }
}

void PageServer::accept_all() {
  for (;;) {
    HostFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) return;
    const int fd = socket.get();
    tune(fd);
    watch(poll_.get(), EPOLL_CTL_ADD, fd, EPOLLIN);
    Client& client = clients_[fd];
    client.socket = std::move(socket);
    client.watched = EPOLLIN;
  }
}

bool PageServer::serve(Client& client) {
  if (!read_requests(client) || !write_replies(client)) return false;
  const uint32_t wanted = (client.replies.empty() ? 0u : EPOLLOUT) |
                          (client.replies.size() < kMostReplies ? EPOLLIN : 0u);
  if (wanted != client.watched) watch(poll_.get(), EPOLL_CTL_MOD, client.socket.get(), wanted);
  client.watched = wanted;
  return true;
}

bool PageServer::in_range(const Request& request) const {
  return request.bytes <= kMostBytes && request.offset <= bytes_ &&
         request.bytes <= bytes_ - request.offset;
}

bool PageServer::read_requests(Client& client) {
  while (client.replies.size() < kMostReplies) {
    Request& request = client.request;
    const bool in_body = client.head_done == sizeof(Request);
    uint8_t* to = in_body ? memory_ + request.offset + client.body_done
                          : reinterpret_cast<uint8_t*>(&request) + client.head_done;
    const uint64_t wanted =
        in_body ? request.bytes - client.body_done : sizeof(Request) - client.head_done;
    const ssize_t got = ::recv(client.socket.get(), to, wanted, 0);
    if (is_blocked(got)) return true;
    if (got <= 0) return false;
    (in_body ? client.body_done : client.head_done) += static_cast<uint64_t>(got);
    if (static_cast<uint64_t>(got) < wanted) continue;
    if (!in_body) {
      if (request.magic != kRequestMagic) return false;
      if (request.verb == Verb::Put) {
        if (!in_range(request)) return false;  // there is no place to put what follows
        if (request.bytes > 0) continue;
      }
    }
    answer(client);
    client.head_done = client.body_done = 0;
  }
  return true;
}

void PageServer::answer(Client& client) {
  const Reply reply = reply_to(client);
  const bool has_body = client.request.verb == Verb::Get && reply.answer == Answer::Fine;
  client.replies.push_back(reply);
  client.bodies.push_back(has_body ? memory_ + client.request.offset : nullptr);
}

Reply PageServer::reply_to(Client& client) {
  const Request& request = client.request;
  Reply reply;
  reply.id = request.id;
  HeldExtent extent;
  switch (request.verb) {
    case Verb::Get:
      reply.answer = in_range(request) ? Answer::Fine : Answer::OutOfRange;
      reply.bytes = in_range(request) ? request.bytes : 0;
      return reply;
    case Verb::Put:
      return reply;
    case Verb::Reserve:
      if (extents_.find(request.key)) reply.answer = Answer::Sealed;
      extent = extents_.reserve(request.key, request.bytes);
      if (!extent) reply.answer = Answer::NoRoom;
      break;
    case Verb::Find:
    case Verb::Hold:
      extent = extents_.find(request.key);
      if (!extent) reply.answer = Answer::Unknown;
      if (extent && request.verb == Verb::Hold) client.held.push_back(extent);
      break;
    case Verb::Seal:
      if (!extents_.seal(request.key)) reply.answer = Answer::Unknown;
      return reply;
    case Verb::Free:
      if (!extents_.free(request.key)) reply.answer = Answer::Unknown;
      return reply;
    case Verb::Room:
      reply.bytes = extents_.room();
      return reply;
    default:
      reply.answer = Answer::Unknown;
      return reply;
  }
  if (extent) {
    reply.offset = extent->offset;
    reply.bytes = extent->bytes;
  }
  return reply;
}

bool PageServer::write_replies(Client& client) {
  while (!client.replies.empty()) {
    std::array<iovec, kMostParts> parts;
    size_t count = 0;
    uint64_t skip = client.sent;
    const auto add = [&](const void* from, uint64_t bytes) {
      if (skip >= bytes) {
        skip -= bytes;
        return;
      }
      auto* at = const_cast<uint8_t*>(static_cast<const uint8_t*>(from));
      parts[count++] = {at + skip, bytes - skip};
      skip = 0;
    };
    for (size_t i = 0; i < client.replies.size() && count + 2 <= kMostParts; ++i) {
      add(&client.replies[i], sizeof(Reply));
      if (client.bodies[i] != nullptr) add(client.bodies[i], client.replies[i].bytes);
    }
    msghdr message = {};
    message.msg_iov = parts.data();
    message.msg_iovlen = count;
    const ssize_t sent = ::sendmsg(client.socket.get(), &message, MSG_NOSIGNAL);
    if (is_blocked(sent)) return true;
    if (sent < 0) return false;
    client.sent += static_cast<uint64_t>(sent);
    while (!client.replies.empty()) {
      const uint64_t body = client.bodies.front() != nullptr ? client.replies.front().bytes : 0;
      if (client.sent < sizeof(Reply) + body) break;
      client.sent -= sizeof(Reply) + body;
      client.replies.pop_front();
      client.bodies.pop_front();
    }
  }
  return true;
}

}  // namespace tidemill::memory

#include "sockets.hpp"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <system_error>

namespace tidemill::memory {

namespace {

constexpr int kRoom = 1 << 20;
constexpr int kBacklog = 64;

struct Place {
  sockaddr_storage storage = {};
  socklen_t length = 0;
};

[[noreturn]] void refuse(const std::string& address) {
  throw std::invalid_argument(address + " - must be unix:/path or tcp:host:port");
}

[[noreturn]] void fail(int error, const std::string& address) {
  throw std::system_error(error, std::generic_category(), address);
}

Place unix_place(const std::string& address) {
  Place place;
  auto* at = reinterpret_cast<sockaddr_un*>(&place.storage);
  const std::string path = address.substr(5);
  if (path.empty() || path.size() >= sizeof at->sun_path) refuse(address);
  at->sun_family = AF_UNIX;
  std::memcpy(at->sun_path, path.c_str(), path.size() + 1);
  place.length = sizeof(sockaddr_un);
  return place;
}

Place tcp_place(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon <= 4 || colon + 1 == address.size()) refuse(address);
  std::string host = address.substr(4, colon - 4);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (::getaddrinfo(host.c_str(), address.c_str() + colon + 1, &hints, &found) != 0)
    refuse(address);
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, &::freeaddrinfo);
  Place place;
  std::memcpy(&place.storage, found->ai_addr, found->ai_addrlen);
  place.length = found->ai_addrlen;
  return place;
}

Place place_of(const std::string& address) {
  if (address.starts_with("unix:")) return unix_place(address);
  if (address.starts_with("tcp:")) return tcp_place(address);
  refuse(address);
}

}  // namespace

void tune(int socket) {
  ::fcntl(socket, F_SETFL, ::fcntl(socket, F_GETFL) | O_NONBLOCK);
  const int on = 1;
  ::setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &kRoom, sizeof kRoom);
  ::setsockopt(socket, SOL_SOCKET, SO_RCVBUF, &kRoom, sizeof kRoom);
  ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);  // refused by a Unix socket
}

HostFd connect_to(const std::string& address, int64_t timeout_ns) {
  const Place place = place_of(address);
  HostFd made(::socket(place.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!made) fail(errno, address);
  tune(made.get());
  if (::connect(made.get(), reinterpret_cast<const sockaddr*>(&place.storage), place.length) == 0)
    return made;
  if (errno != EINPROGRESS) fail(errno, address);
  pollfd wait = {made.get(), POLLOUT, 0};
  if (::poll(&wait, 1, static_cast<int>(timeout_ns / 1'000'000)) <= 0) fail(ETIMEDOUT, address);
  int error = 0;
  socklen_t length = sizeof error;
  ::getsockopt(made.get(), SOL_SOCKET, SO_ERROR, &error, &length);
  if (error != 0) fail(error, address);
  return made;
}

HostFd listen_at(const std::string& address) {
  const Place place = place_of(address);
  HostFd made(::socket(place.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!made) fail(errno, address);
  const int on = 1;
  ::setsockopt(made.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (::bind(made.get(), reinterpret_cast<const sockaddr*>(&place.storage), place.length) != 0 ||
      ::listen(made.get(), kBacklog) != 0)
    fail(errno, address);
  return made;
}

std::string address_of(const HostFd& listener, const std::string& asked) {
  if (asked.starts_with("unix:")) return asked;
  sockaddr_storage storage = {};
  socklen_t length = sizeof storage;
  ::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&storage), &length);
  const uint16_t port = storage.ss_family == AF_INET6
                            ? reinterpret_cast<sockaddr_in6*>(&storage)->sin6_port
                            : reinterpret_cast<sockaddr_in*>(&storage)->sin_port;
  return asked.substr(0, asked.rfind(':') + 1) + std::to_string(ntohs(port));
}

}  // namespace tidemill::memory

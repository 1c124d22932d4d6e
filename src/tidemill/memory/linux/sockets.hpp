// Stream sockets by address: "unix:/run/pages.sock" or "tcp:host:port".
#pragma once

#include <cstdint>
#include <string>

#include "host_fd.hpp"

namespace tidemill::memory {

// Both throw std::invalid_argument for an address that is none, std::system_error otherwise.
HostFd connect_to(const std::string& address, int64_t timeout_ns);
HostFd listen_at(const std::string& address);
// Where a listener listens, with the port that the system chose for port 0.
std::string address_of(const HostFd& listener, const std::string& asked);
void tune(int socket);  // non-blocking, room for several chunks, no delay

}  // namespace tidemill::memory

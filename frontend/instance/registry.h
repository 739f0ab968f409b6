// The instances of a user on this host. Nothing is kept but the names of sockets, at which their
// monitors listen: what is true of an instance, its monitor says; without a monitor there is none.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

#include "frontend/instance/contact.h"
#include "frontend/start/peer.h"
#include "policy/problem.h"
#include "protocol/base/unique_fd.h"

namespace postern::instance {

// A name that this process holds.
class Claim {
 public:
  Claim() = default;

  ~Claim() { release(); }

  Claim(Claim&&) = default;
  Claim& operator=(Claim&&) = default;

  [[nodiscard]] int socket() const noexcept { return socket_.get(); }

  // The name is free again.
  void release() noexcept;

 private:
  friend Outcome<Claim> claim(const std::string& name);
  UniqueFd directory_;
  UniqueFd socket_;
  std::string name_;
  std::string path_;
  std::uint64_t inode_ = 0;
};

// Listens under the name. Error: there is such an instance, or no place for the socket.
Outcome<Claim> claim(const std::string& name);

// A monitor that has proved to be one.
struct Contact {
  std::string name;
  UniqueFd socket;
  start::Peer monitor;
};

// nullopt: there is no such instance.
std::optional<Contact> find(const std::string& name);

// All of them, sorted by name; only those of `owner`, for root.
std::vector<Contact> find_all(const std::string& pattern, uid_t owner);

// Error: it does not answer.
Outcome<Description> describe(const Contact& contact);

}  // namespace postern::instance

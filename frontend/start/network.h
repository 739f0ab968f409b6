// The program that carries a container's network (frontend/plan/network.h).
#pragma once

#include <string>

#include <sys/types.h>

#include "frontend/plan/network.h"
#include "policy/problem.h"
#include "protocol/base/unique_fd.h"

namespace postern::start {

// A child of ours, which ends with us whatever ends us. It waits in the container's user namespace,
// and in the host's network, until the payload's process sends its network namespace.
class NetworkProcess {
 public:
  NetworkProcess() = default;
  NetworkProcess(NetworkProcess&&) = default;
  NetworkProcess& operator=(NetworkProcess&&) = delete;
  NetworkProcess(const NetworkProcess&) = delete;
  NetworkProcess& operator=(const NetworkProcess&) = delete;
  ~NetworkProcess();

  Outcome<> begin(const plan::CarriedNetwork& network, int user_namespace);

  // In the payload's process, in its network namespace: waits until the network is there. Returns 0
  // or errno: ENODEV if the program ended without.
  [[nodiscard]] int connect() const noexcept;

  // The container is over.
  void end() noexcept;

  // What the program wrote: its last line.
  [[nodiscard]] std::string last_words() const;

 private:
  [[noreturn]] void run(const plan::CarriedNetwork& network,
                        int user_namespace,
                        int socket,
                        int ready,
                        pid_t parent) const;

  pid_t pid_ = -1;
  UniqueFd to_child_;
  UniqueFd ready_;
  UniqueFd log_;
};

}  // namespace postern::start

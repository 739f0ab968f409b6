// Who has something to do beside a payload that runs: the monitor of an instance.
#pragma once

#include <sys/types.h>

namespace postern::start {

class Attendant {
 public:
  Attendant() = default;
  virtual ~Attendant() = default;
  Attendant(const Attendant&) = delete;
  Attendant& operator=(const Attendant&) = delete;

  // The payload's process is a child of this process and runs.
  virtual void started(pid_t payload) = 0;
  // A descriptor that poll(2) finds readable if serve() has something to do.
  [[nodiscard]] virtual int events() const = 0;
  // Never waits.
  virtual void serve() = 0;
  // Nothing of the payload is left. This process may end by a signal right after it.
  virtual void ended(int status) = 0;
};

}  // namespace postern::start

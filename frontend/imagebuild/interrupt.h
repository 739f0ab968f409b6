// SIGINT, SIGTERM and SIGHUP while a build has something to clean up: the work ends at its next
// step with a Problem, destructors clean up, and then the process ends by the signal.
#pragma once

#include <csignal>

#include "policy/problem.h"

namespace postern::imagebuild {

// Installs handlers for as long as it lives. One at a time.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();  // puts the former handlers back
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

 private:
  struct sigaction former_[3]{};
};

// A Problem if a signal came.
Outcome<> check_interrupt();

// 0, or the signal that came.
int interrupt_signal() noexcept;

}  // namespace postern::imagebuild

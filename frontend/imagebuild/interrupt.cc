#include "frontend/imagebuild/interrupt.h"

#include <atomic>

namespace postern::imagebuild {
namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP};
std::atomic<int> g_signal{0};
static_assert(std::atomic<int>::is_always_lock_free, "set in a signal handler");

void note(int signal) {
  g_signal.store(signal);
}

}  // namespace

InterruptGuard::InterruptGuard() {
  struct sigaction action{};
  action.sa_handler = note;
  action.sa_flags = static_cast<int>(SA_RESETHAND);  // a second Ctrl-C does not wait
  for (std::size_t i = 0; i < std::size(kSignals); ++i) {
    ::sigaction(kSignals[i], &action, &former_[i]);
    if (former_[i].sa_handler == SIG_IGN) {  // nohup(1)
      ::sigaction(kSignals[i], &former_[i], nullptr);
    }
  }
}

InterruptGuard::~InterruptGuard() {
  for (std::size_t i = 0; i < std::size(kSignals); ++i) {
    ::sigaction(kSignals[i], &former_[i], nullptr);
  }
}

int interrupt_signal() noexcept {
  return g_signal.load();
}

Outcome<> check_interrupt() {
  if (interrupt_signal() != 0) {
    return Problem{.what = "interrupted", .exit_code = 128 + interrupt_signal()};
  }
  return {};
}

}  // namespace postern::imagebuild

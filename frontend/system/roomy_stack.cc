#include "frontend/system/roomy_stack.h"

#include <cstddef>

#include <sys/mman.h>
#include <sys/resource.h>

#include <ucontext.h>

namespace postern::system {
namespace {

constexpr std::size_t kEnoughBytes = std::size_t{2} << 20;

// makecontext(3) passes integers only.
struct Call {
  int (*function)(int, char**) = nullptr;
  int argc = 0;
  char** argv = nullptr;
  int result = 0;
};

Call g_call;

void run_call() {
  g_call.result = g_call.function(g_call.argc, g_call.argv);
}

}  // namespace

int on_roomy_stack(int (*function)(int argc, char** argv), int argc, char** argv) {
  rlimit limit = {};
  if (::getrlimit(RLIMIT_STACK, &limit) != 0 || limit.rlim_cur >= kEnoughBytes) {
    return function(argc, argv);
  }
  void* const base = ::mmap(nullptr, kEnoughBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
  ucontext_t here = {};
  ucontext_t there = {};
  if (base == MAP_FAILED || ::getcontext(&there) != 0) {
    return function(argc, argv);
  }
  g_call = {.function = function, .argc = argc, .argv = argv};
  there.uc_stack.ss_sp = base;
  there.uc_stack.ss_size = kEnoughBytes;
  there.uc_link = &here;
  ::makecontext(&there, run_call, 0);
  ::swapcontext(&here, &there);
  return g_call.result;
}

}  // namespace postern::system

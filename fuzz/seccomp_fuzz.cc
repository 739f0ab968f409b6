// seccomp profiles (JSON) of users: what compiles is a program that the kernel takes.
#include <string_view>

#include <linux/filter.h>

#include "frontend/plan/seccomp_profile.h"
#include "fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data),
                              size);  // SAFETY: bytes are chars
  std::vector<std::string> warnings;
  const auto program = postern::plan::compile_seccomp(text, 1, warnings);
  if (!program) {
    return 0;
  }
  const std::size_t steps = program->size() / sizeof(sock_filter);
  if (program->size() % sizeof(sock_filter) != 0 || steps > BPF_MAXINSNS) {
    __builtin_trap();
  }
  return 0;
}

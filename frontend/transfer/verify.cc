#include "frontend/transfer/verify.h"

#include <algorithm>
#include <cerrno>

#include <sys/mman.h>
#include <sys/wait.h>

#include <unistd.h>

#include "frontend/system/libexec.h"
#include "frontend/system/spawn.h"
#include "policy/problem.h"
#include "protocol/base/unique_fd.h"

namespace postern::transfer {
namespace {

// What stands behind "FATAL:" in what a program of ours prints on standard error.
std::string fatal_line(const std::string& text) {
  constexpr std::string_view kLabel = "FATAL:";
  const std::size_t at = text.rfind(kLabel);
  if (at == std::string::npos) {
    return "the signatures could not be checked";
  }
  std::string line = text.substr(at + kLabel.size(), text.find('\n', at) - at - kLabel.size());
  line.erase(0, line.find_first_not_of(' '));
  return line;
}

}  // namespace

std::string why_unverified(const std::string& path) {
  constexpr std::size_t kMostBytes = std::size_t{1} << 20;
  // Its findings go to a file in memory: only whether they are good counts here.
  const UniqueFd findings(::memfd_create("findings", MFD_CLOEXEC));
  const UniqueFd messages(::memfd_create("messages", MFD_CLOEXEC));
  if (!findings.valid() || !messages.valid()) {
    return system_problem("checking the signatures", errno).what;
  }
  const std::string program = system::libexec_program("postern-keys");
  const auto pid =
      system::spawn({.program = program,
                     .words = {"postern", "verify", "--all", path},
                     .passed = {{findings.get(), STDOUT_FILENO}, {messages.get(), STDERR_FILENO}}});
  if (!pid) {
    return system_problem("starting " + program, pid.error().err).what;
  }
  const int status = system::wait_for_end(*pid);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
    return {};
  }
  std::string text(kMostBytes, '\0');
  const ssize_t got = ::pread(messages.get(), text.data(), text.size(), 0);
  text.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
  return fatal_line(text);
}

}  // namespace postern::transfer

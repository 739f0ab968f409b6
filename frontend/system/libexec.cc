#include "frontend/system/libexec.h"

#include <array>
#include <cerrno>
#include <cstdlib>

#include <fcntl.h>
#include <unistd.h>

namespace postern::system {
namespace {

bool is_executable(const std::string& path) {
  return ::access(path.c_str(), X_OK) == 0;
}

std::string own_directory() {
  std::array<char, 4096> path{};
  const ssize_t length = ::readlink("/proc/self/exe", path.data(), path.size());
  if (length <= 0 || static_cast<std::size_t>(length) == path.size()) {
    return {};
  }
  const std::string program(path.data(), static_cast<std::size_t>(length));
  return program.substr(0, program.rfind('/'));
}

}  // namespace

std::optional<std::string> find_libexec_program(std::string_view name) {
  const char* list = ::getenv("POSTERN_LIBEXEC");  // NOLINT(concurrency-mt-unsafe): one thread
  for (std::string_view rest = list != nullptr ? list : ""; !rest.empty();) {
    const auto colon = rest.find(':');
    std::string path = std::string(rest.substr(0, colon)) + '/' + std::string(name);
    if (is_executable(path)) {
      return path;
    }
    rest = colon == rest.npos ? std::string_view{} : rest.substr(colon + 1);
  }
  const std::string directory = own_directory();
  if (const auto parent = directory.rfind('/'); parent != std::string::npos) {
    // bin/postern, or another program of libexec/postern itself.
    for (const std::string& place : {directory.substr(0, parent) + "/libexec/postern", directory}) {
      std::string path = place + '/' + std::string(name);
      if (is_executable(path)) {
        return path;
      }
    }
  }
  std::string installed = std::string(POSTERN_LIBEXECDIR) + '/' + std::string(name);
  return is_executable(installed) ? std::optional(std::move(installed)) : std::nullopt;
}

std::string libexec_program(std::string_view name) {
  return find_libexec_program(name).value_or(std::string(POSTERN_LIBEXECDIR) + '/' +
                                             std::string(name));
}

Outcome<UniqueFd> open_libexec_program(std::string_view name, std::string path) {
  if (path.empty()) {
    path = libexec_program(name);
  }
  UniqueFd program(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!program.valid()) {
    return program_problem("opening", path, errno);
  }
  return program;
}

Problem program_problem(const std::string& doing, const std::string& path, int err) {
  return system_problem(doing + " " + path, err,
                        err == EAGAIN ? "no more processes: raise `ulimit -u`"
                                      : "the installation is incomplete: install postern again");
}

}  // namespace postern::system

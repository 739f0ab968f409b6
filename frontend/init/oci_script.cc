#include "frontend/init/oci_script.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/shell/shell.h"
#include "policy/text/split.h"
#include "protocol/base/unique_fd.h"

namespace postern::init {
namespace {

// The value of `NAME='WORDS'` on a line of its own, quotes removed.
std::optional<std::string> assigned(std::string_view script, std::string_view name) {
  for (std::string_view rest = script; !rest.empty();) {
    const std::string_view line = text::next_line(rest);
    if (line.starts_with(name) && line.substr(name.size()).starts_with('=')) {
      const auto words = shell::plain_words(line.substr(name.size() + 1), {});
      return words && words->size() == 1 ? std::optional(words->front()) : std::nullopt;
    }
  }
  return std::nullopt;
}

std::optional<std::vector<std::string>> assigned_words(std::string_view script,
                                                       std::string_view name,
                                                       const Environment& environment) {
  const std::optional<std::string> text = assigned(script, name);
  return text ? shell::plain_words(*text, environment) : std::nullopt;
}

// ENTRYPOINT alone takes the arguments; CMD alone is replaced by them; both: they replace CMD.
std::vector<std::string> combined(std::vector<std::string> entrypoint,
                                  const std::vector<std::string>& command,
                                  const std::vector<std::string>& arguments) {
  const std::vector<std::string>& rest = arguments.empty() ? command : arguments;
  entrypoint.insert(entrypoint.end(), rest.begin(), rest.end());
  return entrypoint;
}

std::optional<std::vector<std::string>> our_oci_command(std::string_view script,
                                                        const std::vector<std::string>& arguments) {
  constexpr std::string_view kDefault = "[ $# -gt 0 ] || set -- ";
  constexpr std::string_view kExec = "exec ";
  constexpr std::string_view kArguments = " \"$@\"";
  const Environment none;
  std::vector<std::string> command;
  while (!script.empty()) {
    std::string_view line = text::next_line(script);
    if (line.empty() || line.starts_with('#')) {
      continue;
    }
    if (line.starts_with(kDefault) && command.empty()) {
      auto words = shell::plain_words(line.substr(kDefault.size()), none);
      if (!words) {
        return std::nullopt;
      }
      command = *std::move(words);
      continue;
    }
    // `exec "$@"` (no ENTRYPOINT) has the words between its ends missing.
    if (!line.starts_with(kExec) || !line.ends_with(kArguments) || !script.empty()) {
      return std::nullopt;
    }
    line.remove_suffix(kArguments.size());
    auto words = shell::plain_words(line.substr(std::min(kExec.size(), line.size())), none);
    return words ? std::optional(combined(*std::move(words), command, arguments)) : std::nullopt;
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::vector<std::string>> oci_command(std::string_view script,
                                                    const std::vector<std::string>& arguments,
                                                    const Environment& environment,
                                                    bool shell) {
  if (script.find('\0') != std::string_view::npos || !script.starts_with("#!/bin/sh\n")) {
    return std::nullopt;
  }
  if (auto command = our_oci_command(script, arguments)) {
    return command;
  }
  if (shell) {
    return std::nullopt;
  }
  auto entrypoint = assigned_words(script, "OCI_ENTRYPOINT", environment);
  const auto command = assigned_words(script, "OCI_CMD", environment);
  if (!entrypoint || !command) {
    return std::nullopt;
  }
  return combined(*std::move(entrypoint), *command, arguments);
}

std::optional<std::string> read_script(const char* path) {
  const UniqueFd file(::open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  struct stat info = {};
  if (!file.valid() || ::fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode) ||
      static_cast<std::size_t>(info.st_size) > kMaxScriptBytes) {
    return std::nullopt;
  }
  std::string text(static_cast<std::size_t>(info.st_size), '\0');
  std::size_t have = 0;
  while (have < text.size()) {
    const ssize_t got = ::read(file.get(), text.data() + have, text.size() - have);
    if (got <= 0) {
      return std::nullopt;
    }
    have += static_cast<std::size_t>(got);
  }
  return text;
}

}  // namespace postern::init

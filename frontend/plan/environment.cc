#include "frontend/plan/environment.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>
#include <utility>

#include <sys/wait.h>

#include <fcntl.h>
#include <spawn.h>
#include <unistd.h>

#include "protocol/base/unique_fd.h"

namespace postern::plan {
namespace {

constexpr std::array<std::string_view, 3> kForwardPrefixes = {"POSTERNENV_", "APPTAINERENV_",
                                                              "SINGULARITYENV_"};
constexpr std::array<std::string_view, 3> kOwnPrefixes = {"POSTERN_", "APPTAINER_", "SINGULARITY_"};
constexpr std::array<std::string_view, 3> kNeverImported = {"HOME", "PATH", "LD_LIBRARY_PATH"};
// What --cleanenv lets pass.
constexpr std::array<std::string_view, 11> kAlwaysImported = {
    "TERM",     "http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "no_proxy",
    "NO_PROXY", "all_proxy",  "ALL_PROXY",  "ftp_proxy",   "FTP_PROXY"};
// Set by the runtime alone.
constexpr std::array<std::string_view, 7> kNeverForwarded = {"HOME",
                                                             "POSTERN_SHELL",
                                                             "POSTERN_APPNAME",
                                                             "APPTAINER_SHELL",
                                                             "APPTAINER_APPNAME",
                                                             "SINGULARITY_SHELL",
                                                             "SINGULARITY_APPNAME"};

constexpr std::size_t kMaxEnvironmentFileOutput = 4 * 1024 * 1024;

template <std::size_t N>
bool contains(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool is_identifier(std::string_view name) {
  const auto letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  };
  return !name.empty() && letter(name[0]) && std::all_of(name.begin(), name.end(), [&](char c) {
    return letter(c) || (c >= '0' && c <= '9');
  });
}

// The name behind a forwarding prefix and the prefix's rank, strongest 0; rank 3 = no prefix.
std::pair<std::string_view, std::size_t> forwarded_name(std::string_view name) {
  for (std::size_t rank = 0; rank < kForwardPrefixes.size(); ++rank) {
    if (name.starts_with(kForwardPrefixes[rank])) {
      return {name.substr(kForwardPrefixes[rank].size()), rank};
    }
  }
  return {name, kForwardPrefixes.size()};
}

bool is_imported(const EnvironmentWish& wish, std::string_view name) {
  if (!is_identifier(name) || forwarded_name(name).second < kForwardPrefixes.size() ||
      std::any_of(
          kOwnPrefixes.begin(), kOwnPrefixes.end(),
          [name](std::string_view prefix) { return name.starts_with(prefix); })) {
    return false;
  }
  if (contains(kNeverImported, name) ||
      std::find(wish.not_imported.begin(), wish.not_imported.end(), name) !=
          wish.not_imported.end()) {
    return false;
  }
  return !wish.clean || contains(kAlwaysImported, name);
}

struct Forwarded {
  std::string name;
  std::string value;
  std::size_t rank;  // of the prefix; overwritten by anything of a rank not larger
};

void forward(std::vector<Forwarded>& all,
             std::string_view name,
             std::string_view value,
             std::size_t rank) {
  for (Forwarded& one : all) {
    if (one.name == name) {
      if (rank <= one.rank) {
        one.value = value;
        one.rank = rank;
      }
      return;
    }
  }
  all.push_back({std::string(name), std::string(value), rank});
}

std::pair<std::string_view, std::string_view> split(std::string_view assignment) {
  const auto equals = assignment.find('=');
  return {assignment.substr(0, equals),
          equals == assignment.npos ? std::string_view{} : assignment.substr(equals + 1)};
}

Outcome<std::string> read_all(int fd, const std::string& path) {
  std::string output;
  std::array<char, 16384> buffer;
  while (true) {
    const ssize_t got = ::read(fd, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      return system_problem("reading the variables of " + path, errno);
    }
    if (got == 0) {
      return output;
    }
    output.append(buffer.data(), static_cast<std::size_t>(got));
    if (output.size() > kMaxEnvironmentFileOutput) {
      return Problem{.what = path + " sets more than 4 MiB of variables"};
    }
  }
}

// The environment of the evaluating shell, and what a shell adds by itself.
constexpr std::string_view kFilePath =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
constexpr std::array<std::string_view, 4> kOfTheShell = {"PWD", "OLDPWD", "SHLVL", "_"};

Outcome<pid_t> start_shell(const std::string& path, int output) {
  std::string script = "set -a; . \"$1\" </dev/null >/dev/null || exit 1; exec env -0";
  std::string shell = "sh";
  std::string option = "-c";
  std::string file = path;
  std::string search = "PATH=" + std::string(kFilePath);
  std::array<char*, 6> argv = {shell.data(), option.data(), script.data(),
                               shell.data(), file.data(),   nullptr};
  std::array<char*, 2> environment = {search.data(), nullptr};
  posix_spawn_file_actions_t actions;
  if (::posix_spawn_file_actions_init(&actions) != 0) {
    return system_problem("evaluating " + path, ENOMEM);
  }
  ::posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
  pid_t pid = -1;
  const int err =
      ::posix_spawn(&pid, "/bin/sh", &actions, nullptr, argv.data(), environment.data());
  ::posix_spawn_file_actions_destroy(&actions);
  if (err != 0) {
    return system_problem("starting /bin/sh to evaluate " + path, err);
  }
  return pid;
}

}  // namespace

PayloadEnvironment payload_environment(const EnvironmentWish& wish, const char* const* host) {
  PayloadEnvironment result;
  std::vector<Forwarded> forwarded;
  for (; host != nullptr && *host != nullptr; ++host) {
    const auto [name, value] = split(*host);
    if (const auto [inner, rank] = forwarded_name(name); rank < kForwardPrefixes.size()) {
      if (is_identifier(inner)) {
        forward(forwarded, inner, value, rank);
      }
    } else if (is_imported(wish, name)) {
      result.imported.emplace_back(*host);
    }
  }
  for (const auto* list : {&wish.from_files, &wish.set}) {
    for (const std::string& assignment : *list) {
      const auto [name, value] = split(assignment);
      forward(forwarded, name, value, 0);
    }
  }
  if (wish.clean) {
    result.imported.emplace_back("LANG=C");
  }
  for (const Forwarded& one : forwarded) {
    if (contains(kNeverForwarded, one.name)) {
      result.warnings.push_back(
          one.name == "HOME" ? std::string("HOME cannot be set by a variable: use --home")
                             : one.name + " is set by postern alone: the given value is ignored");
    } else if (one.name == "PREPEND_PATH") {
      result.prepend_path = one.value;
    } else if (one.name == "APPEND_PATH") {
      result.append_path = one.value;
    } else {
      result.forwarded.push_back(one.name + '=' + one.value);
    }
  }
  return result;
}

Outcome<std::vector<std::string>> evaluate_environment_file(const std::string& path) {
  if (::access(path.c_str(), R_OK) != 0) {
    return system_problem("--env-file " + path, errno, "name a readable file of NAME=VALUE lines");
  }
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
    return system_problem("evaluating " + path, errno);
  }
  const UniqueFd reading(ends[0]);
  UniqueFd writing(ends[1]);
  POSTERN_TRY_ASSIGN(const pid_t pid, start_shell(path, writing.get()));
  writing.reset();
  auto output = read_all(reading.get(), path);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (!output) {
    return std::move(output).error();
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    return Problem{.what = "--env-file " + path + " could not be evaluated by /bin/sh",
                   .cure = "the file must be shell code, for example NAME=\"a value\""};
  }
  std::vector<std::string> assignments;
  std::string_view rest = *output;
  while (!rest.empty()) {
    const auto end = rest.find('\0');
    const auto [name, value] = split(rest.substr(0, end));
    if (is_identifier(name) && !contains(kOfTheShell, name) &&
        !(name == "PATH" && value == kFilePath)) {
      assignments.emplace_back(rest.substr(0, end));
    }
    rest = end == rest.npos ? std::string_view{} : rest.substr(end + 1);
  }
  return assignments;
}

}  // namespace postern::plan

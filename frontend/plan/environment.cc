#include "frontend/plan/environment.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/shell/shell.h"
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

constexpr std::size_t kMaxEnvironmentFileBytes = 4 * 1024 * 1024;

template <std::size_t N>
bool contains(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
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
  if (name.empty() || forwarded_name(name).second < kForwardPrefixes.size() ||
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

Outcome<std::string> read_whole(const std::string& path) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!file.valid()) {
    return path_problem("--env-file " + path, errno, "name a readable file of NAME=VALUE lines");
  }
  std::string text;
  std::array<char, 16384> buffer;
  for (;;) {
    const ssize_t got = ::read(file.get(), buffer.data(), buffer.size());
    if (got < 0 && errno != EINTR) {
      return system_problem("reading --env-file " + path, errno);
    }
    if (got == 0) {
      return text;
    }
    text.append(buffer.data(), got > 0 ? static_cast<std::size_t>(got) : 0);
    if (text.size() > kMaxEnvironmentFileBytes) {
      return Problem{.what = "--env-file " + path + " has more than 4 MiB"};
    }
  }
}

}  // namespace

PayloadEnvironment payload_environment(const EnvironmentWish& wish, const char* const* host) {
  PayloadEnvironment result;
  std::vector<Forwarded> forwarded;
  for (; host != nullptr && *host != nullptr; ++host) {
    const auto [name, value] = split(*host);
    if (const auto [inner, rank] = forwarded_name(name); rank < kForwardPrefixes.size()) {
      if (shell::is_identifier(inner)) {
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

Outcome<std::vector<std::string>> evaluate_environment_file(const std::string& path,
                                                            const char* const* host) {
  POSTERN_TRY_ASSIGN(const std::string text, read_whole(path));
  shell::Environment environment;
  for (; host != nullptr && *host != nullptr; ++host) {
    const auto [name, value] = split(*host);
    environment.set(name, std::string(value), false);
  }
  shell::Session session(environment, shell::Reach::kVariables);
  session.export_all();  // so that what the file sets is told from what was there
  const shell::Run run = session.run(text, path);
  if (run.ended == shell::Ended::kBeyond || !run.messages.empty()) {
    return Problem{
        .what = "--env-file " + path + ": " +
                (run.messages.empty() ? std::string("it cannot be read") : run.messages.front()),
        .cure =
            "the file is read, not executed: it may hold assignments, quotes and "
            "variables, for example NAME=\"a value\""};
  }
  std::vector<std::string> assignments;
  const shell::Environment set = session.environment();
  for (const shell::Setting& one : set.variables()) {
    if (one.exported) {
      assignments.push_back(one.name + '=' + one.value);
    }
  }
  return assignments;
}

}  // namespace postern::plan

#include "frontend/suid/accounts.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include <linux/openat2.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "frontend/start/failure.h"
#include "frontend/start/image_server.h"
#include "frontend/system/libexec.h"
#include "frontend/system/read_file.h"
#include "frontend/system/spawn.h"
#include "protocol/base/unique_fd.h"
#include "protocol/limits.h"

namespace postern::suid {
namespace {

std::string file_in(int root, const char* path) {
  open_how how{.flags = O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK,
               .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
  const UniqueFd file(static_cast<int>(::syscall(SYS_openat2, root, path, &how, sizeof how)));
  return file.valid() ? system::read_small_file(file.get()).value_or("") : std::string{};
}

Accounts of_directory(const std::string& path) {
  const UniqueFd root(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!root.valid()) {
    return {};  // the start itself will say so
  }
  return {.passwd = file_in(root.get(), "/etc/passwd"), .group = file_in(root.get(), "/etc/group")};
}

// The numbers that postern-squashfs finds its descriptors under.
constexpr int kOutputNumber = 3;
constexpr int kImageNumber = 4;
constexpr int kKeyNumber = 5;

std::vector<std::string> arguments_of(const plan::ImageServer& server) {
  std::vector<std::string> words = {"postern-squashfs",
                                    "--threads",
                                    "1",
                                    "--accounts-fd",
                                    std::to_string(kOutputNumber),
                                    "--image-fd",
                                    std::to_string(kImageNumber)};
  for (std::string& word : start::extent_arguments(server, std::to_string(kKeyNumber))) {
    words.push_back(std::move(word));
  }
  return words;
}

Outcome<pid_t> spawn(const plan::ImageServer& server, int output) {
  system::Command command{.program = start::server_program(server),
                          .words = arguments_of(server),
                          .passed = {{output, kOutputNumber}, {server.image.get(), kImageNumber}},
                          .environment = std::vector<std::string>{}};
  if (server.key.valid()) {
    command.passed.push_back({server.key.get(), kKeyNumber});
  }
  const auto pid = system::spawn(command);
  if (!pid) {
    return system::program_problem("starting", command.program, pid.error().err);
  }
  return *pid;
}

}  // namespace

Outcome<Accounts> parse_accounts(std::string_view text) {
  Accounts accounts;
  for (std::string* file : {&accounts.passwd, &accounts.group}) {
    const auto end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    std::size_t bytes = 0;
    const auto [last, error] = std::from_chars(line.data(), line.data() + line.size(), bytes);
    const bool number = error == std::errc{} && last == line.data() + line.size();
    if (end == text.npos || (!number && line != "-") || bytes > text.size() - end - 1) {
      return Problem{.what = "postern-squashfs answered with something else than account files"};
    }
    file->assign(text.substr(end + 1, bytes));
    text.remove_prefix(end + 1 + bytes);
  }
  return accounts;
}

Outcome<ImageAccounts> ImageAccounts::begin(const plan::ImageServer& image) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
    return system_problem("reading the accounts of " + image.path, errno);
  }
  UniqueFd reading(ends[0]);
  const UniqueFd writing(ends[1]);
  POSTERN_TRY_ASSIGN(const pid_t pid, spawn(image, writing.get()));
  return ImageAccounts(std::move(reading), pid);
}

ImageAccounts::~ImageAccounts() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
}

Outcome<Accounts> ImageAccounts::finish(const std::string& image) {
  std::string text;
  std::array<char, 64 * 1024> part{};
  for (;;) {
    const ssize_t got = ::read(output_.get(), part.data(), part.size());
    if (got > 0) {
      if (text.size() > 2 * kMaxFileBytes) {
        return Problem{.what = image + ": its /etc/passwd and /etc/group are too large"};
      }
      text.append(part.data(), static_cast<std::size_t>(got));
      // Its end takes a while, and nothing of it is needed: whoever has begun it ends it later.
      if (Outcome<Accounts> accounts = parse_accounts(text)) {
        return accounts;
      }
    } else if (got == 0 || errno != EINTR) {
      // It said itself what is wrong with the image.
      const int status = system::wait_for_end(std::exchange(pid_, -1));
      return Problem{.what = image + ": its /etc/passwd and /etc/group cannot be read: " +
                             "postern-squashfs " + system::describe_end(status),
                     .cure = WIFSIGNALED(status) || WEXITSTATUS(status) == start::kExitOfLoader
                                 ? std::string(start::kServerMemoryCure)
                                 : std::string()};
    }
  }
}

Outcome<Accounts> read_accounts(const plan::LaunchPlan& plan, std::optional<ImageAccounts>& begun) {
  const plan::Source& root = plan.sources.front();
  if (root.kind == plan::Source::Kind::kPath) {
    return of_directory(root.path);
  }
  const plan::ImageServer& image = plan.servers[root.server];
  if (begun) {
    return begun->finish(image.path);
  }
  POSTERN_TRY_ASSIGN(begun, ImageAccounts::begin(image));
  return begun->finish(image.path);
}

Outcome<> finish_accounts(plan::LaunchPlan& plan, std::optional<ImageAccounts>& begun) {
  using Merge = plan::Source::Merge;
  const auto is_merged = [](const plan::Source& source) { return source.merge != Merge::kNone; };
  if (std::none_of(plan.sources.begin(), plan.sources.end(), is_merged)) {
    return Ok{};
  }
  POSTERN_TRY_ASSIGN(const Accounts accounts, read_accounts(plan, begun));
  for (plan::Source& source : plan.sources) {
    if (is_merged(source)) {
      source.content = plan::finish_content(
          plan, source, source.merge == Merge::kPasswd ? accounts.passwd : accounts.group);
      source.merge = Merge::kNone;
    }
  }
  return Ok{};
}

}  // namespace postern::suid

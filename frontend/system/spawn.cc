#include "frontend/system/spawn.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include <sys/wait.h>

#include <fcntl.h>
#include <spawn.h>
#include <unistd.h>

#include "protocol/base/unique_fd.h"

extern char** environ;  // NOLINT: POSIX leaves the declaration to the program

namespace postern::system {
namespace {

Error failure(int err) noexcept {
  return Error{.err = err, .op = Op::kSpawn};
}

// Pointers into `words`, which must outlive them, and the null pointer that ends them.
// SAFETY: posix_spawn(3) takes char*, and does not write.
std::vector<char*> pointers(const std::vector<std::string>& words) {
  std::vector<char*> out;
  out.reserve(words.size() + 1);
  for (const std::string& word : words) {
    out.push_back(
        const_cast<char*>(word.c_str()));  // NOLINT(cppcoreguidelines-pro-type-const-cast)
  }
  out.push_back(nullptr);
  return out;
}

class FileActions {
 public:
  FileActions() noexcept : error_(::posix_spawn_file_actions_init(&actions_)) {}

  ~FileActions() {
    if (error_ != ENOMEM) {
      ::posix_spawn_file_actions_destroy(&actions_);
    }
  }

  FileActions(const FileActions&) = delete;
  FileActions& operator=(const FileActions&) = delete;

  // Errors are kept until the end: the first one counts.
  void pass(const Passed& one) noexcept {
    if (error_ == 0) {
      error_ = ::posix_spawn_file_actions_adddup2(&actions_, one.descriptor, one.number);
    }
  }

  [[nodiscard]] int error() const noexcept { return error_; }

  [[nodiscard]] const posix_spawn_file_actions_t* get() const noexcept { return &actions_; }

 private:
  posix_spawn_file_actions_t actions_{};
  int error_;
};

// If each source lies above every number that will be taken, no dup2(2) of the child can
// overwrite a source that a later one needs.
Result<std::vector<UniqueFd>> move_sources(std::vector<Passed>& passed) {
  int highest = STDERR_FILENO;
  for (const Passed& one : passed) {
    highest = std::max(highest, one.number);
  }
  std::vector<UniqueFd> moved;
  for (Passed& one : passed) {
    if (one.descriptor <= highest) {
      moved.emplace_back(::fcntl(one.descriptor, F_DUPFD_CLOEXEC, highest + 1));
      if (!moved.back().valid()) {
        return failure(errno);
      }
      one.descriptor = moved.back().get();
    }
  }
  return moved;
}

}  // namespace

Result<pid_t> spawn(const Command& command) {
  std::vector<Passed> passed = command.passed;
  POSTERN_TRY_ASSIGN(const std::vector<UniqueFd> moved, move_sources(passed));
  FileActions actions;
  for (const Passed& one : passed) {
    actions.pass(one);
  }
  if (actions.error() != 0) {
    return failure(actions.error());
  }
  const std::vector<char*> argv = pointers(command.words);
  const std::vector<char*> environment =
      command.environment ? pointers(*command.environment) : std::vector<char*>{};
  pid_t pid = -1;
  // ORDER: after the actions are made: posix_spawn_file_actions_adddup2(3) refuses numbers above
  // it.
  if (command.limit != nullptr) {
    command.limit->set_callers();
  }
  const int err = ::posix_spawnp(&pid, command.program.c_str(), actions.get(), nullptr, argv.data(),
                                 command.environment ? environment.data() : environ);
  if (command.limit != nullptr) {
    command.limit->set_raised();
  }
  if (err != 0) {
    return failure(err);
  }
  return pid;
}

int wait_for_end(pid_t pid) {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

Result<Finished> run_and_read(Command command, std::size_t limit) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
    return failure(errno);
  }
  UniqueFd reading(ends[0]);
  UniqueFd writing(ends[1]);
  command.passed.push_back({.descriptor = writing.get(), .number = STDOUT_FILENO});
  POSTERN_TRY_ASSIGN(const pid_t pid, spawn(command));
  writing.reset();
  Finished finished;
  std::array<char, 16384> buffer;
  while (finished.output.size() < limit) {
    const std::size_t room = std::min(buffer.size(), limit - finished.output.size());
    const ssize_t got = ::read(reading.get(), buffer.data(), room);
    if (got > 0) {
      finished.output.append(buffer.data(), static_cast<std::size_t>(got));
    } else if (got == 0 || errno != EINTR) {
      break;
    }
  }
  reading.reset();  // ORDER: before the wait, which a program that still writes would never end
  finished.status = wait_for_end(pid);
  return finished;
}

std::string describe_end(int status) {
  return WIFSIGNALED(status) ? std::string("was killed by ") + ::sigdescr_np(WTERMSIG(status))
                             : "ended with status " + std::to_string(WEXITSTATUS(status));
}

}  // namespace postern::system

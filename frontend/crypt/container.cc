#include "frontend/crypt/container.h"

#include <cerrno>

#include <sys/mman.h>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/system/libexec.h"
#include "frontend/system/spawn.h"

namespace postern::crypt {
namespace {

constexpr int kImageNumber = 3;
constexpr int kOutputNumber = 4;
constexpr int kKeyNumber = 5;

// `key` < 0: what needs none.
Outcome<pid_t> start(Container container, const char* option, int output, int key) {
  system::Command command{
      .program = system::libexec_program("postern-squashfs"),
      .words = {"postern-squashfs", "--threads", "1", "--image-fd", std::to_string(kImageNumber),
                option, std::to_string(kOutputNumber)},
      .passed = {{container.image, kImageNumber}, {output, kOutputNumber}},
      .environment = std::vector<std::string>{}};
  for (std::string& word : container.place) {
    command.words.push_back(std::move(word));
  }
  if (key >= 0) {
    command.words.insert(command.words.end(),
                         {"--gocryptfs", "1", "--key-fd", std::to_string(kKeyNumber)});
    command.passed.push_back({key, kKeyNumber});
  }
  const auto pid = system::spawn(command);
  if (!pid) {
    return system::program_problem("starting", command.program, pid.error().err);
  }
  return *pid;
}

}  // namespace

Outcome<UniqueFd> read_configuration(Container container) {
  UniqueFd text(::memfd_create("gocryptfs.conf", MFD_CLOEXEC));
  if (!text.valid()) {
    return system_problem("making room for the configuration of the image", errno);
  }
  POSTERN_TRY_ASSIGN(const pid_t pid,
                     start(std::move(container), "--configuration-fd", text.get(), -1));
  if (system::wait_for_end(pid) != 0) {
    return Problem{.what = {}};
  }
  return text;
}

Outcome<Contents> Contents::begin(Container container, int key) {
  int pipe[2] = {-1, -1};
  if (::pipe2(pipe, O_CLOEXEC) != 0) {
    return system_problem("creating a pipe", errno);
  }
  UniqueFd ours(pipe[0]);
  const UniqueFd theirs(pipe[1]);
  POSTERN_TRY_ASSIGN(const pid_t pid,
                     start(std::move(container), "--contents-fd", theirs.get(), key));
  return Contents(std::move(ours), pid);
}

Outcome<> Contents::end() {
  pipe_.reset();
  return system::wait_for_end(pid_) == 0 ? Outcome<>() : Problem{.what = {}};
}

}  // namespace postern::crypt

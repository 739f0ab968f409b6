#include "frontend/cli/ecl.h"

#include <array>
#include <cerrno>
#include <string_view>
#include <utility>

#include <sys/wait.h>

#include <fcntl.h>
#include <spawn.h>
#include <unistd.h>

#include "frontend/cli/command.h"
#include "frontend/message/message.h"
#include "frontend/system/libexec.h"
#include "frontend/system/read_file.h"
#include "policy/ecl/ecl.h"
#include "protocol/base/unique_fd.h"

namespace postern::cli {
namespace {

constexpr std::string_view kAllow = "allow: ";
constexpr std::string_view kRefuse = "refuse: ";

// Where the image's descriptor is in `postern ecl check`, which opens it again from there: a name
// could be another file's by now.
constexpr int kImageFd = 10;

// What `postern ecl check` prints; nothing where it could not be started or was killed.
std::string ask(std::string path, int image) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
    return {};
  }
  const UniqueFd reading(ends[0]);
  UniqueFd writing(ends[1]);
  posix_spawn_file_actions_t actions;
  if (::posix_spawn_file_actions_init(&actions) != 0) {
    return {};
  }
  ::posix_spawn_file_actions_adddup2(&actions, writing.get(), STDOUT_FILENO);
  if (image >= 0) {
    ::posix_spawn_file_actions_adddup2(&actions, image, kImageFd);
    path = "/proc/self/fd/" + std::to_string(kImageFd);
  }
  std::string name = "postern";
  std::string command = "ecl";
  std::string below = "check";
  std::string end = "--";
  std::array<char*, 6> argv = {name.data(), command.data(), below.data(),
                               end.data(),  path.data(),    nullptr};
  pid_t pid = -1;
  const std::string program = system::libexec_program("postern-keys");
  const int err = ::posix_spawn(&pid, program.c_str(), &actions, nullptr, argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  writing.reset();
  if (err != 0) {
    return {};
  }
  std::string answer = system::read_small_file(reading.get()).value_or("");
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return answer;
}

}  // namespace

Outcome<> check_ecl(const std::string& path, int image) {
  const std::string& configuration = config_path();
  const std::string file = configuration.substr(0, configuration.rfind('/') + 1) + "ecl.toml";
  const auto text = system::read_small_file(file);
  if (!text) {
    return Ok{};
  }
  POSTERN_TRY_ASSIGN(const ecl::EclConfig list, ecl::parse_ecl(*text, file));
  if (!list.activated) {
    return Ok{};
  }
  const std::string answer = ask(path, image);
  if (answer.starts_with(kAllow)) {
    message::verbose(file + " admits " + path +
                     "; in user-namespace mode this is advisory: a user can bring another program");
    return Ok{};
  }
  // Fails closed, like the judge: no answer is no admission.
  const std::string why = answer.starts_with(kRefuse)
                              ? answer.substr(kRefuse.size(), answer.find('\n') - kRefuse.size())
                              : std::string("its signatures could not be checked");
  return Problem{.what = "while checking container image with ECL: " + path + ": " + why,
                 .cure = "`postern ecl check --explain " + path + "` shows the rule"};
}

}  // namespace postern::cli

#include "frontend/plan/fetch.h"

#include <string_view>

#include <sys/wait.h>

#include <unistd.h>

#include "frontend/net/reference.h"
#include "frontend/system/libexec.h"
#include "frontend/system/spawn.h"

namespace postern::plan {
namespace {

// "keep PATH" or "once PATH": what postern-transfer prints.
Outcome<FetchedImage> parse_answer(const std::string& answer) {
  const std::size_t end = answer.find('\n');
  const bool keep = answer.starts_with("keep /");
  if (end == std::string::npos || end + 1 != answer.size() ||
      (!keep && !answer.starts_with("once /"))) {
    return Problem{.what = "postern-transfer did not say where the image is",
                   .cure = "install postern whole: its programs must be of one version"};
  }
  return FetchedImage{.path = answer.substr(5, end - 5), .temporary = !keep};
}

}  // namespace

bool needs_fetching(const std::string& image) {
  const std::string_view transport = net::transport_of(image);
  return !transport.empty() && transport != "instance" && ::access(image.c_str(), F_OK) != 0;
}

Outcome<FetchedImage> fetch_image(const Action& action) {
  constexpr std::size_t kMostBytes = 65536;
  constexpr std::string_view kPassword = "POSTERN_DOCKER_PASSWORD=";
  system::Command command{.program = system::libexec_program("postern-transfer"),
                          .words = {"postern", "fetch"}};
  command.words.insert(command.words.end(), action.fetch_options.begin(),
                       action.fetch_options.end());
  command.words.insert(command.words.end(), {"--", action.image});
  // A password goes where other users cannot read it: not into the arguments.
  if (!action.docker_password.empty()) {
    command.environment.emplace();
    for (char** entry = environ; *entry != nullptr; ++entry) {
      if (!std::string_view(*entry).starts_with(kPassword)) {
        command.environment->emplace_back(*entry);
      }
    }
    command.environment->push_back(std::string(kPassword) + action.docker_password);
  }
  const auto done = system::run_and_read(command, kMostBytes);
  if (!done) {
    return system_problem("starting " + command.program, done.error().err,
                          "images of registries need it: install it beside postern");
  }
  if (WIFSIGNALED(done->status)) {
    return Problem{.what = "fetching the image " + system::describe_end(done->status),
                   .exit_code = 128 + WTERMSIG(done->status)};
  }
  if (WEXITSTATUS(done->status) != 0) {
    return Problem{.exit_code = WEXITSTATUS(done->status)};  // it has said why
  }
  return parse_answer(done->output);
}

}  // namespace postern::plan

#include "frontend/cli/ecl.h"

#include <cerrno>
#include <string_view>
#include <utility>

#include <sys/stat.h>

#include <unistd.h>

#include "frontend/cli/command.h"
#include "frontend/message/message.h"
#include "frontend/system/libexec.h"
#include "frontend/system/read_file.h"
#include "frontend/system/spawn.h"
#include "frontend/system/subids.h"
#include "policy/ecl/ecl.h"
#include "policy/text/hex.h"
#include "protocol/limits.h"

namespace postern::cli {
namespace {

constexpr std::string_view kAllow = "allow: ";
constexpr std::string_view kRefuse = "refuse: ";

// Where the image's descriptor is in `postern ecl check`, which opens it again from there: a name
// could be another file's by now.
constexpr int kImageFd = 10;

// What `postern ecl check` prints; nothing if it could not be started.
std::string ask(std::string path, int image) {
  system::Command command{.program = system::libexec_program("postern-keys")};
  if (image >= 0) {
    command.passed = {{image, kImageFd}};
    path = "/proc/self/fd/" + std::to_string(kImageFd);
  }
  command.words = {"postern", "ecl", "check", "--", std::move(path)};
  const auto finished = system::run_and_read(command, kMaxFileBytes);
  return finished ? finished->output : std::string{};
}

// What follows `begin` on its line; empty where there is no such line.
std::string line_of(const std::string& answer, std::string_view begin) {
  const std::size_t at = answer.find(begin);
  return at == std::string::npos
             ? std::string()
             : answer.substr(at + begin.size(),
                             answer.find('\n', at + begin.size()) - at - begin.size());
}

}  // namespace

Outcome<> check_ecl(const std::string& path, int image, const std::optional<VerityGeometry>& seal) {
  const std::string& configuration = config_path();
  const std::string file = configuration.substr(0, configuration.rfind('/') + 1) + "ecl.toml";
  const auto text = system::read_small_file(file);
  if (!text) {
    return Ok{};
  }
  // As in setuid mode, but that an installation of the user's own may have the user's own list, and
  // that root of the host has no id in a container that this start is nested in.
  struct stat status{};
  if (::stat(file.c_str(), &status) != 0) {
    return system_problem("looking at " + file, errno);
  }
  const bool owned =
      status.st_uid == 0 || status.st_uid == ::geteuid() || system::is_unmapped(status.st_uid);
  if (!owned || (status.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    return Problem{.what = file + " can be written by others than root, so that it is not followed",
                   .cure = "have it owned by root, and not writable by group or others"};
  }
  POSTERN_TRY_ASSIGN(const ecl::EclConfig list, ecl::parse_ecl(*text, file));
  if (!list.activated) {
    return Ok{};
  }
  const std::string answer = ask(path, image);
  if (answer.starts_with(kAllow)) {
    if (const std::string admitted = line_of(answer, "\nseal: ");
        !admitted.empty() && (!seal || text::to_hex(seal->root_hash) != admitted)) {
      return Problem{.what = path + ": the file changed while its signatures were checked",
                     .cure = "try again; if it happens again, ask who writes to the file"};
    }
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

#include "frontend/cli/ecl.h"

#include <string_view>
#include <utility>

#include "frontend/cli/command.h"
#include "frontend/message/message.h"
#include "frontend/system/libexec.h"
#include "frontend/system/read_file.h"
#include "frontend/system/spawn.h"
#include "policy/ecl/ecl.h"
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

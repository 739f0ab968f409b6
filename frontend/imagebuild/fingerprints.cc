#include "frontend/imagebuild/fingerprints.h"

#include <algorithm>
#include <cctype>

#include <sys/wait.h>

#include <nlohmann/json.hpp>

#include "frontend/message/message.h"
#include "frontend/system/libexec.h"
#include "frontend/system/spawn.h"

namespace postern::imagebuild {
namespace {

using nlohmann::json;

// Fingerprints of the signatures that `verify --json` found good.
std::vector<std::string> good_signers(const std::string& text) {
  std::vector<std::string> signers;
  const json report = json::parse(text, nullptr, false);
  const json none = json::array();
  const json& entries =
      report.is_object() && report.contains("SignerKeys") ? report["SignerKeys"] : none;
  for (const json& entry : entries) {
    const json& signer = entry.is_object() && entry.contains("Signer") ? entry["Signer"] : none;
    if (!signer.is_object() || !signer.value("KeyCheck", false) ||
        !signer.value("DataCheck", false)) {
      continue;
    }
    std::string fingerprint = signer.value("Fingerprint", "");
    std::transform(fingerprint.begin(), fingerprint.end(), fingerprint.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    signers.push_back(std::move(fingerprint));
  }
  return signers;
}

}  // namespace

Outcome<> check_fingerprints(int fd, const std::vector<std::string>& fingerprints) {
  constexpr std::size_t kMostBytes = std::size_t{4} << 20;
  constexpr int kImage = 3;
  const std::string program = system::libexec_program("postern-keys");
  const auto done = system::run_and_read(
      {.program = program,
       .words = {"postern", "verify", "--all", "--json", "/proc/self/fd/" + std::to_string(kImage)},
       .passed = {{fd, kImage}}},
      kMostBytes);
  if (!done) {
    return system_problem("starting " + program, done.error().err, "install postern whole");
  }
  const bool verified = WIFEXITED(done->status) && WEXITSTATUS(done->status) == 0;
  const std::vector<std::string> signers =
      verified ? good_signers(done->output) : std::vector<std::string>{};
  for (const std::string& wanted : fingerprints) {
    if (std::find(signers.begin(), signers.end(), wanted) == signers.end()) {
      return Problem{
          .what = "while checking fingerprint: image not signed by required entities: " + wanted,
          .cure = "look at it with 'postern verify', or import the key with 'postern key import'"};
    }
  }
  message::info("The source is signed by the keys of the header Fingerprints");
  return {};
}

}  // namespace postern::imagebuild

#include "frontend/plan/unlock.h"

#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <string_view>
#include <vector>

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/system/libexec.h"
#include "frontend/system/spawn.h"

extern char** environ;  // NOLINT: POSIX leaves the declaration to the program

namespace postern::plan {
namespace {

// "SECTOR-BYTES DATA-OFFSET DATA-BYTES IV-OFFSET\n", as postern-crypt writes it.
bool parse_geometry(std::string_view line, CryptGeometry& geometry) {
  std::array<std::uint64_t, 4> numbers{};
  const char* at = line.data();
  const char* const end = line.data() + line.size();
  for (std::uint64_t& number : numbers) {
    const auto [next, error] = std::from_chars(at, end, number);
    if (error != std::errc{} || next == end) {
      return false;
    }
    at = next + 1;  // over the blank or the line end
  }
  geometry = CryptGeometry{.data_bytes = numbers[2],
                           .data_offset = numbers[1],
                           .iv_offset = numbers[3],
                           .sector_bytes = static_cast<std::uint16_t>(numbers[0]),
                           .key_descriptor = kNoDescriptor};
  return at == end && (numbers[0] == 512 || numbers[0] == 4096);
}

// The numbers that postern-crypt finds its descriptors under.
constexpr int kImageNumber = 3;
constexpr int kKeyNumber = 4;
constexpr int kPassphraseNumber = 5;
constexpr int kConfigurationNumber = 6;

std::vector<std::string> arguments_of(const KeyWish& wish) {
  std::vector<std::string> arguments = {"postern-crypt", "unlock",
                                        "--image-fd",    std::to_string(kImageNumber),
                                        "--key-fd",      std::to_string(kKeyNumber)};
  const auto add = [&](const char* option, const std::string& value) {
    if (!value.empty()) {
      arguments.emplace_back(option);
      arguments.push_back(value);
    }
  };
  add("--pem-path", wish.pem_path);
  add("--passphrase-file", wish.passphrase_file);
  add("--passphrase-fd", wish.passphrase_fd ? std::to_string(kPassphraseNumber) : "");
  add("--key-command", wish.key_command);
  add("--gocryptfs-fd", wish.gocryptfs ? std::to_string(kConfigurationNumber) : "");
  if (wish.ask_passphrase) {
    arguments.emplace_back("--passphrase");
  }
  return arguments;
}

// The line that postern-crypt answers with; an empty problem if it has said itself what was wrong.
Outcome<std::string> run_crypt(const KeyWish& wish, int image, int key) {
  system::Command command{.program = system::libexec_program("postern-crypt"),
                          .words = arguments_of(wish),
                          .passed = {{image, kImageNumber}, {key, kKeyNumber}}};
  if (wish.gocryptfs) {
    command.passed.push_back({wish.gocryptfs->get(), kConfigurationNumber});
  }
  if (wish.passphrase_fd) {
    if (::fcntl(*wish.passphrase_fd, F_GETFD) < 0) {
      return system_problem("--passphrase-fd: descriptor " + std::to_string(*wish.passphrase_fd),
                            errno, "open it for postern, as in `--passphrase-fd 3 3<file`");
    }
    command.passed.push_back({*wish.passphrase_fd, kPassphraseNumber});
  }
  constexpr std::size_t kLongestLine = 256;
  const auto finished = system::run_and_read(command, kLongestLine);
  if (!finished) {
    return system_problem("starting " + command.program, finished.error().err,
                          "encrypted images need it: install it beside postern");
  }
  if (WIFSIGNALED(finished->status)) {
    return Problem{
        .what = "postern-crypt " + system::describe_end(finished->status),
        .cure =
            "the image stays locked; memory may be short: `ulimit -v`, or the limit of the job"};
  }
  if (finished->status != 0) {
    return Problem{.what = {}};
  }
  return finished->output;
}

// postern-crypt has read the secrets of the environment. Ours is wiped in place, where /proc shows
// it for as long as the payload runs.
void wipe_environment() {
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text = *variable;
    for (const std::string_view end : {"_ENCRYPTION_PASSPHRASE", "_ENCRYPTION_PEM_DATA"}) {
      const auto equals = text.find('=');
      if (equals != text.npos && text.substr(0, equals).ends_with(end)) {
        ::explicit_bzero(*variable + equals + 1, text.size() - equals - 1);
      }
    }
  }
}

}  // namespace

Outcome<Ok> unlock(ImageServer& server, const KeyWish& wish) {
  // Descriptors of an undumpable process are out of reach for others of its user (proc(5),
  // /proc/pid/fd; pidfd_getfd(2)).
  if (::prctl(PR_SET_DUMPABLE, 0) != 0) {
    return system_problem("protecting the volume key", errno);
  }
  UniqueFd key(::memfd_create("volume-key", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!key.valid()) {
    return system_problem("making room for the volume key", errno);
  }
  POSTERN_TRY_ASSIGN(const std::string line, run_crypt(wish, server.image.get(), key.get()));
  CryptGeometry geometry{};
  wipe_environment();
  if (server.gocryptfs) {
    server.key = std::move(key);
    return Ok{};
  }
  if (!parse_geometry(line, geometry)) {
    return Problem{.what = "postern-crypt answered nonsense",
                   .cure = "have the installation checked: postern doctor"};
  }
  server.crypt = geometry;
  server.key = std::move(key);
  return Ok{};
}

void drop_keys(LaunchPlan& plan) noexcept {
  bool dropped = false;
  for (ImageServer& server : plan.servers) {
    dropped = dropped || server.key.valid();
    server.key.reset();
  }
  if (dropped) {
    ::prctl(PR_SET_DUMPABLE, 1);
  }
}

}  // namespace postern::plan

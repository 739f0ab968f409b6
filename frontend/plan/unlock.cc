#include "frontend/plan/unlock.h"

#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <string_view>
#include <vector>

#include <sys/mman.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <spawn.h>
#include <unistd.h>

#include "frontend/system/argv.h"
#include "frontend/system/libexec.h"

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

std::vector<std::string> arguments_of(const KeyWish& wish, int image, int key) {
  std::vector<std::string> arguments = {"postern-crypt",       "unlock",   "--image-fd",
                                        std::to_string(image), "--key-fd", std::to_string(key)};
  const auto add = [&](const char* option, const std::string& value) {
    if (!value.empty()) {
      arguments.emplace_back(option);
      arguments.push_back(value);
    }
  };
  add("--pem-path", wish.pem_path);
  add("--passphrase-file", wish.passphrase_file);
  add("--passphrase-fd", wish.passphrase_fd ? std::to_string(*wish.passphrase_fd) : "");
  add("--key-command", wish.key_command);
  if (wish.ask_passphrase) {
    arguments.emplace_back("--passphrase");
  }
  return arguments;
}

Outcome<std::string> run_and_read(const std::string& program,
                                  std::vector<std::string> arguments,
                                  int image,
                                  int key) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
    return system_problem("starting " + program, errno);
  }
  const UniqueFd output(ends[0]);
  UniqueFd input(ends[1]);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, input.get(), STDOUT_FILENO);
  // dup2 onto itself clears close-on-exec (posix_spawn_file_actions_adddup2(3)).
  ::posix_spawn_file_actions_adddup2(&actions, image, image);
  ::posix_spawn_file_actions_adddup2(&actions, key, key);
  std::vector<char*> words = system::argv_of(arguments);
  pid_t pid = -1;
  const int failed = ::posix_spawn(&pid, program.c_str(), &actions, nullptr, words.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) {
    return system_problem("starting " + program, failed,
                          "encrypted images need it: install it beside postern");
  }
  input.reset();
  std::array<char, 256> line{};
  std::size_t size = 0;
  for (ssize_t got = 0; size < line.size(); size += static_cast<std::size_t>(got)) {
    got = ::read(output.get(), line.data() + size, line.size() - size);
    if (got < 0 && errno == EINTR) {
      got = 0;
    } else if (got <= 0) {
      break;
    }
  }
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFSIGNALED(status)) {
    return Problem{
        .what = std::string("postern-crypt was killed by ") + ::sigdescr_np(WTERMSIG(status)),
        .cure =
            "the image stays locked; memory may be short: `ulimit -v`, or the limit of the job"};
  }
  if (status != 0) {
    return Problem{.what = {}};
  }
  return std::string(line.data(), size);
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
  UniqueFd key(::memfd_create("volume-key", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!key.valid()) {
    return system_problem("making room for the volume key", errno);
  }
  POSTERN_TRY_ASSIGN(const std::string line,
                     run_and_read(system::libexec_program("postern-crypt"),
                                  arguments_of(wish, server.image.get(), key.get()),
                                  server.image.get(), key.get()));
  CryptGeometry geometry{};
  wipe_environment();
  if (!parse_geometry(line, geometry)) {
    return Problem{.what = "postern-crypt answered nonsense",
                   .cure = "have the installation checked: postern doctor"};
  }
  server.crypt = geometry;
  server.key = std::move(key);
  return Ok{};
}

}  // namespace postern::plan

// The commands on a hostile image, whole: sif, sign, seal, verify, rekey. The last byte of
// the input says which. A command that ends by an invariant (exit status 254) is a finding, as is
// an image that a command changed into one that it cannot read.
#include <array>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include <sys/mman.h>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/crypt/commands.h"
#include "frontend/keys/command.h"
#include "frontend/message/message.h"
#include "frontend/sif/sif_command.h"
#include "fuzz/target.h"
#include "policy/sif/reader.h"
#include "protocol/base/unique_fd.h"

// ld(1), --wrap: die_of_bug() calls _exit(2), which a fuzzer would not notice.
extern "C" [[noreturn]] void __wrap__exit(int status);

extern "C" [[noreturn]] void __wrap__exit(int /*status*/) {
  std::abort();
}

namespace {

using postern::UniqueFd;
using Words = std::vector<std::string>;

constexpr std::string_view kKey =
    "-----BEGIN PRIVATE KEY-----\n"
    "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n"
    "-----END PRIVATE KEY-----\n";

UniqueFd file_of(std::string_view bytes) {
  UniqueFd file(::memfd_create("file", MFD_CLOEXEC));
  if (::write(file.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) {
    std::abort();
  }
  return file;
}

std::string path_of(const UniqueFd& file) {
  return "/proc/self/fd/" + std::to_string(file.get());
}

// Nothing is asked, printed or looked up.
void set_up() {
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  ::dup2(null, STDIN_FILENO);
  ::dup2(null, STDOUT_FILENO);
  ::setenv("HOME", "/nonexistent", 1);
  // Below every level: fatal messages too.
  postern::message::configure(static_cast<postern::message::Level>(-100), false);
}

void run(std::uint8_t which, const std::string& image, const UniqueFd& key, const UniqueFd& data) {
  namespace keys = postern::keys;
  const auto sif = [](const Words& words) { static_cast<void>(postern::sif::sif_command(words)); };
  const std::string number = std::to_string(which / 16);
  switch (which % 12) {
    case 0:
      sif({"header", image});
      break;
    case 1:
      sif({"list", image});
      break;
    case 2:
      sif({"info", number, image});
      break;
    case 3:
      sif({"dump", number, image});
      break;
    case 4:
      sif({"del", number, image});
      break;
    case 5:
      sif({"setprim", number, image});
      break;
    case 6:
      sif({"add", "--datatype", "7", image, path_of(data)});
      break;
    case 7:
      static_cast<void>(keys::sign_command(Words{"--key", path_of(key), image}));
      break;
    case 8:
      static_cast<void>(
          keys::sign_command(Words{"--no-seal", "--sif-id", number, "--key", path_of(key), image}));
      break;
    case 9:
      static_cast<void>(keys::seal_command(Words{image}));
      break;
    case 10:
      static_cast<void>(keys::verify_command(Words{"--local", "--key", path_of(key), image}));
      break;
    default:
      static_cast<void>(postern::crypt::rekey({.key = {.passphrase_file = path_of(data)},
                                               .new_key = {.passphrase_file = path_of(data)},
                                               .keep = false,
                                               .drop_signatures = true,
                                               .image = image,
                                               .limits = {.max_memory_kib = 64,
                                                          .max_iterations = 1000,
                                                          .max_time_cost = 1,
                                                          .max_threads = 1}})
                            .has_value());
  }
}

}  // namespace

namespace {

bool is_readable(int file) {
  postern::Snapshot bytes(file);
  return postern::sif::read(bytes).has_value();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const UniqueFd key = [] {
    set_up();
    return file_of(kKey);
  }();
  if (size == 0) {
    return 0;
  }
  const UniqueFd image = file_of({reinterpret_cast<const char*>(data), size - 1});
  const UniqueFd words = file_of("some words\n");
  const bool readable = is_readable(image.get());
  run(data[size - 1], path_of(image), key, words);
  if (is_readable(image.get()) != readable) {
    __builtin_trap();
  }
  return 0;
}

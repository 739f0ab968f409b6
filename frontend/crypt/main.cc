// postern-crypt: encrypt, decrypt, rekey, and unlock (for a start).
#include <algorithm>
#include <array>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include <sys/prctl.h>

#include <signal.h>

#include "frontend/crypt/commands.h"
#include "frontend/message/message.h"
#include "frontend/option/usage.h"
#include "policy/config/site.h"
#include "protocol/exit_codes.h"

namespace postern::crypt {
namespace {

using option::Arguments;
using option::Kind;

constexpr option::CommandSet kConvert = 1;
constexpr option::CommandSet kRekey = 2;
constexpr option::CommandSet kUnlock = 4;
constexpr option::CommandSet kAll = kConvert | kRekey | kUnlock;

// The environment's keys are read where keys are (key_source.h).
// clang-format off
constexpr std::array kOptions = std::to_array<option::Option>({
    {"drop-signatures",     0,   "", Kind::kFlag, kRekey,   "",        "remove signatures and seals, which cover the keys"},
    {"force",               'F', "", Kind::kFlag, kConvert, "",        "replace an existing output"},
    {"gocryptfs-fd",        0,   "", Kind::kText, kUnlock,  "N",       ""},
    {"image-fd",            0,   "", Kind::kText, kUnlock,  "N",       ""},
    {"keep",                0,   "", Kind::kFlag, kRekey,   "",        "add the new key and keep the present one"},
    {"key-command",         0,   "", Kind::kText, kAll,     "COMMAND", "run a command that prints the passphrase"},
    {"key-fd",              0,   "", Kind::kText, kUnlock,  "N",       ""},
    {"new-key-command",     0,   "", Kind::kText, kRekey,   "COMMAND", "the new key: run a command that prints the passphrase"},
    {"new-passphrase",      0,   "", Kind::kFlag, kRekey,   "",        "the new key: ask for a passphrase"},
    {"new-passphrase-fd",   0,   "", Kind::kText, kRekey,   "N",       "the new key: read a passphrase from a descriptor"},
    {"new-passphrase-file", 0,   "", Kind::kText, kRekey,   "FILE",    "the new key: read a passphrase from a file of mode 0600"},
    {"new-pem-path",        0,   "", Kind::kText, kRekey,   "FILE",    "the new key: PEM file with an RSA key"},
    {"passphrase",          0,   "", Kind::kFlag, kAll,     "",        "ask for the passphrase on the terminal"},
    {"passphrase-fd",       0,   "", Kind::kText, kAll,     "N",       "read the passphrase from a descriptor"},
    {"passphrase-file",     0,   "", Kind::kText, kAll,     "FILE",    "read the passphrase from a file of mode 0600"},
    {"pem-path",            0,   "", Kind::kText, kAll,     "FILE",    "PEM file with an RSA key"},
});
// clang-format on

constexpr std::array kUsages = std::to_array<option::Usage>({
    {"encrypt", "[options] INPUT OUTPUT", "Write an encrypted copy of an image", kOptions, kConvert,
     2, 2},
    {"decrypt", "[options] INPUT OUTPUT", "Write a copy of an encrypted image in the clear",
     kOptions, kConvert, 2, 2},
    {"rekey", "[options] IMAGE", "Change or add a key of an encrypted image; the data stays",
     kOptions, kRekey, 1, 1},
    {"unlock", "[options]", "Hand the volume key to a start", kOptions, kUnlock, 0, 0},
});

// The number of a descriptor; -1 where none was given.
Outcome<int> descriptor_of(const Arguments& arguments, const std::string& name) {
  const std::string_view text = arguments.text(name);
  int number = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (!text.empty() && (error != std::errc() || end != text.data() + text.size() || number < 0)) {
    return Problem{
        .what = "--" + name + ": '" + std::string(text) + "' is not a descriptor's number",
        .exit_code = kExitUsage};
  }
  return number;
}

// `prefix`: "" or "new-".
Outcome<KeyOptions> key_of(const Arguments& arguments, const std::string& prefix) {
  KeyOptions key;
  key.passphrase = arguments.given(prefix + "passphrase");
  key.passphrase_file = arguments.text(prefix + "passphrase-file");
  POSTERN_TRY_ASSIGN(key.passphrase_fd, descriptor_of(arguments, prefix + "passphrase-fd"));
  key.pem_path = arguments.text(prefix + "pem-path");
  key.key_command = arguments.text(prefix + "key-command");
  return key;
}

// What the site allows a header to cost (postern.toml, [crypt]).
Outcome<KdfLimits> site_limits() {
  POSTERN_TRY_ASSIGN(const auto site, config::load_site_config(POSTERN_CONFDIR "/postern.toml"));
  const auto narrow = [](std::uint64_t value) {
    return static_cast<std::uint32_t>(std::min<std::uint64_t>(value, UINT32_MAX));
  };
  return KdfLimits{.max_memory_kib = site.crypt_max_memory_kib,
                   .max_iterations = narrow(site.crypt_max_iterations),
                   .max_threads = narrow(site.crypt_max_threads)};
}

Outcome<Ok> run(const option::Usage& usage, const Arguments& arguments) {
  const std::vector<std::string>& operands = arguments.positional();
  POSTERN_TRY_ASSIGN(const KdfLimits limits, site_limits());
  POSTERN_TRY_ASSIGN(const KeyOptions key, key_of(arguments, ""));
  if (usage.commands == kUnlock) {
    // The start that waits for the key may be killed: no question and no key derivation outlives
    // it.
    (void)::prctl(PR_SET_PDEATHSIG, SIGTERM);
    POSTERN_TRY_ASSIGN(const int image, descriptor_of(arguments, "image-fd"));
    POSTERN_TRY_ASSIGN(const int out, descriptor_of(arguments, "key-fd"));
    POSTERN_TRY_ASSIGN(const int gocryptfs, descriptor_of(arguments, "gocryptfs-fd"));
    return unlock({.key = key,
                   .image_fd = image,
                   .key_fd = out,
                   .gocryptfs_fd = gocryptfs,
                   .limits = limits});
  }
  if (usage.commands == kRekey) {
    POSTERN_TRY_ASSIGN(const KeyOptions new_key, key_of(arguments, "new-"));
    return rekey({.key = key,
                  .new_key = new_key,
                  .keep = arguments.given("keep"),
                  .drop_signatures = arguments.given("drop-signatures"),
                  .image = operands.front(),
                  .limits = limits});
  }
  const ConvertOptions options{.key = key,
                               .input = operands.front(),
                               .output = operands.back(),
                               .force = arguments.given("force"),
                               .limits = limits};
  return usage.name == "encrypt" ? encrypt(options) : decrypt(options);
}

}  // namespace
}  // namespace postern::crypt

// argv[1] is the command's name, as bin/postern passes it on.
int main(int argc, char** argv) {
  // Keys pass through this process: nobody attaches to it, and it leaves no core.
  (void)::prctl(PR_SET_DUMPABLE, 0);
  postern::message::configure_from_environment();
  const std::vector<std::string> words(argv + std::min(argc, 2), argv + argc);
  const std::string_view name = argc > 1 ? argv[1] : "";
  const auto* const usage =
      std::find_if(postern::crypt::kUsages.begin(), postern::crypt::kUsages.end(),
                   [&](const auto& one) { return one.name == name; });
  if (usage == postern::crypt::kUsages.end()) {
    postern::message::fatal(
        {.what = "postern-crypt is started by postern: encrypt, decrypt, rekey"});
    return postern::kExitUsage;
  }
  const auto arguments = postern::option::parse_command(*usage, words);
  if (!arguments) {
    return arguments.error();
  }
  const postern::Outcome<postern::Ok> done = postern::crypt::run(*usage, *arguments);
  if (!done) {
    postern::message::fatal(done.error());
    return done.error().exit_code;
  }
  return 0;
}

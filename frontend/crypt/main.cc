// postern-crypt: encrypt, decrypt, rekey, and unlock (for a start).
#include <cstdlib>
#include <string>

#include <sys/prctl.h>

#include <CLI/CLI.hpp>

#include "frontend/crypt/commands.h"
#include "frontend/message/message.h"
#include "policy/config/site.h"
#include "protocol/exit_codes.h"

namespace {

using postern::Ok;
using postern::Outcome;
using postern::crypt::ConvertOptions;
using postern::crypt::KeyOptions;
using postern::crypt::RekeyOptions;
using postern::crypt::UnlockOptions;

void add_key_options(CLI::App& command,
                     KeyOptions& key,
                     const std::string& prefix,
                     const std::string& role) {
  command.add_flag("--" + prefix + "passphrase", key.passphrase, "Ask for the passphrase " + role);
  command.add_option("--" + prefix + "passphrase-file", key.passphrase_file,
                     "Read the passphrase from a file of mode 0600");
  command.add_option("--" + prefix + "passphrase-fd", key.passphrase_fd,
                     "Read the passphrase from a descriptor");
  command.add_option("--" + prefix + "pem-path", key.pem_path, "PEM file with an RSA key");
  command.add_option("--" + prefix + "key-command", key.key_command,
                     "Run a command that prints the passphrase");
}

void add_convert(CLI::App& command, ConvertOptions& options) {
  add_key_options(command, options.key, "", "on the terminal");
  command.add_flag("-F,--force", options.force, "Replace an existing output");
  command.add_option("--input-fd", options.input_fd, "")->group("");
  command.add_option("output", options.output, "Image to write")->required();
}

int finish(const Outcome<Ok>& outcome) {
  if (outcome) {
    return 0;
  }
  postern::message::fatal(outcome.error());
  return outcome.error().exit_code;
}

// What the site allows a header to cost (postern.toml, [crypt]).
Outcome<postern::crypt::KdfLimits> site_limits() {
  POSTERN_TRY_ASSIGN(const auto site,
                     postern::config::load_site_config(POSTERN_CONFDIR "/postern.toml"));
  const auto narrow = [](std::uint64_t value) {
    return static_cast<std::uint32_t>(std::min<std::uint64_t>(value, UINT32_MAX));
  };
  return postern::crypt::KdfLimits{.max_memory_kib = site.crypt_max_memory_kib,
                                   .max_iterations = narrow(site.crypt_max_iterations),
                                   .max_threads = narrow(site.crypt_max_threads)};
}

int run(int argc, char** argv) {
  CLI::App app("Encrypted images", "postern");
  app.require_subcommand(1);
  ConvertOptions convert;
  RekeyOptions rekey;
  UnlockOptions unlock;

  CLI::App* encrypt_command = app.add_subcommand("encrypt", "Write an encrypted copy of an image");
  encrypt_command->add_option("input", convert.input, "SIF image");
  add_convert(*encrypt_command, convert);

  CLI::App* decrypt_command =
      app.add_subcommand("decrypt", "Write a copy of an encrypted image in the clear");
  decrypt_command->add_option("input", convert.input, "SIF image");
  add_convert(*decrypt_command, convert);

  CLI::App* rekey_command =
      app.add_subcommand("rekey", "Change or add a key of an encrypted image; the data stays");
  add_key_options(*rekey_command, rekey.key, "", "that opens the image now");
  add_key_options(*rekey_command, rekey.new_key, "new-", "that shall open it");
  rekey_command->add_flag("--keep", rekey.keep, "Add the new key and keep the present one");
  rekey_command->add_flag("--drop-signatures", rekey.drop_signatures,
                          "Remove signatures and seals, which cover the keys");
  rekey_command->add_option("image", rekey.image, "Encrypted SIF image")->required();

  CLI::App* unlock_command = app.add_subcommand("unlock", "")->group("");
  add_key_options(*unlock_command, unlock.key, "", "on the terminal");
  unlock_command->add_option("--image-fd", unlock.image_fd)->required();
  unlock_command->add_option("--key-fd", unlock.key_fd)->required();

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int status = app.exit(error);
    return status == 0 ? 0 : postern::kExitUsage;
  }
  auto limits = site_limits();
  if (!limits) {
    postern::message::fatal(limits.error());
    return limits.error().exit_code;
  }
  convert.limits = rekey.limits = unlock.limits = *limits;
  if (encrypt_command->parsed()) {
    return finish(postern::crypt::encrypt(convert));
  }
  if (decrypt_command->parsed()) {
    return finish(postern::crypt::decrypt(convert));
  }
  return finish(rekey_command->parsed() ? postern::crypt::rekey(rekey)
                                        : postern::crypt::unlock(unlock));
}

}  // namespace

// CLI11 throws where its options contradict each other: a mistake of ours, and the end.
// NOLINTNEXTLINE(bugprone-exception-escape)
int main(int argc, char** argv) {
  // Keys pass through this process: nobody attaches to it, and it leaves no core.
  (void)::prctl(PR_SET_DUMPABLE, 0);
  postern::message::configure_from_environment();
  return run(argc, argv);
}

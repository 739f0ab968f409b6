// postern key: newpair, list, import, export, remove, search, pull, push.
#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <optional>

#include <unistd.h>

#include "frontend/keys/command.h"
#include "frontend/keys/global_keyring.h"
#include "frontend/keys/gnupg.h"
#include "frontend/keys/hkp.h"
#include "frontend/keys/paths.h"
#include "frontend/keys/prompt.h"
#include "frontend/message/message.h"
#include "frontend/system/replace_file.h"
#include "protocol/exit_codes.h"

namespace postern::keys {
namespace {

using option::Arguments;
using option::Kind;

enum : option::CommandSet {
  kNewpair = 1 << 0,
  kList = 1 << 1,
  kImport = 1 << 2,
  kExport = 1 << 3,
  kRemove = 1 << 4,
  kSearch = 1 << 5,
  kPull = 1 << 6,
  kPush = 1 << 7,
};

constexpr option::CommandSet kRing = kList | kImport | kExport | kRemove | kPull | kPush;

// clang-format off
constexpr std::array kOptions = std::to_array<option::Option>({
    {"armor",        'a', "",       Kind::kFlag, kExport,                    "",     "write text instead of binary"},
    {"bit-length",   'b', "",       Kind::kText, kNewpair,                   "BITS", "length of the RSA keys (default 4096; 0 means 2048)"},
    {"both",         'b', "",       Kind::kFlag, kRemove,                    "",     "remove the public and the secret key"},
    {"comment",      'C', "",       Kind::kText, kNewpair,                   "TEXT", "comment in the user id"},
    {"email",        'E', "",       Kind::kText, kNewpair,                   "MAIL", "address in the user id"},
    {"global",       'g', "",       Kind::kFlag, kRing,                      "",     "the site's keyring instead of the user's"},
    {"keysdir",      'd', "",       Kind::kText, kRing | kNewpair,           "DIR",  "directory of the user's keyring"},
    {"long-list",    'l', "",       Kind::kFlag, kSearch,                    "",     "all that the server says about each key"},
    {"name",         'N', "",       Kind::kText, kNewpair,                   "NAME", "name in the user id"},
    {"new-password", 0,   "",       Kind::kText, kImport,                    "TEXT", "new passphrase for imported secret keys (visible to other users of this machine: prefer the prompt)"},
    {"password",     'P', "",       Kind::kText, kNewpair,                   "TEXT", "passphrase of the secret key (visible to other users of this machine: prefer the prompt)"},
    {"public",       'p', "",       Kind::kFlag, kRemove,                    "",     "remove the public key (default)"},
    {"push",         'U', "",       Kind::kFlag, kNewpair,                   "",     "push the public key to a key server"},
    {"secret",       's', "SECRET", Kind::kFlag, kList | kExport | kRemove,  "",     "secret keys"},
    {"url",          'u', "URL",    Kind::kText, kSearch | kPull | kPush | kNewpair, "URL", "key server (default: those of the remote, else https://keys.openpgp.org)"},
});
// clang-format on

Outcome<KeyDirectory> local(const Arguments& arguments) {
  POSTERN_TRY_ASSIGN(const std::string path, local_keyring(std::string(arguments.text("keysdir"))));
  return KeyDirectory::open_local(path);
}

Outcome<ServerOptions> server(const Arguments& arguments) {
  if (arguments.given("url")) {
    return ServerOptions{.url = std::string(arguments.text("url"))};
  }
  POSTERN_TRY_ASSIGN(std::vector<ServerOptions> servers, configured_servers());
  return std::move(servers.front());
}

PassphraseSource from_user() {
  return [](const std::string& hint, bool again) -> std::optional<std::string> {
    const std::string whose =
        hint.size() > 17 ? hint.substr(17) : "the secret key";  // after the key id
    auto answer = ask_secret((again ? "Wrong passphrase. " : "") +
                             ("Enter the passphrase of " + printable(whose)) + ": ");
    return answer ? std::optional(*std::move(answer)) : std::nullopt;
  };
}

std::string text_of(const KeyInfo& key, std::size_t index) {
  const std::string number = std::to_string(index) + ")";
  std::string out = number + std::string(number.size() < 4 ? 4 - number.size() : 1, ' ');
  out += "User:              " + printable(key.user) + "\n";
  out += "    Creation time:     " + time_text(key.created) + "\n";
  if (key.expires != 0) {
    out += "    Expiration time:   " + time_text(key.expires) + "\n";
  }
  out += "    Fingerprint:       " + key.fingerprint + "\n";
  out += "    Length (in bits):  " + std::to_string(key.bits) + "\n";
  if (!key.usable) {
    out += "    Status:            expired or revoked\n";
  }
  return out + "\n";
}

// ---- the sub-commands

int list(const Arguments& arguments) {
  const bool secret = arguments.given("secret");
  const bool global = arguments.given("global");
  if (secret && global) {
    return fail({"the site's keyring has no secret keys", "leave out --secret or --global"});
  }
  auto directory = global ? KeyDirectory::open_for_reading(global_keyring()) : local(arguments);
  if (!directory) {
    return fail(std::move(directory).error());
  }
  auto keys = directory->list(secret);
  if (!keys) {
    return fail(std::move(keys).error());
  }
  std::string out =
      std::string(secret ? "Private" : "Public") + " key listing (" + directory->path() + "):\n\n";
  for (std::size_t i = 0; i < keys->size(); ++i) {
    out += text_of((*keys)[i], i);
  }
  std::fputs(out.c_str(), stdout);
  return 0;
}

Outcome<NewKey> describe_new_key(const Arguments& arguments) {
  NewKey key;
  const auto field = [&](const char* option, const char* prompt) -> Outcome<std::string> {
    return arguments.given(option) ? Outcome<std::string>(std::string(arguments.text(option)))
                                   : ask(prompt);
  };
  if (arguments.given("bit-length")) {
    const std::string_view text = arguments.text("bit-length");
    if (std::from_chars(text.data(), text.data() + text.size(), key.bits).ptr !=
        text.data() + text.size()) {
      return Problem{"'" + std::string(text) + "' is not a number of bits", "", kExitUsage};
    }
    key.bits = key.bits == 0 ? 2048 : key.bits;
  }
  POSTERN_TRY_ASSIGN(key.name, field("name", "Enter your name (e.g., John Doe) : "));
  POSTERN_TRY_ASSIGN(key.email,
                     field("email", "Enter your email address (e.g., john.doe@example.com) : "));
  POSTERN_TRY_ASSIGN(key.comment,
                     field("comment", "Enter optional comment (e.g., development keys) : "));
  if (arguments.given("password")) {
    key.passphrase = arguments.text("password");
  } else {
    POSTERN_TRY_ASSIGN(key.passphrase, ask_new_passphrase());
  }
  return key;
}

Outcome<> newpair(const Arguments& arguments) {
  POSTERN_TRY_ASSIGN(KeyDirectory directory, local(arguments));
  POSTERN_TRY_ASSIGN(const NewKey key, describe_new_key(arguments));
  std::fputs("Generating Entity and OpenPGP Key Pair... ", stdout);
  std::fflush(stdout);
  POSTERN_TRY_ASSIGN(const std::string fingerprint, directory.generate(key));
  std::fputs("done\n", stdout);
  message::info("The fingerprint is " + fingerprint);
  if (arguments.given("push")) {
    POSTERN_TRY_ASSIGN(const std::string armored, directory.export_public(fingerprint, true));
    POSTERN_TRY_ASSIGN(const ServerOptions where, server(arguments));
    POSTERN_TRY(push_key(where, armored));
    std::fputs("Key successfully pushed to keystore\n", stdout);
  }
  return Ok{};
}

Outcome<> import(const Arguments& arguments) {
  POSTERN_TRY_ASSIGN(const std::string bytes, read_file(arguments.positional()[0]));
  if (arguments.given("global")) {
    POSTERN_TRY_ASSIGN(const std::vector<std::string> added,
                       import_global(global_keyring(), bytes));
    if (added.empty()) {
      std::fputs(("The keyring " + global_keyring() +
                  " has all of these keys already; it was compiled again\n")
                     .c_str(),
                 stdout);
    }
    for (const std::string& what : added) {
      std::fputs(("Imported " + what + " into " + global_keyring() + "\n").c_str(), stdout);
    }
    return Ok{};
  }
  POSTERN_TRY_ASSIGN(KeyDirectory directory, local(arguments));
  POSTERN_TRY_ASSIGN(const Imported imported, directory.import(bytes));
  if (imported.fingerprints.empty()) {
    return Problem{"the keyring has all of these keys already", "remove a key first to replace it"};
  }
  for (const std::string& fingerprint : imported.fingerprints) {
    std::fputs(
        ("Key with fingerprint " + fingerprint + " successfully added to the keyring\n").c_str(),
        stdout);
  }
  if (arguments.given("new-password") && imported.secret > 0) {
    for (const std::string& fingerprint : imported.fingerprints) {
      POSTERN_TRY_ASSIGN(const std::string old, ask_secret("Enter the present passphrase of " +
                                                           fingerprint + " (empty: none): "));
      POSTERN_TRY(directory.change_passphrase(fingerprint, old,
                                              std::string(arguments.text("new-password"))));
    }
  }
  return Ok{};
}

Outcome<std::string> choose_key(const KeyDirectory& directory, bool secret) {
  POSTERN_TRY_ASSIGN(const std::vector<KeyInfo> keys, directory.list(secret));
  if (keys.empty()) {
    return Problem{"there are no keys in " + directory.path()};
  }
  if (keys.size() == 1) {
    return keys[0].fingerprint;
  }
  std::string shown;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    shown += text_of(keys[i], i);
  }
  std::fputs(shown.c_str(), stderr);
  POSTERN_TRY_ASSIGN(const std::string answer, ask("Enter # of key to export : "));
  std::size_t index = 0;
  const auto [stop, error] = std::from_chars(answer.data(), answer.data() + answer.size(), index);
  if (error != std::errc() || stop != answer.data() + answer.size() || index >= keys.size()) {
    return Problem{"'" + answer + "' is not the number of a key"};
  }
  return keys[index].fingerprint;
}

Outcome<> export_key(const Arguments& arguments) {
  const bool secret = arguments.given("secret");
  const bool global = arguments.given("global");
  if (secret && global) {
    return Problem{"the site's keyring has no secret keys"};
  }
  POSTERN_TRY_ASSIGN(KeyDirectory directory,
                     global ? KeyDirectory::open_for_reading(global_keyring()) : local(arguments));
  POSTERN_TRY_ASSIGN(const std::string fingerprint, choose_key(directory, secret));
  const bool armor = arguments.given("armor");
  POSTERN_TRY_ASSIGN(const std::string bytes,
                     secret ? directory.export_secret(fingerprint, armor, from_user())
                            : directory.export_public(fingerprint, armor));
  const std::string& path = arguments.positional()[0];
  POSTERN_TRY(system::replace_file(path, bytes, secret ? 0600 : 0644));
  std::fputs((std::string(secret ? "Private" : "Public") + " key with fingerprint " + fingerprint +
              " correctly exported to file: " + path + "\n")
                 .c_str(),
             stdout);
  return Ok{};
}

Outcome<> remove(const Arguments& arguments) {
  std::string fingerprint = arguments.positional()[0];
  if (arguments.given("global")) {
    if (arguments.given("secret") || arguments.given("both")) {
      return Problem{"the site's keyring has no secret keys"};
    }
    return remove_global(global_keyring(), fingerprint);
  }
  std::transform(fingerprint.begin(), fingerprint.end(), fingerprint.begin(), [](char c) {
    return c >= 'a' && c <= 'f' ? static_cast<char>(c - 'a' + 'A') : c;
  });
  const bool both = arguments.given("both");
  const bool secret = both || arguments.given("secret");
  const bool open = both || arguments.given("public") || !secret;
  POSTERN_TRY_ASSIGN(KeyDirectory directory, local(arguments));
  return directory.remove(fingerprint, open, secret);
}

std::string_view algorithm_name(int number) {
  switch (number) {  // RFC 4880 §9.1, RFC 6637, RFC 9580
    case 1:
    case 2:
    case 3:
      return "RSA";
    case 16:
      return "ElGamal";
    case 17:
      return "DSA";
    case 18:
      return "ECDH";
    case 19:
      return "ECDSA";
    case 22:
      return "EdDSA";
    case 25:
      return "X25519";
    case 27:
      return "Ed25519";
    default:
      return "unknown";
  }
}

std::string padded(std::string text, std::size_t width) {
  text.resize(std::max(width, text.size() + 1), ' ');
  return text;
}

Outcome<> search(const Arguments& arguments) {
  POSTERN_TRY_ASSIGN(const ServerOptions where, server(arguments));
  POSTERN_TRY_ASSIGN(const std::vector<FoundKey> keys,
                     search_keys(where, arguments.positional()[0]));
  const bool all = arguments.given("long-list");
  std::string out = "Showing " + std::to_string(keys.size()) + " results\n\n";
  out += all ? padded("FINGERPRINT", 42) + padded("ALGORITHM", 11) + padded("BITS", 6) +
                   padded("CREATION DATE", 31) + padded("EXPIRATION DATE", 31) +
                   padded("STATUS", 10) + "NAME/EMAIL\n"
             : padded("KEY ID", 10) + padded("BITS", 6) + "NAME/EMAIL\n";
  for (const FoundKey& key : keys) {
    const std::string fingerprint = printable(key.fingerprint);
    const std::string id =
        fingerprint.size() > 8 ? fingerprint.substr(fingerprint.size() - 8) : fingerprint;
    const std::string user = key.users.empty() ? "[unknown]" : printable(key.users[0]);
    const std::string bits = std::to_string(key.bits);
    if (all) {
      const std::string status = key.flags.find('r') != std::string::npos   ? "[revoked]"
                                 : key.flags.find('d') != std::string::npos ? "[disabled]"
                                 : key.flags.find('e') != std::string::npos ? "[expired]"
                                                                            : "[enabled]";
      out += padded(fingerprint, 42) + padded(std::string(algorithm_name(key.algorithm)), 11) +
             padded(bits, 6) + padded(time_text(key.created), 31) +
             padded(key.expires != 0 ? time_text(key.expires) : "[ultimate]", 31) +
             padded(status, 10) + user + "\n";
    } else {
      out += padded(id, 10) + padded(bits, 6) + user + "\n";
    }
    for (std::size_t i = 1; i < key.users.size(); ++i) {
      out += std::string(all ? 131 : 16, ' ') + printable(key.users[i]) + "\n";
    }
  }
  std::fputs(out.c_str(), stdout);
  return Ok{};
}

Outcome<> pull(const Arguments& arguments) {
  std::string id = arguments.positional()[0];
  if (id.starts_with("0x") || id.starts_with("0X")) {
    id.erase(0, 2);
  }
  const bool hex =
      std::all_of(id.begin(), id.end(), [](unsigned char c) { return std::isxdigit(c) != 0; });
  if (!hex || (id.size() != 8 && id.size() != 40)) {
    return Problem{"'" + printable(id) +
                   "' is neither a key id of 8 nor a fingerprint of 40 hexadecimal digits"};
  }
  POSTERN_TRY_ASSIGN(const ServerOptions where, server(arguments));
  POSTERN_TRY_ASSIGN(const std::string bytes, fetch_key(where, "0x" + id));
  // Looked at apart first: an answer with other keys must not get into the ring.
  POSTERN_TRY_ASSIGN(KeyDirectory scratch, KeyDirectory::open_temporary());
  POSTERN_TRY(scratch.import(bytes));
  POSTERN_TRY_ASSIGN(const std::vector<KeyInfo> keys, scratch.list(false));
  if (keys.size() != 1) {
    return Problem{"the key server sent " + std::to_string(keys.size()) + " keys for one id",
                   "ask for the full fingerprint"};
  }
  std::string wanted = id;
  std::transform(wanted.begin(), wanted.end(), wanted.begin(), [](char c) {
    return c >= 'a' && c <= 'f' ? static_cast<char>(c - 'a' + 'A') : c;
  });
  if (!keys[0].fingerprint.ends_with(wanted)) {
    return Problem{"the key server sent another key than was asked for: " + keys[0].fingerprint};
  }
  POSTERN_TRY_ASSIGN(const std::string binary, scratch.export_public(keys[0].fingerprint, false));
  if (arguments.given("global")) {
    POSTERN_TRY(import_global(global_keyring(), binary));
  } else {
    POSTERN_TRY_ASSIGN(KeyDirectory directory, local(arguments));
    POSTERN_TRY(directory.import(binary));
  }
  std::fputs(("1 key(s) added to keyring of trust: " + keys[0].fingerprint + " " +
              printable(keys[0].user) + "\n")
                 .c_str(),
             stdout);
  return Ok{};
}

Outcome<> push(const Arguments& arguments) {
  const std::string& fingerprint = arguments.positional()[0];
  POSTERN_TRY_ASSIGN(const KeyDirectory directory,
                     arguments.given("global") ? KeyDirectory::open_for_reading(global_keyring())
                                               : local(arguments));
  POSTERN_TRY_ASSIGN(const std::string armored, directory.export_public(fingerprint, true));
  POSTERN_TRY_ASSIGN(const ServerOptions where, server(arguments));
  POSTERN_TRY(push_key(where, armored));
  std::fputs(
      ("public key `" + printable(fingerprint) + "' pushed to server successfully\n").c_str(),
      stdout);
  return Ok{};
}

struct SubCommand {
  std::string_view name;
  std::string_view operands;
  std::string_view summary;
  option::CommandSet set;
  std::size_t operand_count;
  Outcome<> (*run)(const Arguments&);
  int failure;  // exit status
};

// clang-format off
constexpr std::array kSubCommands = std::to_array<SubCommand>({
    {"export",  "[options] FILE",        "Export a key into a file",                    kExport,  1, export_key, kExitKeyExport},
    {"import",  "[options] FILE",        "Import a key into the keyring",               kImport,  1, import,     kExitKeyOrTransfer},
    {"list",    "[options]",             "List the keys of the keyring",                kList,    0, nullptr,    kExitFatal},
    {"newpair", "[options]",             "Create a new key pair",                       kNewpair, 0, newpair,    kExitKeyOrTransfer},
    {"pull",    "[options] FINGERPRINT", "Get a public key from a key server",          kPull,    1, pull,       kExitKeyOrTransfer},
    {"push",    "[options] FINGERPRINT", "Send a public key to a key server",           kPush,    1, push,       kExitKeyOrTransfer},
    {"remove",  "[options] FINGERPRINT", "Remove a key from the keyring",               kRemove,  1, remove,     kExitFatal},
    {"search",  "[options] TEXT",        "Search a key server by name, address or id",  kSearch,  1, search,     kExitKeyOrTransfer},
});
// clang-format on

int show_sub_commands(std::FILE* to) {
  std::string out = "Manage OpenPGP keys\n\nUsage:\n  postern key COMMAND [options]\n\nCommands:\n";
  for (const SubCommand& command : kSubCommands) {
    out += "  " + padded(std::string(command.name), 10) + std::string(command.summary) + "\n";
  }
  std::fputs(out.c_str(), to);
  return to == stdout ? 0 : kExitUsage;
}

}  // namespace

int key_command(std::span<const std::string> words) {
  if (words.empty() || words[0] == "--help" || words[0] == "-h") {
    return show_sub_commands(words.empty() ? stderr : stdout);
  }
  const auto command =
      std::find_if(kSubCommands.begin(), kSubCommands.end(),
                   [&](const SubCommand& candidate) { return candidate.name == words[0]; });
  if (command == kSubCommands.end()) {
    (void)message::unknown_command(words[0], "key", "");
    return show_sub_commands(stderr);
  }
  const std::string name = "key " + std::string(command->name);
  const Usage usage{name,         command->operands,      command->summary,      kOptions,
                    command->set, command->operand_count, command->operand_count};
  const auto arguments = parse_command(usage, words.subspan(1));
  if (!arguments) {
    return arguments.error();
  }
  if (command->run == nullptr) {
    return list(*arguments);
  }
  auto done = command->run(*arguments);
  if (done) {
    return 0;
  }
  const int status = done.error().exit_code == kExitUsage ? kExitUsage : command->failure;
  return fail(std::move(done).error(), status);
}

}  // namespace postern::keys

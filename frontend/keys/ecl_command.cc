// postern ecl: what the execution control list says, and what it would say about an image.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <optional>

#include <sys/stat.h>

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <unistd.h>

#include "frontend/keys/command.h"
#include "frontend/keys/paths.h"
#include "frontend/message/message.h"
#include "policy/admit/admit.h"
#include "policy/config/read_file.h"
#include "policy/config/site.h"
#include "policy/config/trusted_file.h"
#include "policy/ecl/facts.h"
#include "policy/judge/decide.h"
#include "policy/judge/gather.h"
#include "policy/text/hex.h"
#include "protocol/exit_codes.h"

namespace postern::keys {
namespace {

using option::Kind;

enum : option::CommandSet { kCheck = 1, kList = 2 };

// clang-format off
constexpr std::array kOptions = std::to_array<option::Option>({
    {"as-user", 0, "", Kind::kText, kCheck, "USER", "whether this user could read the image is checked too (root only)"},
    {"explain", 0, "", Kind::kFlag, kCheck, "",     "the rule, its place in the file, the signers and what is bound how"},
});
// clang-format on

constexpr Usage kCheckUsage{"ecl check",
                            "[options] IMAGE",
                            "Would the execution control list admit this image?",
                            kOptions,
                            kCheck,
                            1,
                            1};
constexpr Usage kListUsage{"ecl list", "", "Show the execution control list", kOptions, kList,
                           0,          0};

std::string site_file() {
  return configuration_directory() + "/postern.toml";
}

std::string ecl_file() {
  return configuration_directory() + "/ecl.toml";
}

struct Loaded {
  ecl::EclConfig config;
  bool present = false;
  bool trusted = false;  // root's alone: what suid mode asks for
  std::string distrust;  // why not
};

Outcome<Loaded> load() {
  Loaded out;
  const std::string path = ecl_file();
  POSTERN_TRY_ASSIGN(const std::optional<std::string> text, config::read_file(path));
  out.present = text.has_value();
  const UniqueFd root(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (const auto trusted = config::read_trusted(root.get(), path)) {
    out.trusted = true;
  } else {
    out.distrust = trusted.error().problem.what;
  }
  POSTERN_TRY_ASSIGN(out.config, ecl::parse_ecl(text.value_or(""), path));
  POSTERN_TRY(ecl::check_directories(out.config));
  return out;
}

std::string shown_key(const std::string& identity) {
  return identity.starts_with("pgp:") ? identity.substr(4) : identity;
}

// ---- ecl list

int list() {
  const auto loaded = load();
  if (!loaded) {
    return fail(loaded.error());
  }
  const ecl::EclConfig& config = loaded->config;
  std::string out = ecl_file() +
                    (loaded->present ? "" : " (missing: in suid mode every start is refused)") +
                    "\n";
  out += std::string("activated:       ") + (config.activated ? "yes" : "no") + "\n";
  out += std::string("legacyinsecure:  ") + (config.legacy_insecure ? "yes" : "no") + "\n";
  if (loaded->present && !loaded->trusted) {
    out += "not usable in suid mode: " + loaded->distrust + "\n";
  }
  for (const ecl::Group& group : config.groups) {
    out += "\nline " + std::to_string(group.line) + ": " + std::string(ecl::name_of(group.mode)) +
           (group.tag.empty() ? "" : " '" + printable(group.tag) + "'") + "\n";
    out += "  directory:  " + (group.directory.empty() ? "any" : printable(group.directory)) + "\n";
    out += "  binding:    " + std::string(ecl::name_of(group.binding)) + "\n";
    for (const std::string& key : group.keys) {
      out += "  key:        " + shown_key(key) + "\n";
    }
  }
  for (const ecl::Profile& profile : config.profiles) {
    out += "\nline " + std::to_string(profile.line) + ": profile '" + printable(profile.name) +
           "' for ";
    out += profile.is_for_unsigned ? "images that no rule admits"
           : profile.keys.empty() ? "images that the rule '" + printable(profile.group) + "' admits"
                                  : std::string("admitted images that one of these keys signed");
    out += "\n  " + printable(ecl::describe(profile)) + "\n";
    for (const std::string& key : profile.keys) {
      out += "  key:        " + shown_key(key) + "\n";
    }
  }
  std::fputs(out.c_str(), stdout);
  return 0;
}

// ---- ecl check

// Takes the user's identity for good, so that opening the image is tried with that user's rights.
Outcome<> become(const std::string& name) {
  if (::geteuid() != 0) {
    return Problem{"--as-user needs root"};
  }
  std::vector<char> buffer(std::size_t{256} << 10);
  struct passwd entry{};
  struct passwd* found = nullptr;
  if (::getpwnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found) != 0 ||
      found == nullptr) {
    return Problem{"there is no user '" + printable(name) + "'"};
  }
  if (::initgroups(found->pw_name, found->pw_gid) != 0 ||
      ::setresgid(found->pw_gid, found->pw_gid, found->pw_gid) != 0 ||
      ::setresuid(found->pw_uid, found->pw_uid, found->pw_uid) != 0) {
    return system_problem("becoming " + name, errno);
  }
  return Ok{};
}

ecl::ContainerKind kind_of(int fd) {
  struct stat status{};
  std::array<char, 4> magic{};
  if (::fstat(fd, &status) == 0 && S_ISDIR(status.st_mode)) {
    return ecl::ContainerKind::kDirectory;
  }
  if (::pread(fd, magic.data(), magic.size(), 0) == 4 &&
      std::string_view(magic.data(), 4) == "hsqs") {
    return ecl::ContainerKind::kSquashfs;
  }
  std::array<unsigned char, 2> ext{};
  constexpr off_t kExtMagicAt = 1080;
  if (::pread(fd, ext.data(), ext.size(), kExtMagicAt) == 2 && ext[0] == 0x53 && ext[1] == 0xef) {
    return ecl::ContainerKind::kExt;
  }
  return ecl::ContainerKind::kSif;
}

Outcome<ecl::Gathered> facts_of(int fd, const ecl::EclConfig& config, bool trusted) {
  ecl::Gathered out;
  out.facts.kind = kind_of(fd);
  if (out.facts.kind != ecl::ContainerKind::kSif) {
    return out;
  }
  Snapshot bytes(fd);
  POSTERN_TRY_ASSIGN(const sif::Image image, sif::read(bytes));
  auto keys = ecl::load_keyring(global_keyring(),
                                trusted ? ecl::KeyringOwner::kRoot : ecl::KeyringOwner::kWhoever);
  if (!keys) {
    return std::move(keys).error().problem;
  }
  ecl::GatherOptions options;
  options.legacy = config.legacy_insecure;
  options.unwritable = config::is_unwritable(fd, config::MountTable::read());
  out = ecl::gather(image, bytes, *keys, options);
  out.facts.directory = ecl::locate(config, fd);
  return out;
}

const ecl::Profile* profile_of(const ecl::EclConfig& list, const ecl::EclDecision& decision) {
  return decision.profile ? &list.profiles[*decision.profile] : nullptr;
}

// Of what nobody vouches for: in setuid mode that is everything which is served in user space.
const ecl::Profile* boxing_profile(const ecl::EclConfig& list) {
  const auto found = std::find_if(list.profiles.begin(), list.profiles.end(),
                                  [](const ecl::Profile& one) { return one.is_for_unsigned; });
  return list.activated && found != list.profiles.end() ? &*found : nullptr;
}

// A start reads it.
std::string profile_line(std::string_view what, const ecl::Profile* profile) {
  return profile == nullptr ? std::string()
                            : std::string(what) + ": " + printable(profile->name) + "\n";
}

std::string explain(const Loaded& loaded,
                    const ecl::Gathered& gathered,
                    const ecl::EclDecision& decision) {
  const ecl::ImageFacts& facts = gathered.facts;
  std::string out;
  out += "list:       " + ecl_file() +
         (loaded.config.activated ? ", activated" : ", not activated") + "\n";
  out += "directory:  " + (facts.directory.empty() ? "none that the list names" : facts.directory) +
         "\n";
  out += "rule:       " +
         (decision.group
              ? ecl_file() + ":" + std::to_string(decision.line) + " (" +
                    std::string(ecl::name_of(loaded.config.groups[*decision.group].mode)) + ")"
              : std::string("none")) +
         "\n";
  if (const ecl::Profile* profile = profile_of(loaded.config, decision)) {
    out += "profile:    " + printable(profile->name) + ", " + ecl_file() + ":" +
           std::to_string(profile->line) + ": " + printable(ecl::describe(*profile)) + "\n";
  }
  if (facts.kind == ecl::ContainerKind::kSif) {
    for (const signature::SignatureReport& signature : gathered.signatures) {
      const std::string who =
          signature.valid ? printable(signature.name) + ", " + signature.fingerprint
                          : (signature.claimed.empty() ? "unknown" : shown_key(signature.claimed)) +
                                ", not validated: " + signature.why;
      out += "signature:  object " + std::to_string(signature.id) + ", group " +
             std::to_string(signature.group) + ": " + who + "\n";
    }
    for (const std::string& name : gathered.left_out) {
      out += "keyring:    " + name + " is out of date and does not count\n";
    }
    if (gathered.signatures.empty()) {
      out += "signature:  none\n";
    }
    out += "bytes:      ";
    if (facts.problem_code != RefusalCode::kNone || !facts.any_valid) {
      out += "bound to no valid signature\n";
    } else if (facts.binding == ecl::Binding::kSealed) {
      out += "sealed: every block is checked as it is read (seal: object " +
             std::to_string(gathered.seal->seal_object) + ", tree: object " +
             std::to_string(gathered.seal->tree_object) + ")\n";
    } else if (facts.binding == ecl::Binding::kUnwritable) {
      out += "hashed now; the file belongs to root and nobody else may write it\n";
    } else {
      out += "hashed now; whoever may write the file can change it afterwards\n";
    }
    out += std::string("kernel:     ") +
           (decision.trusted ? "may mount these bytes (kernel-mount squashfs = \"trusted\")\n"
                             : "does not mount these bytes unless the site says \"any\"\n");
  }
  return out +
         "enforced:   in setuid mode; in user-namespace mode the list is advisory: a user can "
         "bring another program\n";
}

// What setuid mode does with an image that the list admits: the list is one rule of several.
std::string setuid_words(int fd, const ecl::EclConfig& list, const ecl::EclDecision& decision) {
  const auto site = config::load_site_config(site_file());
  if (!site || !site->suid_enabled) {
    return {};
  }
  Snapshot bytes(fd);
  judge::Facts facts;
  facts.ecl_active = list.activated;
  facts.ecl = decision;
  facts.limits = admit::resolve(*site);
  facts.image = judge::image_facts(fd, bytes, config::MountTable::read());
  if (facts.image->problem != RefusalCode::kNone) {
    return profile_line("setuid profile", boxing_profile(list));
  }
  const std::string start = "setuid mode: ";
  if (judge::kernel_may_mount(facts, *site)) {
    return start + "the kernel mounts it\n" +
           profile_line("setuid profile", profile_of(list, decision));
  }
  if (judge::admits_any_server(*site, list.activated && !list.boxes_unsigned())) {
    return start + "it is served in user space\n" +
           profile_line("setuid profile", boxing_profile(list));
  }
  return start + "refuses it all the same: the kernel may not mount it (kernel-mount.squashfs of " +
         site_file() +
         "), and with a list or limits active nothing else is admitted; seal and sign it, or have "
         "it owned by root and writable by nobody else\n";
}

Outcome<int> check(const option::Arguments& arguments) {
  const std::string& path = arguments.positional()[0];
  POSTERN_TRY_ASSIGN(const Loaded loaded, load());
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  const int opening = errno;
  if (arguments.given("as-user")) {
    // The decision needs root's view of the list's directories only where the user lacks it; what
    // the user may open, the user opens.
    POSTERN_TRY(become(std::string(arguments.text("as-user"))));
    fd = UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
    if (!fd.valid()) {
      return system_problem("opening " + path + " as " + std::string(arguments.text("as-user")),
                            errno);
    }
  }
  if (!fd.valid()) {
    return path_problem("opening " + path, opening, "check the path");
  }
  const auto facts = facts_of(fd.get(), loaded.config, loaded.trusted);
  if (!facts) {
    // An answer like any other: a start asks this command, and says why in its own words.
    const Problem& problem = facts.error();
    std::fputs(("refuse: " + printable(problem.what) +
                (problem.cure.empty() ? "" : "; " + printable(problem.cure)) + "\n")
                   .c_str(),
               stdout);
    return kExitFatal;
  }
  const ecl::Gathered& gathered = *facts;
  const ecl::EclDecision decision = ecl::decide_ecl(loaded.config, gathered.facts);
  const bool allowed = decision.decision == Decision::kAllow;
  if (arguments.given("explain")) {
    std::fputs(explain(loaded, gathered, decision).c_str(), stdout);
  }
  std::fputs(
      (std::string(allowed ? "allow: " : "refuse: ") + printable(decision.why) + "\n").c_str(),
      stdout);
  if (gathered.seal) {
    std::fputs(("seal: " + text::to_hex(gathered.seal->geometry.root_hash) + "\n").c_str(), stdout);
  }
  if (allowed) {
    std::fputs(profile_line("profile", profile_of(loaded.config, decision)).c_str(), stdout);
    std::fputs(setuid_words(fd.get(), loaded.config, decision).c_str(), stdout);
  }
  if (!loaded.trusted) {
    message::warning(loaded.present
                         ? "suid mode refuses every start with this list: " + loaded.distrust
                         : "there is no " + ecl_file() + ": suid mode refuses every start");
  }
  return allowed ? 0 : kExitFatal;
}

int show_sub_commands(std::FILE* to) {
  std::fputs(
      "The execution control list: which signed images may run\n\nUsage:\n"
      "  postern ecl check [--as-user USER] [--explain] IMAGE\n  postern ecl list\n",
      to);
  return to == stdout ? 0 : kExitUsage;
}

}  // namespace

int ecl_command(std::span<const std::string> words) {
  if (words.empty() || words[0] == "--help" || words[0] == "-h") {
    return show_sub_commands(words.empty() ? stderr : stdout);
  }
  if (words[0] != "check" && words[0] != "list") {
    (void)message::unknown_command(words[0], "ecl", "");
    return show_sub_commands(stderr);
  }
  const bool checking = words[0] == "check";
  const auto arguments = parse_command(checking ? kCheckUsage : kListUsage, words.subspan(1));
  if (!arguments) {
    return arguments.error();
  }
  if (!checking) {
    return list();
  }
  auto status = check(*arguments);
  return status ? *status : fail(std::move(status).error());
}

}  // namespace postern::keys

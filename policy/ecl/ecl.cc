#include "policy/ecl/ecl.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>

#define TOML_EXCEPTIONS 0
// The library asserts what its input decides (a key that starts with no key character), and then
// handles it: an error with a line, not an abort.
#define TOML_ASSERT(expression) static_assert(true)
#define TOML_HEADER_ONLY 1
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

#include "policy/config/bare_text.h"

namespace postern::ecl {
namespace {

bool is_hex(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

char to_lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), to_lower);
  return out;
}

// Keeps the file's name, so that every error of the file starts the same: "ecl.toml:12: ".
class Reader {
 public:
  explicit Reader(std::string_view file) : file_(file) {}

  [[nodiscard]] Problem wrong(const toml::node& where, std::string what) const {
    return wrong(where.source().begin.line, std::move(what));
  }

  [[nodiscard]] Problem wrong(unsigned line, std::string what) const {
    return Problem{file_ + ":" + std::to_string(line) + ": " + std::move(what),
                   "correct the file and test it with 'postern ecl list'"};
  }

  // Two spellings of one key ("mode", "Mode") would make the file mean one thing here and another
  // to a reader that picks the other.
  Outcome<Ok> reject_repeated(const toml::table& table) const {
    std::vector<std::string> seen;
    for (const auto& [key, node] : table) {
      std::string name = lower(key.str());
      if (std::find(seen.begin(), seen.end(), name) != seen.end()) {
        return wrong(node, "key '" + name + "' is given twice");
      }
      seen.push_back(std::move(name));
    }
    return Ok{};
  }

  static const toml::node* find(const toml::table& table, std::string_view name) {
    for (const auto& [key, node] : table) {
      if (lower(key.str()) == name) {
        return &node;
      }
    }
    return nullptr;
  }

  Outcome<bool> boolean(const toml::table& table, std::string_view name) const {
    const toml::node* node = find(table, name);
    if (node == nullptr) {
      return false;
    }
    if (!node->is_boolean()) {
      return wrong(*node, "'" + std::string(name) + "' must be true or false");
    }
    return node->as_boolean()->get();
  }

  Outcome<std::string> text(const toml::table& table, std::string_view name) const {
    const toml::node* node = find(table, name);
    if (node == nullptr) {
      return std::string();
    }
    if (!node->is_string()) {
      return wrong(*node, "'" + std::string(name) + "' must be a string");
    }
    return node->as_string()->get();
  }

  // Appends the identities of a list of fingerprints.
  Outcome<Ok> keys(const toml::table& table,
                   std::string_view name,
                   std::size_t digits,
                   std::string_view prefix,
                   std::vector<std::string>& out) const {
    const toml::node* node = find(table, name);
    if (node == nullptr) {
      return Ok{};
    }
    const toml::array* list = node->as_array();
    if (list == nullptr) {
      return wrong(*node, "'" + std::string(name) + "' must be a list of strings");
    }
    for (const toml::node& entry : *list) {
      const toml::value<std::string>* value = entry.as_string();
      if (value == nullptr) {
        return wrong(entry, "'" + std::string(name) + "' must be a list of strings");
      }
      std::string hex = lower(value->get());
      if (prefix != "pgp:") {
        hex.erase(std::remove(hex.begin(), hex.end(), ':'), hex.end());
      }
      if (hex.size() != digits || !std::all_of(hex.begin(), hex.end(), is_hex)) {
        return wrong(entry, "fingerprint '" + value->get() + "' is not " + std::to_string(digits) +
                                " hexadecimal digits" +
                                (prefix == "pgp:"
                                     ? "; keys in PEM files and certificates are named in keysha256"
                                     : ""));
      }
      out.push_back(std::string(prefix) + hex);
    }
    return Ok{};
  }

  Outcome<Group> group(const toml::table& table) const;
  Outcome<Profile> profile(const toml::table& table) const;

  // Each table of an array of tables.
  template <class Take>
  Outcome<Ok> tables(const toml::table& root,
                     const std::string& name,
                     std::size_t most,
                     Take take) const {
    const toml::node* node = find(root, name);
    if (node == nullptr) {
      return Ok{};
    }
    const toml::array* list = node->as_array();
    if (list == nullptr || list->size() > most) {
      return wrong(*node, "'" + name + "' must be an array of at most " + std::to_string(most) +
                              " tables: [[" + name + "]]");
    }
    for (const toml::node& entry : *list) {
      const toml::table* table = entry.as_table();
      if (table == nullptr) {
        return wrong(entry, "'" + name + "' must hold tables: [[" + name + "]]");
      }
      POSTERN_TRY(take(*table));
    }
    return Ok{};
  }

  // A list of words, each given to `take`, which says whether it is one.
  template <class Take>
  Outcome<Ok> each(const toml::table& table, std::string_view name, Take take) const {
    const toml::node* node = find(table, name);
    const toml::array* list = node == nullptr ? nullptr : node->as_array();
    if (node != nullptr && list == nullptr) {
      return wrong(*node, "'" + std::string(name) + "' must be a list of strings");
    }
    for (std::size_t i = 0; list != nullptr && i < list->size(); ++i) {
      const toml::node& entry = *list->get(i);
      const toml::value<std::string>* value = entry.as_string();
      if (value == nullptr || !take(value->get())) {
        return wrong(entry, "'" + std::string(name) + "' has an entry that is not known: " +
                                (value == nullptr ? "no string" : value->get()));
      }
    }
    return Ok{};
  }

 private:
  std::string file_;
};

// A path that is equal to its own normal form, as far as the text alone can tell.
bool is_plain_absolute(std::string_view path) {
  if (path.empty() || path.front() != '/' || path.find('\0') != std::string_view::npos) {
    return false;
  }
  if (path == "/") {
    return true;
  }
  std::size_t start = 1;
  while (start <= path.size()) {
    const std::size_t end = std::min(path.find('/', start), path.size());
    const std::string_view part = path.substr(start, end - start);
    if (part.empty() || part == "." || part == "..") {
      return false;
    }
    start = end + 1;
  }
  return true;
}

Outcome<Group> Reader::group(const toml::table& table) const {
  POSTERN_TRY(reject_repeated(table));
  Group out;
  out.line = table.source().begin.line;
  POSTERN_TRY_ASSIGN(out.tag, text(table, "tagname"));
  POSTERN_TRY_ASSIGN(out.directory, text(table, "dirpath"));
  POSTERN_TRY_ASSIGN(const std::string mode, text(table, "mode"));
  POSTERN_TRY_ASSIGN(const std::string binding, text(table, "binding"));
  if (!out.directory.empty() && !is_plain_absolute(out.directory)) {
    return wrong(out.line,
                 "dirpath '" + out.directory +
                     "' must be an absolute path without '.', '..', repeated or trailing '/'");
  }
  if (mode == "whitelist") {
    out.mode = Mode::kWhitelist;
  } else if (mode == "whitestrict") {
    out.mode = Mode::kWhitestrict;
  } else if (mode == "blacklist") {
    out.mode = Mode::kBlacklist;
  } else {
    return wrong(out.line, "mode '" + mode + "' is not whitelist, whitestrict or blacklist");
  }
  if (binding == "sealed") {
    out.binding = Binding::kSealed;
  } else if (binding == "unwritable") {
    out.binding = Binding::kUnwritable;
  } else if (binding == "hash" || (binding.empty() && find(table, "binding") == nullptr)) {
    out.binding = Binding::kHash;
  } else {
    return wrong(out.line, "binding '" + binding + "' is not sealed, unwritable or hash");
  }
  POSTERN_TRY(keys(table, "keyfp", 40, "pgp:", out.keys));
  POSTERN_TRY(keys(table, "keysha256", 64, "sha256:", out.keys));
  if (out.keys.empty() && out.mode != Mode::kBlacklist) {
    return wrong(out.line, "a " + mode + " without keyfp or keysha256 names nobody to trust");
  }
  return out;
}

constexpr std::array<std::string_view, 8> kProfileKeys = {
    "name", "execgroup", "keyfp", "keysha256", "unsigned", "require", "deny", "binds"};

Outcome<Profile> Reader::profile(const toml::table& table) const {
  POSTERN_TRY(reject_repeated(table));
  Profile out;
  out.line = table.source().begin.line;
  for (const auto& [key, node] : table) {
    if (std::find(kProfileKeys.begin(), kProfileKeys.end(), lower(key.str())) ==
        kProfileKeys.end()) {
      return wrong(node, "there is no key '" + std::string(key.str()) + "' in [[profile]]");
    }
  }
  POSTERN_TRY_ASSIGN(out.name, text(table, "name"));
  POSTERN_TRY_ASSIGN(out.group, text(table, "execgroup"));
  POSTERN_TRY_ASSIGN(out.is_for_unsigned, boolean(table, "unsigned"));
  POSTERN_TRY(keys(table, "keyfp", 40, "pgp:", out.keys));
  POSTERN_TRY(keys(table, "keysha256", 64, "sha256:", out.keys));
  if (out.name.empty()) {
    return wrong(out.line, "a profile needs a name");
  }
  if ((out.group.empty() ? 0 : 1) + (out.keys.empty() ? 0 : 1) + (out.is_for_unsigned ? 1 : 0) !=
      1) {
    return wrong(out.line, "profile '" + out.name +
                               "' must have one of execgroup, keyfp (or keysha256) and unsigned = "
                               "true, which say whose images it is for");
  }
  POSTERN_TRY(each(table, "require", [&](const std::string& word) {
    out.require |= namespace_bit(word);
    return namespace_bit(word) != 0;
  }));
  POSTERN_TRY(each(table, "deny", [&](const std::string& word) {
    out.deny |= deny_bit(word);
    return deny_bit(word) != 0;
  }));
  POSTERN_TRY(each(table, "binds", [&](const std::string& path) {
    out.binds.push_back(path);
    return is_plain_absolute(path);
  }));
  return out;
}

bool holds(const std::vector<std::string>& list, std::string_view item) {
  return std::find(list.begin(), list.end(), item) != list.end();
}

// "pgp:ABCD…" as people know it.
std::string shown(std::string_view identity) {
  return std::string(identity.substr(identity.find(':') + 1));
}

std::string where(const EclConfig& config, const Group& group) {
  std::string out =
      config.file + ":" + std::to_string(group.line) + ": " + std::string(name_of(group.mode));
  if (!group.tag.empty()) {
    out += " '" + group.tag + "'";
  }
  return out + (group.directory.empty() ? " for any directory" : " for " + group.directory);
}

// What the group's list of keys says about the signers; the empty string admits.
struct KeyVerdict {
  RefusalCode code = RefusalCode::kNone;
  std::string why;
};

KeyVerdict judge_keys(const Group& group, const ImageFacts& facts) {
  const auto signed_by = [&](const std::string& key) {
    return holds(facts.valid, key) && !holds(facts.unvalidated, key);
  };
  switch (group.mode) {
    case Mode::kWhitelist: {
      const auto hit = std::find_if(group.keys.begin(), group.keys.end(), signed_by);
      if (hit == group.keys.end()) {
        return {RefusalCode::kEclUnsigned,
                "none of the listed keys validly signed all of the image"};
      }
      return {RefusalCode::kNone, "signed by " + shown(*hit)};
    }
    case Mode::kWhitestrict: {
      const auto miss = std::find_if_not(group.keys.begin(), group.keys.end(), signed_by);
      if (miss != group.keys.end()) {
        return {RefusalCode::kEclUnsigned, "not validly signed by " + shown(*miss)};
      }
      return {RefusalCode::kNone, "signed by every listed key"};
    }
    case Mode::kBlacklist: {
      const auto hit =
          std::find_if(group.keys.begin(), group.keys.end(), [&](const std::string& key) {
            return holds(facts.claimed, key) || holds(facts.valid, key);
          });
      if (hit != group.keys.end()) {
        return {RefusalCode::kEclForbidden, "signed by the forbidden key " + shown(*hit)};
      }
      return {RefusalCode::kNone, "signed by none of the forbidden keys"};
    }
  }
  return {RefusalCode::kEclSignature, "unknown mode"};
}

std::string_view unsigned_kind(ContainerKind kind) {
  switch (kind) {
    case ContainerKind::kSif:
      return "a SIF file";
    case ContainerKind::kSquashfs:
      return "a bare squashfs file";
    case ContainerKind::kExt:
      return "a bare ext3 file";
    case ContainerKind::kDirectory:
      return "a directory";
    case ContainerKind::kFuse:
      return "a FUSE file system of the caller's";
  }
  return "an unknown kind of root";
}

Outcome<Ok> add_group(const Reader& reader, const toml::table& table, EclConfig& config) {
  POSTERN_TRY_ASSIGN(Group group, reader.group(table));
  for (const Group& earlier : config.groups) {
    if (earlier.directory == group.directory) {
      return reader.wrong(group.line, "dirpath '" + group.directory + "' is already used in line " +
                                          std::to_string(earlier.line));
    }
  }
  config.groups.push_back(std::move(group));
  return Ok{};
}

Outcome<Ok> add_profile(const Reader& reader, const toml::table& table, EclConfig& config) {
  POSTERN_TRY_ASSIGN(Profile profile, reader.profile(table));
  const auto is_named = [&](const Group& group) { return group.tag == profile.group; };
  if (!profile.group.empty() &&
      std::none_of(config.groups.begin(), config.groups.end(), is_named)) {
    return reader.wrong(profile.line, "no execgroup has the tagname '" + profile.group + "'");
  }
  for (const Profile& earlier : config.profiles) {
    if (earlier.name == profile.name) {
      return reader.wrong(profile.line, "profile '" + profile.name + "' is already in line " +
                                            std::to_string(earlier.line));
    }
  }
  config.profiles.push_back(std::move(profile));
  return Ok{};
}

bool fits(const Profile& profile, const Group& group, const ImageFacts& facts) {
  return profile.keys.empty()
             ? !profile.is_for_unsigned && profile.group == group.tag
             : std::any_of(profile.keys.begin(), profile.keys.end(), [&](const std::string& key) {
                 return holds(facts.valid, key) && !holds(facts.unvalidated, key);
               });
}

// What no rule admits may still run, boxed in. A forbidden signer is a decision about the image,
// everything else only a lack of one.
void box(const EclConfig& config, EclDecision& decision) {
  const auto found = std::find_if(config.profiles.begin(), config.profiles.end(),
                                  [](const Profile& profile) { return profile.is_for_unsigned; });
  if (found == config.profiles.end() || decision.reason == RefusalCode::kEclForbidden) {
    return;
  }
  decision.decision = Decision::kAllow;
  decision.reason = RefusalCode::kNone;
  decision.boxed = true;
  decision.profile = static_cast<std::size_t>(found - config.profiles.begin());
  decision.why =
      "with profile '" + found->name + "' (" + describe(*found) + "), because " + decision.why;
}

bool is_trusted(const ImageFacts& facts) {
  return facts.kind == ContainerKind::kSif && facts.problem_code == RefusalCode::kNone &&
         facts.any_valid && facts.binding != Binding::kHash;
}

}  // namespace

std::string_view name_of(Mode mode) {
  switch (mode) {
    case Mode::kWhitelist:
      return "whitelist";
    case Mode::kWhitestrict:
      return "whitestrict";
    case Mode::kBlacklist:
      return "blacklist";
  }
  return "?";
}

std::string_view name_of(Binding binding) {
  switch (binding) {
    case Binding::kHash:
      return "hash";
    case Binding::kUnwritable:
      return "unwritable";
    case Binding::kSealed:
      return "sealed";
  }
  return "?";
}

bool EclConfig::boxes_unsigned() const noexcept {
  return std::any_of(profiles.begin(), profiles.end(),
                     [](const Profile& profile) { return profile.is_for_unsigned; });
}

Outcome<EclConfig> parse_ecl(std::string_view text, std::string_view file) {
  const Reader reader(file);
  if (text.size() > kMaxEclBytes) {
    return reader.wrong(1, "larger than " + std::to_string(kMaxEclBytes) + " bytes");
  }
  if (const auto line = config::find_bare_non_ascii(text)) {
    return reader.wrong(*line, std::string(config::kBareNonAscii));
  }
  const auto shape = config::as_ascii(text);
  toml::parse_result parsed = toml::parse(shape ? *shape : text, file);
  if (parsed && shape) {
    parsed = toml::parse(text, file);
  }
  if (!parsed) {
    return reader.wrong(parsed.error().source().begin.line,
                        "not TOML: " + std::string(parsed.error().description()));
  }
  const toml::table& root = parsed.table();
  POSTERN_TRY(reader.reject_repeated(root));
  EclConfig config;
  config.file = file;
  POSTERN_TRY_ASSIGN(config.activated, reader.boolean(root, "activated"));
  POSTERN_TRY_ASSIGN(config.legacy_insecure, reader.boolean(root, "legacyinsecure"));
  POSTERN_TRY(reader.tables(root, "execgroup", kMaxEclGroups, [&](const toml::table& table) {
    return add_group(reader, table, config);
  }));
  POSTERN_TRY(reader.tables(root, "profile", kMaxProfiles, [&](const toml::table& table) {
    return add_profile(reader, table, config);
  }));
  return config;
}

Outcome<Ok> check_directories(const EclConfig& config) {
  for (const Group& group : config.groups) {
    if (group.directory.empty()) {
      continue;
    }
    std::string resolved(PATH_MAX, '\0');
    const std::string place = config.file + ":" + std::to_string(group.line) + ": dirpath ";
    if (::realpath(group.directory.c_str(), resolved.data()) == nullptr) {
      return system_problem(place + "'" + group.directory + "'", errno);
    }
    resolved.resize(resolved.find('\0'));
    if (resolved != group.directory) {
      return Problem{place + "'" + group.directory + "' goes through a symbolic link",
                     "write it as '" + resolved + "'"};
    }
  }
  return Ok{};
}

std::optional<std::size_t> find_group(const EclConfig& config, std::string_view directory) {
  std::optional<std::size_t> anywhere;
  for (std::size_t i = 0; i < config.groups.size(); ++i) {
    const Group& group = config.groups[i];
    if (group.directory.empty()) {
      anywhere = anywhere ? anywhere : std::optional(i);
    } else if (group.directory == directory) {
      return i;
    }
  }
  return anywhere;
}

EclDecision decide_ecl(const EclConfig& config, const ImageFacts& facts) {
  EclDecision out;
  out.trusted = false;
  if (!config.activated) {
    out.decision = Decision::kAllow;
    out.why = "the execution control list is not activated";
    out.trusted = is_trusted(facts);
    return out;
  }
  const auto refuse = [&](RefusalCode code, std::string why) {
    out.decision = Decision::kRefuse;
    out.reason = code;
    out.why = std::move(why);
    box(config, out);
    return out;
  };
  if (facts.kind != ContainerKind::kSif) {
    return refuse(RefusalCode::kUnboundRoot,
                  std::string(unsigned_kind(facts.kind)) +
                      " carries no signature, and the execution control list is active");
  }
  out.group = find_group(config, facts.directory);
  if (!out.group) {
    return refuse(RefusalCode::kEclNoGroup, facts.directory.empty()
                                                ? "the image lies in no directory that an "
                                                  "execgroup names, and none is for any directory"
                                                : "no execgroup is for " + facts.directory);
  }
  const Group& group = config.groups[*out.group];
  out.line = group.line;
  const std::string rule = where(config, group) + ": ";
  if (facts.problem_code != RefusalCode::kNone) {
    return refuse(facts.problem_code, rule + facts.problem);
  }
  const KeyVerdict keys = judge_keys(group, facts);
  if (keys.code != RefusalCode::kNone) {
    return refuse(keys.code, rule + keys.why);
  }
  // A seal or a protected file binds the bytes to a signature; where none is valid (a blacklist
  // forgives unknown signers) nothing has been verified that could be bound.
  const Binding offered = facts.any_valid ? facts.binding : Binding::kHash;
  if (offered < group.binding) {
    return refuse(RefusalCode::kEclBinding,
                  rule + "the rule asks for binding \"" + std::string(name_of(group.binding)) +
                      "\", the image offers \"" + std::string(name_of(offered)) + "\"");
  }
  out.decision = Decision::kAllow;
  out.why = rule + keys.why + ", bound by \"" + std::string(name_of(offered)) + "\"";
  out.trusted = is_trusted(facts);
  const auto profile =
      std::find_if(config.profiles.begin(), config.profiles.end(),
                   [&](const Profile& candidate) { return fits(candidate, group, facts); });
  if (profile != config.profiles.end()) {
    out.profile = static_cast<std::size_t>(profile - config.profiles.begin());
    out.why += "; profile '" + profile->name + "': " + describe(*profile);
  }
  return out;
}

}  // namespace postern::ecl

#include "policy/ecl/ecl.h"

#include <algorithm>
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
  const toml::node* groups = Reader::find(root, "execgroup");
  if (groups == nullptr) {
    return config;
  }
  const toml::array* list = groups->as_array();
  if (list == nullptr || list->size() > kMaxEclGroups) {
    return reader.wrong(*groups, "'execgroup' must be an array of at most " +
                                     std::to_string(kMaxEclGroups) + " tables: [[execgroup]]");
  }
  for (const toml::node& entry : *list) {
    const toml::table* table = entry.as_table();
    if (table == nullptr) {
      return reader.wrong(entry, "'execgroup' must hold tables: [[execgroup]]");
    }
    POSTERN_TRY_ASSIGN(Group group, reader.group(*table));
    for (const Group& earlier : config.groups) {
      if (earlier.directory == group.directory) {
        return reader.wrong(group.line, "dirpath '" + group.directory +
                                            "' is already used in line " +
                                            std::to_string(earlier.line));
      }
    }
    config.groups.push_back(std::move(group));
  }
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
  return out;
}

}  // namespace postern::ecl

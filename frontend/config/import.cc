#include "frontend/config/import.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <map>
#include <optional>
#include <utility>

#include "policy/json/strict.h"
#include "policy/text/split.h"

namespace postern::config {
namespace {

// Directives without a key of ours, and why.
struct Dropped {
  std::string_view directive;
  std::string_view why;
};

// clang-format off
constexpr std::array kDropped = std::to_array<Dropped>({
  {"allow container extfs", "the kernel mounts no ext image for users; fuse2fs serves them in user-namespace mode"},
  {"allow monitoring", "there is no monitoring socket"},
  {"allow net networks", "there are no CNI networks; --net gives an empty network of its own"},
  {"allow setuid-mount extfs", "ext images are never mounted for users"},
  {"apptheus communication socket path", "there is no monitoring socket"},
  {"apptheus socket path", "there is no monitoring socket"},
  {"binary path", "helper programs are found beside postern itself"},
  {"cni configuration path", "there are no CNI networks"},
  {"cni plugin path", "there are no CNI networks"},
  {"download buffer size", "downloads are not tuned by configuration"},
  {"download concurrency", "downloads are not tuned by configuration"},
  {"download part size", "downloads are not tuned by configuration"},
  {"enable underlay", "missing mount points are always made in an overlay"},
  {"image driver", "there are no image drivers"},
  {"max loop devices", "the kernel's own limit applies"},
  {"memory fs type", "the session is always a tmpfs"},
  {"mksquashfs mem", "the memory of a build follows from the number of its processors"},
  {"mount slave", "later mounts of the host always appear in containers"},
  {"root default capabilities", "root runs containers as every other user does"},
  {"shared loop devices", "starts of one image always share one mount"},
  {"sync writable extfs", "ext images are never mounted for users"},
  {"systemd cgroups", "systemd is not asked for control groups: the user's own are used"},
  {"use nvidia-container-cli", "the libraries of --nv are found without it"},
});
// clang-format on

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r";
  const std::size_t first = text.find_first_not_of(kBlank);
  return first == std::string_view::npos
             ? std::string_view()
             : text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

struct Setting {
  unsigned line = 0;  // of its first appearance
  std::vector<std::string> values;
};

using Settings = std::map<std::string, Setting, std::less<>>;

// "key = value" lines; a key is letters, blanks, "_" and "-", which is why "#" starts a comment.
// Values are split at commas and add up.
Settings read_settings(std::string_view text) {
  Settings settings;
  for (unsigned line = 1; !text.empty(); ++line) {
    const std::string_view row = text::next_line(text);
    const std::size_t equals = row.find('=');
    const std::string_view key = trimmed(row.substr(0, equals));
    const bool is_key = !key.empty() && equals != std::string_view::npos &&
                        std::all_of(key.begin(), key.end(), [](unsigned char c) {
                          return std::isalpha(c) != 0 || c == ' ' || c == '_' || c == '-';
                        });
    if (!is_key) {
      continue;
    }
    std::string_view values = row.substr(equals + 1);
    Setting& setting = settings[std::string(key)];
    setting.line = setting.line == 0 ? line : setting.line;
    while (!values.empty()) {
      const std::string_view value = values.substr(0, values.find(','));
      values.remove_prefix(std::min(value.size() + 1, values.size()));
      // "NULL" is that program's word for "not set".
      if (!trimmed(value).empty() && trimmed(value) != "NULL") {
        setting.values.emplace_back(trimmed(value));
      }
    }
  }
  return settings;
}

// Words that mean something else there than here.
std::optional<TomlValue> special_value(std::string_view directive, const std::string& word) {
  if (directive == "allow setuid-mount squashfs") {
    if (word == "iflimited") {
      return TomlValue(std::string("limited"));
    }
    return TomlValue(word == "yes"  ? std::string("any")
                     : word == "no" ? std::string("never")
                                    : word);
  }
  if (directive == "enable overlay" && (word == "try" || word == "driver")) {
    return TomlValue(true);
  }
  return std::nullopt;
}

bool is_bool(const Key& key) {
  return std::holds_alternative<bool SiteConfig::*>(key.member);
}

std::optional<std::int64_t> number_of(std::string_view word) {
  const bool is_hex = word.starts_with("0x") || word.starts_with("0X");
  const std::string_view digits = is_hex ? word.substr(2) : word;
  std::int64_t number = 0;
  const char* end = digits.data() + digits.size();
  const auto [stop, error] = std::from_chars(digits.data(), end, number, is_hex ? 16 : 10);
  return error == std::errc() && stop == end ? std::optional(number) : std::nullopt;
}

TomlValue value_of(const Key& key, const Setting& setting) {
  if (std::holds_alternative<List SiteConfig::*>(key.member)) {
    return setting.values;
  }
  const std::string& word = setting.values.front();  // the first value wins
  if (std::optional<TomlValue> special = special_value(key.directive, word)) {
    return *std::move(special);
  }
  if (is_bool(key) && (word == "yes" || word == "no")) {
    return word == "yes";
  }
  if (std::holds_alternative<std::uint64_t SiteConfig::*>(key.member)) {
    if (const std::optional<std::int64_t> number = number_of(word)) {
      return *number;
    }
  }
  return word;
}

void note_dropped(const Settings& settings, std::vector<std::string>& notes) {
  for (const auto& [name, setting] : settings) {
    const auto* row = std::find_if(kDropped.begin(), kDropped.end(), [&](const Dropped& dropped) {
      return dropped.directive == name;
    });
    if (row != kDropped.end()) {
      if (!setting.values.empty()) {
        notes.push_back(name + ": " + std::string(row->why));
      }
      continue;
    }
    const bool known = std::any_of(keys().begin(), keys().end(),
                                   [&](const Key& key) { return key.directive == name; });
    if (!known) {
      notes.push_back("line " + std::to_string(setting.line) + ": unknown directive \"" + name +
                      "\"");
    }
  }
}

Outcome<std::vector<Grant>> import_grants(const json::Value& root,
                                          std::string_view member,
                                          const std::string& file) {
  std::vector<Grant> grants;
  const json::Value* object = root.find(member);
  if (object == nullptr || object->kind == json::Value::Kind::kNull) {
    return grants;
  }
  if (object->kind != json::Value::Kind::kObject) {
    return Problem{.what = file + ": \"" + std::string(member) + "\" is not an object"};
  }
  for (const auto& [name, list] : object->members) {
    Grant grant{.name = name};
    if (list.kind != json::Value::Kind::kArray) {
      return Problem{.what = file + ": the capabilities of \"" + name + "\" are not a list"};
    }
    for (const json::Value& item : list.items) {
      Outcome<std::uint64_t> bits = parse_capabilities(item.text);
      if (!bits) {
        return Problem{.what = file + ": " + name + ": " + bits.error().what};
      }
      grant.bits |= *bits;
    }
    grants.push_back(std::move(grant));
  }
  return grants;
}

}  // namespace

Outcome<ImportedSite> import_site(std::string_view text, const std::string& file) {
  const Settings settings = read_settings(text);
  ImportedSite imported;
  // There, a file that is silent about a list means an empty list.
  imported.site.mount_binds.clear();
  imported.site.suid_enabled = true;                            // "allow setuid" defaults to yes
  imported.site.kernel_mount_squashfs = KernelMount::kLimited;  // … and this to "iflimited"
  for (const Key& key : keys()) {
    const auto found = key.directive.empty() ? settings.end() : settings.find(key.directive);
    if (found == settings.end() || found->second.values.empty()) {
      continue;
    }
    if (const Outcome<> set = set_value(imported.site, key, value_of(key, found->second)); !set) {
      return Problem{.what = file + ":" + std::to_string(found->second.line) + ": " +
                             std::string(key.directive) + ": " + set.error().what};
    }
  }
  note_dropped(settings, imported.notes);
  if (imported.site.kernel_mount_squashfs == KernelMount::kLimited) {
    imported.notes.emplace_back(
        "kernel-mount.squashfs = \"limited\", which is iflimited: where limits or an execution "
        "control list are active, the kernel mounts every image that meets them; \"trusted\" would "
        "ask for signed and sealed images, or images of root's");
  }
  return imported;
}

Outcome<CapabilityConfig> import_capabilities(std::string_view text, const std::string& file) {
  CapabilityConfig config;
  if (trimmed(text).find_first_not_of('\n') == std::string_view::npos) {
    return config;
  }
  Outcome<json::Value> root = json::parse(text);
  if (!root) {
    return Problem{.what = file + ": " + root.error().what};
  }
  POSTERN_TRY_ASSIGN(config.users, import_grants(*root, "users", file));
  POSTERN_TRY_ASSIGN(config.groups, import_grants(*root, "groups", file));
  return config;
}

}  // namespace postern::config

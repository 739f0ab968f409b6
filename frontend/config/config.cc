// postern config
#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <string_view>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/config/commands.h"
#include "frontend/config/edit.h"
#include "frontend/config/import.h"
#include "frontend/message/message.h"
#include "frontend/option/commands.h"
#include "frontend/option/option.h"
#include "frontend/system/replace_file.h"
#include "policy/config/capabilities.h"
#include "policy/config/read_file.h"
#include "policy/config/trusted_file.h"
#include "policy/ecl/ecl.h"
#include "protocol/base/unique_fd.h"
#include "protocol/exit_codes.h"

namespace postern::config {
namespace {

using Words = std::span<const std::string>;
namespace fs = std::filesystem;

constexpr option::CommandSet kGlobal = 1;
constexpr option::CommandSet kImport = 2;

constexpr std::array kOptions = std::to_array<option::Option>({
    {"set", 's', "", option::Kind::kFlag, kGlobal, "",
     "set a setting; for a list: put values in front of it"},
    {"unset", 'u', "", option::Kind::kFlag, kGlobal, "",
     "take values out of a list, or a setting out of the file"},
    {"get", 'g', "", option::Kind::kFlag, kGlobal, "", "print the value of a setting"},
    {"reset", 'r', "", option::Kind::kFlag, kGlobal, "",
     "take a setting out of the file, so that its default holds"},
    {"dry-run", 'd', "", option::Kind::kFlag, kGlobal | kImport, "",
     "print the resulting file instead of writing it"},
    {"help", 'h', "", option::Kind::kFlag, kGlobal | kImport, "", "show help"},
});

constexpr const char* kUsage =
    "Usage:\n"
    "  postern config global --get|--set|--unset|--reset [--dry-run] SETTING [VALUE,...]\n"
    "  postern config global list\n"
    "  postern config global check [FILE]\n"
    "  postern config import [--dry-run] FILE-OR-DIRECTORY...\n"
    "\n"
    "A SETTING is a key as \"limit.paths\", or a directive of apptainer.conf as \"limit container "
    "paths\".\n"
    "import reads apptainer.conf, ecl.toml and capability.json.\n";

enum class Verb : std::uint8_t { kGet, kSet, kUnset, kReset, kList, kCheck };

struct VerbName {
  std::string_view word;
  Verb verb;
};

constexpr std::array kVerbs = std::to_array<VerbName>({
    {"get", Verb::kGet},
    {"set", Verb::kSet},
    {"unset", Verb::kUnset},
    {"reset", Verb::kReset},
    {"list", Verb::kList},
    {"check", Verb::kCheck},
});

Problem usage(std::string what) {
  return Problem{.what = std::move(what), .exit_code = kExitUsage};
}

Outcome<std::string> file_text(const std::string& file) {
  POSTERN_TRY_ASSIGN(const std::optional<std::string> text, read_file(file));
  return text.value_or("");
}

Outcome<int> publish(const std::string& file, const std::string& text, bool dry_run) {
  if (dry_run) {
    std::fputs(text.c_str(), stdout);
    return 0;
  }
  POSTERN_TRY(system::replace_file(file, text));
  return 0;
}

// As apptainer.conf writes values where its name was used for the setting, else as TOML does.
std::string shown_value(const SiteConfig& site, const Key& key, std::string_view name) {
  if (name.find('.') != std::string_view::npos) {
    return value_text(site, key);
  }
  if (const auto* list = std::get_if<List SiteConfig::*>(&key.member)) {
    std::string text;
    for (const std::string& entry : site.**list) {
      text += (text.empty() ? "" : ",") + entry;
    }
    return text;
  }
  if (const auto* flag = std::get_if<bool SiteConfig::*>(&key.member)) {
    return site.**flag ? "yes" : "no";
  }
  std::string text = value_text(site, key);
  std::erase(text, '"');
  return text;
}

// Values given, then those that were there and are not among them.
void put_in_front(List& list, const List& given) {
  List result = given;
  std::copy_if(list.begin(), list.end(), std::back_inserter(result), [&](const std::string& entry) {
    return std::find(given.begin(), given.end(), entry) == given.end();
  });
  list = std::move(result);
}

Outcome<std::string> set_text(const std::string& text,
                              const std::string& file,
                              const Key& key,
                              std::string_view words) {
  POSTERN_TRY_ASSIGN(SiteConfig site, parse_site_config(text, file));
  const auto* list = std::get_if<List SiteConfig::*>(&key.member);
  const List before = list != nullptr ? site.**list : List();
  if (const Outcome<> set = set_value(site, key, value_of_words(key, words)); !set) {
    return Problem{.what = std::string(key.table) + "." + std::string(key.name) + ": " +
                           set.error().what};
  }
  if (list != nullptr) {
    const List given = std::move(site.**list);
    site.** list = before;
    put_in_front(site.**list, given);
  }
  return with_key(text, file, key, value_text(site, key));
}

Outcome<std::string> unset_text(const std::string& text,
                                const std::string& file,
                                const Key& key,
                                std::string_view words) {
  const auto* list = std::get_if<List SiteConfig::*>(&key.member);
  if (list == nullptr || words.empty()) {
    return without_key(text, file, key);
  }
  POSTERN_TRY_ASSIGN(SiteConfig site, parse_site_config(text, file));
  const TomlValue unwanted = value_of_words(key, words);
  for (const std::string& entry : std::get<List>(unwanted)) {
    if (std::erase(site.**list, entry) == 0) {
      return Problem{.what = "\"" + entry + "\" is not among the values of " +
                             std::string(key.table) + "." + std::string(key.name)};
    }
  }
  return with_key(text, file, key, value_text(site, key));
}

Outcome<int> list_settings(const std::string& file) {
  POSTERN_TRY_ASSIGN(const SiteConfig site, load_site_config(file));
  for (const Key& key : keys()) {
    const std::string path = std::string(key.table) + "." + std::string(key.name);
    const std::uint32_t line = line_of(site, path);
    const std::string origin = line == 0 ? "default" : "line " + std::to_string(line);
    std::printf("%s = %s  # %s\n", path.c_str(), value_text(site, key).c_str(), origin.c_str());
  }
  return 0;
}

// All files of the site, read as setuid mode reads them.
Outcome<int> check_files(const std::string& file) {
  const std::string directory = fs::path(file).parent_path().string();
  bool good = true;
  const auto report = [&](const std::string& name, const Trusted<>& result) {
    if (result) {
      std::printf("%s: good\n", name.c_str());
      return;
    }
    good = false;
    message::error(result.error().problem.what +
                   (result.error().problem.cure.empty() ? "" : "; " + result.error().problem.cure));
  };
  const UniqueFd root(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
  const auto check = [&](const char* name, bool required, auto parse) -> void {
    const std::string path = directory + "/" + name;
    const Trusted<std::string> text = read_trusted(root.get(), path);
    if (!text) {
      if (required || text.error().code != RefusalCode::kConfigMissing) {
        report(path, text.error());
      }
      return;
    }
    const auto parsed = parse(*text, path);
    report(path,
           parsed ? Trusted<>(Ok{}) : ConfigFault{RefusalCode::kConfigMalformed, parsed.error()});
  };
  const Trusted<SiteConfig> site = load_trusted(root.get(), file);
  report(file, site ? Trusted<>(Ok{}) : site.error());
  check("ecl.toml", true, [](const std::string& text, const std::string& path) {
    return ecl::parse_ecl(text, path);
  });
  check("capability.toml", false, [](const std::string& text, const std::string& path) {
    return parse_capability_config(text, path);
  });
  return good ? 0 : kExitFatal;
}

struct Asked {
  Verb verb = Verb::kList;
  std::vector<std::string> operands;
};

// Apptainer's flags, or the verb as a word.
Outcome<Asked> asked_for(const option::Arguments& arguments) {
  Asked asked{.operands = arguments.positional()};
  unsigned count = 0;
  for (const VerbName& name : kVerbs) {
    const bool is_flag = name.verb != Verb::kList && name.verb != Verb::kCheck;
    if (is_flag && arguments.given(name.word)) {
      asked.verb = name.verb;
      ++count;
    }
  }
  if (count == 0 && !asked.operands.empty()) {
    for (const VerbName& name : kVerbs) {
      if (asked.operands.front() == name.word) {
        asked.verb = name.verb;
        asked.operands.erase(asked.operands.begin());
        return asked;
      }
    }
  }
  return count == 1 ? Outcome<Asked>(std::move(asked))
                    : Outcome<Asked>(
                          usage("one of --set, --unset, --get, --reset, list and check is needed"));
}

// Values may be given as one word or several.
std::string join(std::span<const std::string> words) {
  std::string text;
  for (const std::string& word : words) {
    text += (text.empty() ? "" : ",") + word;
  }
  return text;
}

Outcome<int> change(const Asked& asked, const Key& key, const std::string& file, bool dry_run) {
  const std::string words = join(std::span(asked.operands).subspan(1));
  POSTERN_TRY_ASSIGN(const std::string text, file_text(file));
  if (asked.verb == Verb::kSet) {
    if (words.empty()) {
      return usage("a value is needed");
    }
    POSTERN_TRY_ASSIGN(const std::string changed, set_text(text, file, key, words));
    return publish(file, changed, dry_run);
  }
  POSTERN_TRY_ASSIGN(const std::string changed, asked.verb == Verb::kUnset
                                                    ? unset_text(text, file, key, words)
                                                    : without_key(text, file, key));
  return publish(file, changed, dry_run);
}

Outcome<int> global(const option::Arguments& arguments, const std::string& file) {
  POSTERN_TRY_ASSIGN(const Asked asked, asked_for(arguments));
  if (asked.verb == Verb::kList) {
    return list_settings(file);
  }
  if (asked.verb == Verb::kCheck) {
    return check_files(asked.operands.empty()
                           ? file
                           : fs::absolute(asked.operands.front()).lexically_normal().string());
  }
  if (asked.operands.empty()) {
    return usage("a setting is needed");
  }
  const std::string& name = asked.operands.front();
  POSTERN_TRY_ASSIGN(const Key* key, key_named(name));
  if (asked.verb == Verb::kGet) {
    POSTERN_TRY_ASSIGN(const SiteConfig site, load_site_config(file));
    std::printf("%s\n", shown_value(site, *key, name).c_str());
    return 0;
  }
  return change(asked, *key, file, arguments.given("dry-run"));
}

// Keys that the new file sets to another value than the old one; the defaults where there is none.
void show_changes(const std::string& file, const std::string& old, const std::string& text) {
  const auto before = parse_site_config(old, file);
  const auto after = parse_site_config(text, file);
  for (const Key& key : keys()) {
    const std::string was = before ? value_text(*before, key) : "(unreadable)";
    const std::string is = after ? value_text(*after, key) : "(unreadable)";
    if (was != is) {
      message::info("  " + std::string(key.table) + "." + std::string(key.name) + ": " + was +
                    " -> " + is);
    }
  }
}

// Says what changes, keeps what was there as FILE.old, and writes. With --dry-run nothing is
// written: standard output has the file, and what changes is said on standard error.
Outcome<int> take_over(const std::string& file, const std::string& text, bool dry_run) {
  POSTERN_TRY_ASSIGN(const std::optional<std::string> old, read_file(file));
  if (old == text) {
    message::info(file + ": unchanged");
    return 0;
  }
  message::info(file + (old ? ": changed" : ": new"));
  if (file.ends_with("/postern.toml")) {
    show_changes(file, old.value_or(""), text);
  }
  if (dry_run) {
    return publish(file, text, true);
  }
  if (old) {
    POSTERN_TRY(system::replace_file(file + ".old", *old));
    message::info(file + ".old: what was there before");
  }
  return publish(file, text, false);
}

Outcome<int> import_one(const std::string& source, const std::string& directory, bool dry_run) {
  POSTERN_TRY_ASSIGN(const std::optional<std::string> text, read_file(source));
  if (!text) {
    return Problem{.what = source + " does not exist"};
  }
  const std::string name = fs::path(source).filename().string();
  if (name == "capability.json") {
    POSTERN_TRY_ASSIGN(const CapabilityConfig grants, import_capabilities(*text, source));
    return take_over(directory + "/capability.toml", capability_config_text(grants), dry_run);
  }
  if (name == "ecl.toml") {
    // The same schema; ours is stricter, so what it would refuse later is refused now.
    POSTERN_TRY(ecl::parse_ecl(*text, source));
    return take_over(directory + "/ecl.toml", *text, dry_run);
  }
  POSTERN_TRY_ASSIGN(const ImportedSite imported, import_site(*text, source));
  for (const std::string& note : imported.notes) {
    message::warning(source + ": " + note);
  }
  return take_over(directory + "/postern.toml", site_text(imported.site), dry_run);
}

Outcome<int> import(const option::Arguments& arguments, const std::string& file) {
  if (arguments.positional().empty()) {
    return usage("a file or a directory to import is needed");
  }
  std::vector<std::string> sources;
  for (const std::string& given : arguments.positional()) {
    std::error_code ignored;
    if (!fs::is_directory(given, ignored)) {
      sources.push_back(given);
      continue;
    }
    const std::size_t before = sources.size();
    for (const char* name : {"apptainer.conf", "singularity.conf", "ecl.toml", "capability.json"}) {
      if (fs::exists(fs::path(given) / name, ignored)) {
        sources.push_back((fs::path(given) / name).string());
      }
    }
    if (sources.size() == before) {
      return Problem{.what = given + " holds no apptainer.conf, ecl.toml or capability.json"};
    }
  }
  for (const std::string& source : sources) {
    POSTERN_TRY(
        import_one(source, fs::path(file).parent_path().string(), arguments.given("dry-run")));
  }
  return 0;
}

Outcome<int> dispatch(const std::string& verb, Words words, const std::string& file) {
  const bool is_global = verb == "global";
  if (!is_global && verb != "import") {
    return usage(
        verb == "fakeroot"
            ? "ranges of /etc/subuid and /etc/subgid are made with usermod(8), --add-subuids"
            : "there is no command \"config " + verb + "\"");
  }
  POSTERN_TRY_ASSIGN(const option::Arguments arguments,
                     option::parse(kOptions, is_global ? kGlobal : kImport, words, environ, false));
  if (arguments.given("help")) {
    std::fputs(kUsage, stdout);
    return 0;
  }
  return is_global ? global(arguments, file) : import(arguments, file);
}

}  // namespace

int config_command(std::span<const std::string> words, const std::string& site_file) {
  if (words.empty() || words.front() == "--help" || words.front() == "-h") {
    std::fputs(kUsage, words.empty() ? stderr : stdout);
    return words.empty() ? kExitUsage : 0;
  }
  return option::exit_status(dispatch(words.front(), words.subspan(1), site_file), kUsage);
}

}  // namespace postern::config

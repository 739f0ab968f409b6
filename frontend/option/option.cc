#include "frontend/option/option.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "protocol/base/check.h"
#include "protocol/exit_codes.h"

namespace postern::option {
namespace {

constexpr std::array<std::string_view, 3> kPrefixes = {"POSTERN_", "APPTAINER_", "SINGULARITY_"};

Problem usage_error(std::string what) {
  return Problem{.what = std::move(what), .exit_code = kExitUsage};
}

// The spellings of strconv.ParseBool, which pflag uses.
std::optional<bool> boolean(std::string_view text) {
  for (const std::string_view word : {"1", "t", "T", "true", "TRUE", "True"}) {
    if (text == word) {
      return true;
    }
  }
  for (const std::string_view word : {"0", "f", "F", "false", "FALSE", "False"}) {
    if (text == word) {
      return false;
    }
  }
  return std::nullopt;
}

std::string_view trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) {
    return {};
  }
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

bool has_key(std::string_view keys, std::string_view name) {
  while (!keys.empty()) {
    const auto comma = keys.find(',');
    if (keys.substr(0, comma) == name) {
      return true;
    }
    keys = comma == std::string_view::npos ? std::string_view{} : keys.substr(comma + 1);
  }
  return false;
}

std::string spelled(const Option& option) {
  std::string text;
  if (option.letter != 0) {
    text += '-';
    text += option.letter;
    text += ", ";
  }
  text += "--";
  text += option.name;
  return text;
}

}  // namespace

class Parser {
 public:
  Parser(std::span<const Option> table, CommandSet commands)
      : table_(table), commands_(commands), result_(table, commands) {}

  Outcome<> command_line(std::span<const std::string> words, bool stop_at_positional);
  Outcome<> environment(const char* const* environment);

  Arguments take() { return std::move(result_); }

 private:
  static constexpr std::size_t kNone = ~std::size_t{0};

  template <class Predicate>
  std::size_t find(Predicate matches) const {
    for (std::size_t i = 0; i < table_.size(); ++i) {
      if ((table_[i].commands & commands_) != 0 && matches(table_[i])) {
        return i;
      }
    }
    return kNone;
  }

  Outcome<> set(std::size_t index, std::string_view value, std::string_view source);
  void add_items(std::size_t index, std::string_view value);
  Outcome<> long_option(std::span<const std::string> words, std::size_t& at);
  Outcome<> letters(std::span<const std::string> words, std::size_t& at);

  std::span<const Option> table_;
  CommandSet commands_;
  Arguments result_;
};

void Parser::add_items(std::size_t index, std::string_view value) {
  while (true) {
    const auto comma = value.find(',');
    if (const auto item = trimmed(value.substr(0, comma)); !item.empty()) {
      result_.values_[index].list.emplace_back(item);
    }
    if (comma == std::string_view::npos) {
      return;
    }
    value.remove_prefix(comma + 1);
  }
}

// `source` names the option or the environment variable, for messages.
Outcome<> Parser::set(std::size_t index, std::string_view value, std::string_view source) {
  const Option& option = table_[index];
  Arguments::Values& values = result_.values_[index];
  switch (option.kind) {
    case Kind::kFlag: {
      const auto on = boolean(value);
      if (!on) {
        return usage_error("invalid argument \"" + std::string(value) + "\" for \"" +
                           std::string(source) + "\": true or false is expected");
      }
      values.on = *on;
      break;
    }
    case Kind::kText:
      values.list.assign(1, std::string(value));
      break;
    case Kind::kArray:
      values.list.emplace_back(value);
      break;
    case Kind::kList:
      add_items(index, value);
      break;
  }
  if (!option.refusal.empty() && (option.kind != Kind::kFlag || values.on)) {
    return Problem{.what = std::string(source) + " is not available in postern",
                   .cure = std::string(option.refusal)};
  }
  if (!option.ignored.empty()) {
    result_.notes_.push_back(std::string(source) +
                             " changes nothing: " + std::string(option.ignored));
  }
  return Ok{};
}

Outcome<> Parser::long_option(std::span<const std::string> words, std::size_t& at) {
  const std::string_view word = words[at];
  const auto equals = word.find('=');
  const std::string_view name = word.substr(2, equals == word.npos ? word.npos : equals - 2);
  const std::size_t index = find([&](const Option& option) { return option.name == name; });
  if (index == kNone) {
    return usage_error("unknown flag: --" + std::string(name));
  }
  result_.values_[index].command_line = true;
  if (equals != word.npos) {
    return set(index, word.substr(equals + 1), word.substr(0, equals));
  }
  if (table_[index].kind == Kind::kFlag) {
    return set(index, "true", word);
  }
  if (at + 1 == words.size()) {
    return usage_error("flag needs an argument: " + std::string(word));
  }
  return set(index, words[++at], word);
}

Outcome<> Parser::letters(std::span<const std::string> words, std::size_t& at) {
  const std::string_view word = words[at];
  for (std::size_t i = 1; i < word.size(); ++i) {
    const char letter = word[i];
    const std::size_t index = find([&](const Option& option) { return option.letter == letter; });
    const std::string source{'-', letter};
    if (index == kNone) {
      return usage_error("unknown shorthand flag: '" + std::string(1, letter) + "' in " +
                         std::string(word));
    }
    result_.values_[index].command_line = true;
    const bool equals = i + 1 < word.size() && word[i + 1] == '=';
    if (table_[index].kind == Kind::kFlag) {
      if (equals) {
        return set(index, word.substr(i + 2), source);
      }
      POSTERN_TRY(set(index, "true", source));
      continue;
    }
    if (i + 1 < word.size()) {
      return set(index, word.substr(i + (equals ? 2 : 1)), source);
    }
    if (at + 1 == words.size()) {
      return usage_error("flag needs an argument: '" + std::string(1, letter) + "' in " +
                         std::string(word));
    }
    return set(index, words[++at], source);
  }
  return Ok{};
}

Outcome<> Parser::command_line(std::span<const std::string> words, bool stop_at_positional) {
  std::vector<std::string>& positional = result_.positional_;
  for (std::size_t at = 0; at < words.size(); ++at) {
    const std::string_view word = words[at];
    const auto from = [&](std::size_t first) {
      positional.insert(positional.end(), words.begin() + static_cast<std::ptrdiff_t>(first),
                        words.end());
    };
    if (word.size() < 2 || word[0] != '-') {
      if (stop_at_positional) {
        from(at);
        return Ok{};
      }
      positional.emplace_back(word);
    } else if (word == "--") {
      from(at + 1);
      return Ok{};
    } else if (word[1] == '-') {
      POSTERN_TRY(long_option(words, at));
    } else {
      POSTERN_TRY(letters(words, at));
    }
  }
  return Ok{};
}

Outcome<> Parser::environment(const char* const* environment) {
  // One pass over the environment: it is short, where the product of options, keys and prefixes
  // is not.
  struct Found {
    std::size_t option;
    std::size_t prefix;
    std::string_view key;
    std::string_view variable;
    std::string_view value;
  };

  std::vector<Found> found;
  for (; environment != nullptr && *environment != nullptr; ++environment) {
    const std::string_view entry = *environment;
    for (std::size_t prefix = 0; prefix < kPrefixes.size(); ++prefix) {
      const auto equals = entry.find('=');
      if (!entry.starts_with(kPrefixes[prefix]) || equals == entry.npos) {
        continue;
      }
      const auto key = entry.substr(kPrefixes[prefix].size(), equals - kPrefixes[prefix].size());
      const auto value = entry.substr(equals + 1);
      const std::size_t option =
          find([&](const Option& candidate) { return has_key(candidate.keys, key); });
      if (option != kNone && !trimmed(value).empty()) {
        found.push_back({option, prefix, key, entry.substr(0, equals), value});
      }
    }
  }
  // The strongest prefix first; within a prefix the order of the environment.
  std::stable_sort(found.begin(), found.end(), [](const Found& a, const Found& b) {
    return std::pair(a.option, a.prefix) < std::pair(b.option, b.prefix);
  });
  for (auto entry = found.begin(); entry != found.end(); ++entry) {
    const Option& option = table_[entry->option];
    // Several keys of an adding option (BIND, BINDPATH) all count; one key in several prefixes,
    // or several keys of another option, once.
    const bool superseded = std::any_of(found.begin(), entry, [&](const Found& other) {
      return other.option == entry->option && (!option.environment_adds || other.key == entry->key);
    });
    const auto contradicted = std::find_if(found.begin(), entry, [&](const Found& other) {
      return other.option == entry->option && other.key == entry->key &&
             other.value != entry->value;
    });
    if (contradicted != entry) {
      result_.warnings_.push_back(std::string(contradicted->variable) + " and " +
                                  std::string(entry->variable) + " differ: the first one counts");
    }
    const bool beaten = result_.values_[entry->option].command_line && !option.environment_adds;
    if (!superseded && !beaten) {
      POSTERN_TRY(set(entry->option, entry->value, entry->variable));
    }
  }
  return Ok{};
}

std::size_t Arguments::index(std::string_view name) const {
  std::size_t found = table_.size();
  for (std::size_t i = 0; i < table_.size(); ++i) {
    const bool named = table_[i].name == name;
    const bool ours = (table_[i].commands & commands_) != 0;
    if (named && (ours || found == table_.size())) {
      found = i;
    }
  }
  POSTERN_CHECK(found < table_.size());
  return found;
}

bool Arguments::given(std::string_view name) const {
  const std::size_t i = index(name);
  return table_[i].kind == Kind::kFlag ? values_[i].on : !values_[i].list.empty();
}

std::string_view Arguments::text(std::string_view name) const {
  const auto& list = values_[index(name)].list;
  return list.empty() ? std::string_view{} : std::string_view(list.back());
}

const std::vector<std::string>& Arguments::values(std::string_view name) const {
  return values_[index(name)].list;
}

bool Arguments::on_command_line(std::string_view name) const {
  return values_[index(name)].command_line;
}

Outcome<Arguments> parse(std::span<const Option> table,
                         CommandSet commands,
                         std::span<const std::string> words,
                         const char* const* environment,
                         bool stop_at_positional) {
  Parser parser(table, commands);
  POSTERN_TRY(parser.command_line(words, stop_at_positional));
  POSTERN_TRY(parser.environment(environment));
  return parser.take();
}

std::string describe(std::span<const Option> table, CommandSet commands) {
  const auto shown = [&](const Option& option) {
    return (option.commands & commands) != 0 && !option.help.empty() && option.refusal.empty();
  };
  const auto label = [](const Option& option) {
    std::string text = option.letter != 0 ? "  " : "      ";
    text += spelled(option);
    if (!option.value.empty()) {
      text += ' ';
      text += option.value;
    }
    return text;
  };
  std::size_t width = 0;
  for (const Option& option : table) {
    width = std::max(width, shown(option) ? label(option).size() : 0);
  }
  std::string text;
  for (const Option& option : table) {
    if (shown(option)) {
      std::string line = label(option);
      line.resize(width + 2, ' ');
      text += line;
      text += option.help;
      text += '\n';
    }
  }
  return text;
}

}  // namespace postern::option

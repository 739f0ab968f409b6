// Expansion of words (POSIX.1-2017 XCU 2.6, bash(1) EXPANSION).
#include <algorithm>
#include <array>
#include <cctype>
#include <climits>
#include <cstdint>
#include <cstdlib>

#include <fnmatch.h>
#include <glob.h>
#include <pwd.h>
#include <unistd.h>

#include "frontend/shell/arithmetic.h"
#include "frontend/shell/machine.h"

namespace postern::shell {
namespace {

constexpr std::string_view kPatternCharacters = "*?[]\\";

constexpr int kMaxAlternatives = 32;
constexpr int kMostFolders = 16;  // of a pattern of paths that is looked up in the start itself
constexpr int kMaxFolders = 128;

// {a,b} and {1..3} of one unquoted text, at its first place; false where there is none.
bool brace_choices(const std::string& text,
                   std::size_t& begin,
                   std::size_t& end,
                   std::vector<std::string>& choices) {
  for (begin = text.find('{'); begin != std::string::npos; begin = text.find('{', begin + 1)) {
    int depth = 0;
    std::vector<std::size_t> commas;
    for (end = begin; end < text.size(); ++end) {
      if (text[end] == '{') {
        ++depth;
      } else if (text[end] == ',' && depth == 1) {
        commas.push_back(end);
      } else if (text[end] == '}' && --depth == 0) {
        break;
      }
    }
    if (end >= text.size()) {
      return false;
    }
    const std::string inside = text.substr(begin + 1, end - begin - 1);
    if (!commas.empty()) {
      std::size_t from = begin + 1;
      commas.push_back(end);
      for (const std::size_t comma : commas) {
        choices.push_back(text.substr(from, comma - from));
        from = comma + 1;
      }
      return true;
    }
    const auto dots = inside.find("..");
    if (dots != std::string::npos && dots > 0) {
      char* stop = nullptr;
      const long first = std::strtol(inside.c_str(), &stop, 10);
      const bool is_number = stop == inside.c_str() + dots;
      const long last = std::strtol(inside.c_str() + dots + 2, &stop, 10);
      if (is_number && *stop == '\0' && stop != inside.c_str() + dots + 2 &&
          std::labs(first - last) < 10000) {
        for (long i = first;; i += first <= last ? 1 : -1) {
          choices.push_back(std::to_string(i));
          if (i == last) {
            return true;
          }
        }
      }
    }
  }
  return false;
}

void expand_braces(const Word& word, std::vector<Word>& out, int depth) {
  for (std::size_t i = 0; i < word.parts.size() && depth < 8; ++i) {
    const Part& part = word.parts[i];
    std::size_t begin = 0;
    std::size_t end = 0;
    std::vector<std::string> choices;
    if (part.kind != Part::Kind::kText || part.quoted ||
        !brace_choices(part.text, begin, end, choices)) {
      continue;
    }
    for (const std::string& choice : choices) {
      Word copy = word;
      copy.parts[i].text = part.text.substr(0, begin) + choice + part.text.substr(end + 1);
      expand_braces(copy, out, depth + 1);
    }
    return;
  }
  out.push_back(word);
}

Field& last(std::vector<Field>& fields) {
  if (fields.empty()) {
    fields.emplace_back();
  }
  return fields.back();
}

}  // namespace

// -------------------------------------------------------------------------------------- whole
// words

std::vector<std::string> Machine::fields(const std::vector<Word>& words) {
  std::vector<std::string> out;
  for (const Word& original : words) {
    std::vector<Word> choices;
    expand_braces(original, choices, 0);
    for (const Word& word : choices) {
      for (const Field& field : expand(word, false)) {
        std::vector<Field> parts;
        split(field, parts);
        for (const Field& part : parts) {
          globbed(part, out);
        }
      }
      if (flow_ != Flow::kNormal) {
        return {};
      }
    }
  }
  return out;
}

std::string Machine::text_of(const Word& word) {
  std::string out;
  for (const Field& field : expand(word, true)) {
    out += (out.empty() ? "" : " ") + field.text;
  }
  return out;
}

std::string Machine::pattern_of(const Word& word) {
  std::string out;
  for (const Field& field : expand(word, true)) {
    for (std::size_t i = 0; i < field.text.size(); ++i) {
      const bool literal =
          field.origin[i] == 'q' &&
          (kPatternCharacters.find(field.text[i]) != std::string_view::npos ||
           std::string_view("()|+@!-^").find(field.text[i]) != std::string_view::npos);
      out += literal ? "\\" : "";
      out += field.text[i];
    }
  }
  return out;
}

// Home directories stand at the start of a word, and in assignments behind each colon.
std::vector<Field> Machine::expand(const Word& word, bool assignment) {
  std::vector<Field> out;
  for (std::size_t i = 0; i < word.parts.size() && flow_ == Flow::kNormal; ++i) {
    const Part& part = word.parts[i];
    if (part.kind == Part::Kind::kText && !part.quoted &&
        part.text.find('~') != std::string::npos) {
      for (std::size_t at = 0; at < part.text.size(); ++at) {
        const bool starts =
            (i == 0 && at == 0) || (assignment && at > 0 && part.text[at - 1] == ':');
        const char next = at + 1 < part.text.size() ? part.text[at + 1] : '\0';
        const bool ends = next == '/' || (next == '\0' && i + 1 == word.parts.size()) ||
                          (assignment && next == ':');
        if (part.text[at] == '~' && starts && ends && find("HOME") != nullptr) {
          last(out).add(value("HOME"), 'q');
        } else {
          last(out).add(part.text.substr(at, 1), 'l');
        }
      }
    } else {
      expand_part(part, out);
    }
  }
  return out;
}

void Machine::expand_part(const Part& part, std::vector<Field>& out) {
  const char origin = part.quoted ? 'q' : 'e';
  switch (part.kind) {
    case Part::Kind::kText: {
      Field& field = last(out);
      field.add(part.text, part.quoted ? 'q' : 'l');
      field.has_quotes = field.has_quotes || part.quoted;
      return;
    }
    case Part::Kind::kParameter:
      expand_parameter(part, out);
      return;
    case Part::Kind::kCommand: {
      const std::string text = capture(*part.command);
      Field& field = last(out);
      field.add(text, origin);
      field.has_quotes = field.has_quotes || part.quoted;
      return;
    }
    case Part::Kind::kArithmetic:
      if (const auto number = arithmetic(*part.argument)) {
        last(out).add(std::to_string(*number), origin);
      }
      return;
  }
}

// ----------------------------------------------------------------------------------------
// parameters

std::optional<std::string> Machine::special(std::string_view name) const {
  if (name == "?") {
    return std::to_string(status_);
  }
  if (name == "#") {
    return std::to_string(arguments_.size());
  }
  if (name == "$") {
    return std::to_string(::getpid());
  }
  if (name == "!") {
    return last_background_ > 0 ? std::optional(std::to_string(last_background_)) : std::nullopt;
  }
  if (name == "-") {
    return std::string(stop_on_error_ ? "e" : "") + (stop_on_unset_ ? "u" : "");
  }
  if (name == "0") {
    return name_;
  }
  if (name == "@" || name == "*") {
    std::string joined;
    for (const std::string& one : arguments_) {
      joined += (&one == &arguments_.front() ? "" : " ") + one;
    }
    return arguments_.empty() ? std::nullopt : std::optional(joined);
  }
  if (!name.empty() && name[0] >= '1' && name[0] <= '9') {
    const std::size_t number = std::strtoul(std::string(name).c_str(), nullptr, 10);
    return number <= arguments_.size() ? std::optional(arguments_[number - 1]) : std::nullopt;
  }
  return std::nullopt;
}

std::optional<std::string> Machine::value_of(const Part& part) {
  const char first = part.text[0];
  if (!(first == '_' || std::isalpha(static_cast<unsigned char>(first)) != 0)) {
    return special(part.text);
  }
  std::string name = part.text;
  if (part.indirect) {
    name = value(name);
    if (!is_identifier(name)) {
      return special(name);
    }
  }
  if (name == "BASH_SOURCE" || name == "LINENO" || name == "RANDOM" || name == "SECONDS" ||
      name == "UID" || name == "EUID" || name == "PPID" || name == "BASH_VERSION") {
    if (find(name) == nullptr) {
      if (name == "BASH_SOURCE") {
        return sources_.empty() ? name_ : sources_.back();
      }
      if (name == "LINENO") {
        return std::to_string(line_);
      }
      if (name == "UID" || name == "EUID") {
        return std::to_string(name == "UID" ? ::getuid() : ::geteuid());
      }
      if (name == "PPID") {
        return std::to_string(::getppid());
      }
      if (name == "BASH_VERSION") {
        return std::string("5.2.0(1)-postern");
      }
      return std::to_string(name == "RANDOM" ? ::random() & 32767 : 0);
    }
  }
  const Variable* const variable = find(name);
  if (variable == nullptr || !variable->is_set) {
    return std::nullopt;
  }
  if (!variable->is_array) {
    const bool other = part.index != nullptr && arithmetic(*part.index).value_or(0) != 0;
    return other ? std::nullopt : std::optional(variable->value);
  }
  std::int64_t index = part.index != nullptr ? arithmetic(*part.index).value_or(0) : 0;
  if (index < 0 && !variable->elements.empty()) {
    index += variable->elements.rbegin()->first + 1;
  }
  const auto found = variable->elements.find(index);
  return found != variable->elements.end() ? std::optional(found->second) : std::nullopt;
}

namespace {

// "@" or "*" if the part is "$@", ${NAME[@]} or one of their like; "" if it is none of them.
std::string list_index(const Part& part) {
  if (part.text == "@" || part.text == "*") {
    return part.text;
  }
  if (part.index == nullptr || part.index->parts.size() != 1) {
    return "";
  }
  const std::string& index = part.index->parts[0].text;
  return index == "@" || index == "*" ? index : "";
}

}  // namespace

// ${NAME[@]:FROM:COUNT}
void Machine::take_slice(const Part& part, bool arguments, std::vector<std::string>& values) {
  const auto number = [&](const Word& word) {
    return static_cast<std::size_t>(std::max<std::int64_t>(0, arithmetic(word).value_or(0)));
  };
  const std::size_t from = number(*part.argument);
  const std::size_t start = arguments && from > 0 ? from - 1 : from;
  const std::size_t count = part.replacement != nullptr ? number(*part.replacement) : values.size();
  const std::size_t begin = std::min(start, values.size());
  values.assign(
      values.begin() + static_cast<std::ptrdiff_t>(begin),
      values.begin() + static_cast<std::ptrdiff_t>(std::min(values.size(), begin + count)));
}

// Several fields, or one if "*" stands in quotes.
void Machine::add_list(const Part& part,
                       const std::string& index,
                       const std::vector<std::string>& values,
                       std::vector<Field>& out) {
  if (part.quoted && index == "*") {
    std::string joined;
    const std::string separator = find("IFS") != nullptr ? value("IFS").substr(0, 1) : " ";
    for (std::size_t i = 0; i < values.size(); ++i) {
      joined += (i == 0 ? "" : separator) + values[i];
    }
    last(out).add(joined, 'q');
    last(out).has_quotes = true;
    return;
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (i > 0) {
      out.emplace_back();
    }
    last(out).add(values[i], part.quoted ? 'q' : 'e');
    last(out).has_quotes = last(out).has_quotes || part.quoted;
  }
}

// False: it is no list.
bool Machine::expand_list(const Part& part, std::vector<Field>& out) {
  const std::string index = list_index(part);
  if (index.empty()) {
    return false;
  }
  const bool arguments = part.text == "@" || part.text == "*";
  std::vector<std::string> values = arguments ? arguments_ : std::vector<std::string>{};
  std::vector<std::string> keys;
  if (const Variable* const variable = arguments ? nullptr : find(part.text); variable != nullptr) {
    for (const auto& [key, text] : variable->elements) {
      values.push_back(text);
      keys.push_back(std::to_string(key));
    }
    if (!variable->is_array && variable->is_set) {
      values.push_back(variable->value);
      keys.emplace_back("0");
    }
  }
  if (part.length) {
    last(out).add(std::to_string(values.size()), 'q');
    return true;
  }
  values = part.indirect ? keys : values;
  if (part.operation.find_first_of("-=+?") != std::string::npos) {
    const bool is_alternative = part.operation.back() == '+';
    if (is_alternative != values.empty()) {
      for (Field& field : expand(*part.argument, false)) {
        last(out).text += field.text;
        last(out).origin += field.origin;
      }
      return true;
    }
    values = is_alternative ? std::vector<std::string>{} : values;
  } else if (part.operation == ":") {
    take_slice(part, arguments, values);
  } else if (!part.operation.empty()) {
    for (std::string& one : values) {
      one = apply(part, one);
    }
  }
  add_list(part, index, values, out);
  return true;
}

void Machine::expand_parameter(const Part& part, std::vector<Field>& out) {
  if (expand_list(part, out)) {
    return;
  }
  const std::optional<std::string> found = value_of(part);
  const char origin = part.quoted ? 'q' : 'e';
  if (part.quoted) {
    last(out).has_quotes = true;
  }
  if (part.length) {
    last(out).add(std::to_string(found.value_or("").size()), origin);
    return;
  }
  const std::string& operation = part.operation;
  const bool with_colon = operation.size() == 2 && operation[0] == ':';
  const char kind = operation.empty() ? '\0' : operation.back();
  const bool is_default = (operation.size() == 1 || with_colon) &&
                          std::string_view("-=+?").find(kind) != std::string_view::npos &&
                          kind != '\0';
  if (!is_default) {
    if (!found && stop_on_unset_) {
      fail(Flow::kError, part.text + ": unbound variable");
      return;
    }
    last(out).add(operation.empty() ? found.value_or("") : apply(part, found.value_or("")), origin);
    return;
  }
  const bool is_missing = !found || (with_colon && found->empty());
  if (kind == '+' ? !is_missing : (is_missing && kind == '-')) {
    const std::vector<Field> operand = expand(*part.argument, false);
    for (std::size_t i = 0; i < operand.size(); ++i) {
      if (i > 0) {
        out.emplace_back();
      }
      Field& field = last(out);
      field.text += operand[i].text;
      std::string origins = operand[i].origin;
      std::replace(origins.begin(), origins.end(), 'l', part.quoted ? 'q' : 'e');
      field.origin += origins;
      field.has_quotes = field.has_quotes || operand[i].has_quotes;
    }
    return;
  }
  if (!is_missing) {
    last(out).add(kind == '+' ? "" : *found, origin);
    return;
  }
  if (kind == '=') {
    const std::string text = text_of(*part.argument);
    set(part.text, text);
    last(out).add(text, origin);
  } else if (kind == '?') {
    const std::string text = text_of(*part.argument);
    fail(Flow::kError, part.text + ": " + (text.empty() ? "parameter not set" : text));
  }
}

std::string Machine::apply(const Part& part, const std::string& value) {
  switch (part.operation[0]) {
    case '#':
    case '%':
      return remove_pattern(part, value);
    case '/':
      return replace(part, value);
    case '^':
    case ',':
      return change_case(part, value);
    case ':':
      return substring(part, value);
    default:
      return value;
  }
}

std::string Machine::remove_pattern(const Part& part, const std::string& value) {
  const std::string pattern = pattern_of(*part.argument);
  const bool longest = part.operation.size() == 2;
  const bool front = part.operation[0] == '#';
  for (std::size_t i = 0; i <= value.size(); ++i) {
    const std::size_t length = longest ? value.size() - i : i;
    const std::string piece = front ? value.substr(0, length) : value.substr(value.size() - length);
    if (matches(pattern, piece)) {
      return front ? value.substr(length) : value.substr(0, value.size() - length);
    }
  }
  return value;
}

std::string Machine::replace(const Part& part, const std::string& value) {
  const std::string pattern = pattern_of(*part.argument);
  const std::string with = part.replacement != nullptr ? text_of(*part.replacement) : "";
  const bool everywhere = part.operation == "//";
  std::string out;
  for (std::size_t at = 0; at <= value.size();) {
    std::size_t length = std::string::npos;
    if (part.operation != "/#" || at == 0) {
      for (std::size_t try_length = value.size() - at; !pattern.empty() && try_length > 0;
           --try_length) {
        if ((part.operation != "/%" || at + try_length == value.size()) &&
            matches(pattern, value.substr(at, try_length))) {
          length = try_length;
          break;
        }
      }
    }
    if (length != std::string::npos) {
      out += with;
      at += length;
      if (!everywhere) {
        return out + value.substr(at);
      }
    } else {
      if (at < value.size()) {
        out += value[at];
      }
      ++at;
    }
  }
  return out;
}

std::string Machine::change_case(const Part& part, const std::string& value) {
  std::string out = value;
  const std::size_t count =
      part.operation.size() == 2 ? out.size() : std::min<std::size_t>(1, out.size());
  for (std::size_t i = 0; i < count; ++i) {
    const auto c = static_cast<unsigned char>(out[i]);
    out[i] = static_cast<char>(part.operation[0] == '^' ? std::toupper(c) : std::tolower(c));
  }
  return out;
}

std::string Machine::substring(const Part& part, const std::string& value) {
  const auto size = static_cast<std::int64_t>(value.size());
  std::int64_t offset = arithmetic(*part.argument).value_or(0);
  offset = offset < 0 ? std::max<std::int64_t>(0, size + offset) : std::min(offset, size);
  std::int64_t length = size - offset;
  if (part.replacement != nullptr) {
    const std::int64_t given = arithmetic(*part.replacement).value_or(0);
    length = given < 0 ? std::max<std::int64_t>(0, length + given) : std::min(given, length);
  }
  return value.substr(static_cast<std::size_t>(offset), static_cast<std::size_t>(length));
}

std::optional<std::int64_t> Machine::arithmetic(const std::string& text) {
  const ArithmeticVariables variables = {
      .get = [this](std::string_view name) { return value(name); },
      .set = [this](std::string_view name,
                    std::int64_t number) { set(name, std::to_string(number)); }};
  if (flow_ != Flow::kNormal) {
    return std::nullopt;
  }
  const auto number = evaluate_arithmetic(text, variables);
  if (!number) {
    fail(Flow::kError, "arithmetic: \"" + text + "\" cannot be evaluated");
  }
  return number;
}

// --------------------------------------------------------------------------------- splitting,
// globs

// XCU 2.6.5: only the results of unquoted expansions are split.
void Machine::split(const Field& field, std::vector<Field>& out) const {
  const std::string separators = find("IFS") != nullptr ? value("IFS") : " \t\n";
  Field current;
  current.has_quotes = field.has_quotes;
  bool open = field.has_quotes;
  for (std::size_t i = 0; i < field.text.size(); ++i) {
    const char c = field.text[i];
    if (field.origin[i] != 'e' || separators.find(c) == std::string::npos) {
      current.add(std::string_view(&c, 1), field.origin[i]);
      open = true;
      continue;
    }
    const bool is_space = c == ' ' || c == '\t' || c == '\n';
    if (open || !is_space) {
      out.push_back(std::exchange(current, {}));
      open = false;
    }
    // Blanks around another separator belong to it.
    while (is_space && i + 1 < field.text.size() && field.origin[i + 1] == 'e' &&
           separators.find(field.text[i + 1]) != std::string::npos &&
           std::string_view(" \t\n").find(field.text[i + 1]) != std::string_view::npos) {
      ++i;
    }
  }
  if (open || current.has_quotes) {
    out.push_back(std::move(current));
  }
}

// fnmatch(3) takes up to 64 KiB of stack for each pair of parentheses.
bool Machine::matches(const std::string& pattern, const std::string& text) {
  int alternatives = 0;
  for (std::size_t at = pattern.find('('); at != std::string::npos;
       at = pattern.find('(', at + 1)) {
    alternatives +=
        at > 0 && std::string_view("?*+@!").find(pattern[at - 1]) != std::string_view::npos;
  }
  return (alternatives == 0 || allowed("it uses a pattern with alternatives")) &&
         alternatives <= kMaxAlternatives && account(pattern.size() + text.size()) &&
         ::fnmatch(pattern.c_str(), text.c_str(), FNM_EXTMATCH) == 0;
}

void Machine::globbed(const Field& field, std::vector<std::string>& out) {
  std::string pattern;
  bool has_pattern = false;
  for (std::size_t i = 0; i < field.text.size(); ++i) {
    const bool special = kPatternCharacters.find(field.text[i]) != std::string_view::npos;
    if (special && field.origin[i] == 'q') {
      pattern += '\\';
    }
    has_pattern = has_pattern || (special && field.origin[i] != 'q' && field.text[i] != ']' &&
                                  field.text[i] != '\\');
    pattern += field.text[i];
  }
  // glob(3) calls itself for each folder, with a copy of the pattern on the stack.
  const auto folders = std::count(pattern.begin(), pattern.end(), '/');
  if (!has_pattern || no_globbing_ || reach_ == Reach::kVariables || folders > kMaxFolders ||
      pattern.size() >= PATH_MAX ||
      (folders > kMostFolders && !allowed("it looks for files in deep folders"))) {
    out.push_back(field.text);
    return;
  }
  glob_t found = {};
  if (::glob(pattern.c_str(), 0, nullptr, &found) == 0) {
    for (std::size_t i = 0; i < found.gl_pathc; ++i) {
      out.emplace_back(found.gl_pathv[i]);
    }
  } else {
    out.push_back(field.text);
  }
  ::globfree(&found);
}

}  // namespace postern::shell

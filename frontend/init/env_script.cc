#include "frontend/init/env_script.h"

#include <algorithm>
#include <array>
#include <vector>

#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>

#include "protocol/base/unique_fd.h"

namespace postern::init {
namespace {

constexpr int kMaxNesting = 8;  // of `.` and of ${A:-${B}}

constexpr bool is_blank(char c) {
  return c == ' ' || c == '\t';
}

constexpr bool is_name_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

// Characters that stand for themselves outside quotes, whatever comes next.
constexpr bool is_plain(char c) {
  return is_name_character(c) || c == '.' || c == '/' || c == ':' || c == '@' || c == '%' ||
         c == '+' || c == ',' || c == '-' || c == '=' || c == ']';
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && is_blank(text.front())) {
    text.remove_prefix(1);
  }
  while (!text.empty() && is_blank(text.back())) {
    text.remove_suffix(1);
  }
  return text;
}

// One line of a script, or one value, read from left to right.
class Cursor {
 public:
  Cursor(std::string_view text, const Environment& environment) noexcept
      : text_(text), environment_(environment) {}

  void skip_blanks() {
    while (at_ < text_.size() && is_blank(text_[at_])) {
      ++at_;
    }
  }

  // At the end of the command: end of line or a comment.
  bool at_end() {
    skip_blanks();
    return at_ == text_.size() || text_[at_] == '#';
  }

  [[nodiscard]] bool at_separator() const { return at_ < text_.size() && text_[at_] == ';'; }

  bool take(std::string_view word) {
    if (text_.substr(at_).starts_with(word)) {
      at_ += word.size();
      return true;
    }
    return false;
  }

  // The name up to, not including, the first character that cannot be part of one.
  std::string_view name() {
    const std::size_t start = at_;
    while (at_ < text_.size() && is_name_character(text_[at_])) {
      ++at_;
    }
    const std::string_view word = text_.substr(start, at_ - start);
    return is_identifier(word) ? word : std::string_view{};
  }

  struct Word {
    std::string value;
    bool split = false;  // an expansion outside quotes whose result a shell might split or glob
    bool bare = false;   // an expansion outside quotes
  };

  // One word: plain characters, quotes, expansions; up to a blank or ';'.
  bool word(Word& out) {
    while (at_ < text_.size() && !is_blank(text_[at_]) && text_[at_] != ';') {
      const char c = text_[at_];
      if (c == '"') {
        ++at_;
        if (!quoted(out.value)) {
          return false;
        }
      } else if (c == '\'') {
        const auto end = text_.find('\'', at_ + 1);
        if (end == std::string_view::npos) {
          return false;
        }
        out.value += text_.substr(at_ + 1, end - at_ - 1);
        at_ = end + 1;
      } else if (c == '$') {
        std::string value;
        if (!expansion(value, 0)) {
          return false;
        }
        out.bare = true;
        out.split =
            out.split || value.empty() || value.find_first_of(" \t\n*?[\\") != std::string::npos;
        out.value += value;
      } else if (c == '\\' && at_ + 1 < text_.size()) {
        out.value += text_[at_ + 1];
        at_ += 2;
      } else if (is_plain(c)) {
        out.value += c;
        ++at_;
      } else {
        return false;
      }
    }
    return true;
  }

  // The text after an opening double quote, up to and over the closing one.
  bool quoted(std::string& out) {
    while (at_ < text_.size()) {
      if (text_[at_] == '"') {
        ++at_;
        return true;
      }
      if (!quoted_character(out, 0)) {
        return false;
      }
    }
    return false;
  }

  // A whole text as if in double quotes.
  bool all_quoted(std::string& out) {
    while (at_ < text_.size()) {
      if (!quoted_character(out, 0)) {
        return false;
      }
    }
    return true;
  }

 private:
  // XCU 2.2.3: in double quotes only $ ` \ are special, and a backslash escapes only $ ` " \.
  bool quoted_character(std::string& out, int depth) {
    const char c = text_[at_];
    if (c == '$') {
      return expansion(out, depth);
    }
    if (c == '`') {
      return false;
    }
    if (c == '\\' && at_ + 1 < text_.size()) {
      const char next = text_[at_ + 1];
      if (next == '$' || next == '`' || next == '"' || next == '\\') {
        out += next;
        at_ += 2;
        return true;
      }
    }
    out += c;
    ++at_;
    return true;
  }

  bool expansion(std::string& out, int depth) {
    ++at_;
    const bool braced = at_ < text_.size() && text_[at_] == '{';
    if (braced) {
      ++at_;
    }
    const std::string_view variable = name();
    if (variable.empty()) {
      return false;
    }
    const std::string* const value = environment_.find(variable);
    if (!braced) {
      out += value != nullptr ? *value : std::string();
      return true;
    }
    std::string otherwise;
    if (take(":-")) {
      if (!default_word(otherwise, depth + 1)) {
        return false;
      }
    } else if (!take("}")) {
      return false;
    }
    out += value != nullptr && !value->empty() ? *value : otherwise;
    return true;
  }

  // WORD of ${NAME:-WORD}, over the closing brace. Image builders write "${NAME:-"WORD"}": shells
  // agree on what that means as long as a backslash precedes only what it escapes in both states.
  bool default_word(std::string& out, int depth) {
    if (depth > kMaxNesting) {
      return false;
    }
    bool in_quotes = false;
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '"') {
        in_quotes = !in_quotes;
        ++at_;
      } else if (c == '}' && !in_quotes) {
        ++at_;
        return true;
      } else if (c == '\'' && !in_quotes) {
        return false;
      } else if (c == '\\') {
        const char next = at_ + 1 < text_.size() ? text_[at_ + 1] : '\0';
        if (next != '$' && next != '`' && next != '"' && next != '\\') {
          return false;
        }
        out += next;
        at_ += 2;
      } else if (!quoted_character(out, depth)) {
        return false;
      }
    }
    return false;
  }

  std::string_view text_;
  std::size_t at_ = 0;
  const Environment& environment_;
};

// A line in a branch that is not taken: it must be certain where it ends, so no here-documents, no
// open quotes, no command substitution, and none of the words that open or close a block.
bool may_be_skipped(std::string_view line) {
  char quote = '\0';
  std::string word;
  const auto closes_block = [&word] {
    static constexpr std::array<std::string_view, 14> kWords = {
        "if", "fi",   "then", "else",  "elif",  "case", "esac",
        "do", "done", "for",  "while", "until", "{",    "}"};
    return std::find(kWords.begin(), kWords.end(), word) != kWords.end();
  };
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quote == '\'') {
      quote = c == '\'' ? '\0' : quote;
    } else if (c == '\\') {
      ++i;
    } else if (c == '`' || (c == '(')) {
      return false;
    } else if (quote == '"') {
      quote = c == '"' ? '\0' : quote;
    } else if (c == '"' || c == '\'') {
      quote = c;
      word += c;
    } else if (c == '<' || c == ')') {
      return false;
    } else if (is_blank(c) || c == ';' || c == '&' || c == '|') {
      if (closes_block()) {
        return false;
      }
      word.clear();
    } else if (c == '#' && word.empty()) {
      return quote == '\0';
    } else {
      word += c;
    }
  }
  return quote == '\0' && !closes_block();
}

class Interpreter {
 public:
  Interpreter(Environment& environment, int depth) noexcept
      : environment_(environment), depth_(depth) {}

  bool run(std::string_view script) {
    while (!script.empty()) {
      std::string joined;
      if (!line(next_line(script, joined))) {
        return false;
      }
    }
    return blocks_.empty();
  }

 private:
  struct Block {
    bool active;  // the enclosing branch is being executed
    bool taken;   // … and so is this one
    bool in_else;
  };

  // One logical line: a backslash at the end of a line that is no comment joins the next one.
  static std::string_view next_line(std::string_view& script, std::string& joined) {
    for (;;) {
      const auto end = script.find('\n');
      std::string_view line = script.substr(0, end);
      script.remove_prefix(end == std::string_view::npos ? script.size() : end + 1);
      const bool comment = joined.empty() && trimmed(line).starts_with('#');
      if (comment || !line.ends_with('\\') || script.empty()) {
        joined += line;
        return trimmed(joined);
      }
      line.remove_suffix(1);
      joined += line;
    }
  }

  [[nodiscard]] bool executing() const { return blocks_.empty() || blocks_.back().taken; }

  bool line(std::string_view text) {
    if (text.empty() || text.starts_with('#')) {
      return true;
    }
    if (text == "fi") {
      if (blocks_.empty()) {
        return false;
      }
      blocks_.pop_back();
      return true;
    }
    if (text == "else") {
      if (blocks_.empty() || blocks_.back().in_else) {
        return false;
      }
      Block& block = blocks_.back();
      block = {block.active, block.active && !block.taken, true};
      return true;
    }
    if (text.starts_with("if ")) {
      return condition(text.substr(3));
    }
    return executing() ? command(text) : may_be_skipped(text);
  }

  bool condition(std::string_view text) {
    if (!text.ends_with("then")) {
      return false;
    }
    text = trimmed(text.substr(0, text.size() - 4));
    if (!text.ends_with(';')) {
      return false;
    }
    text = trimmed(text.substr(0, text.size() - 1));
    if (!executing()) {
      blocks_.push_back({false, false, false});
      return may_be_skipped(text);
    }
    bool holds = false;
    if (!test(text, holds)) {
      return false;
    }
    blocks_.push_back({true, holds, false});
    return true;
  }

  bool test(std::string_view text, bool& holds) {
    Cursor cursor(text, environment_);
    const bool bracket = cursor.take("[ ");
    if (!bracket && !cursor.take("test ")) {
      return false;
    }
    cursor.skip_blanks();
    Cursor::Word option;
    Cursor::Word operand;
    if (!cursor.word(option) || cursor.at_end()) {
      return false;
    }
    if (!cursor.word(operand) || operand.bare || operand.value.starts_with('=')) {
      return false;
    }
    cursor.skip_blanks();
    if ((bracket && !cursor.take("]")) || !cursor.at_end()) {
      return false;
    }
    struct stat info = {};
    const bool exists = option.value.size() == 2 && option.value[0] == '-' &&
                        std::string_view("def").find(option.value[1]) != std::string_view::npos &&
                        ::stat(operand.value.c_str(), &info) == 0;
    if (option.value == "-z") {
      holds = operand.value.empty();
    } else if (option.value == "-n") {
      holds = !operand.value.empty();
    } else if (option.value == "-d") {
      holds = exists && S_ISDIR(info.st_mode);
    } else if (option.value == "-f") {
      holds = exists && S_ISREG(info.st_mode);
    } else if (option.value == "-e") {
      holds = exists;
    } else {
      return false;
    }
    return true;
  }

  bool command(std::string_view text) {
    Cursor cursor(text, environment_);
    if (cursor.take("export ")) {
      return each(cursor, &Interpreter::export_one);
    }
    if (cursor.take("unset ")) {
      return each(cursor, &Interpreter::unset_one);
    }
    if (cursor.take(". ")) {
      cursor.skip_blanks();
      Cursor::Word path;
      return cursor.word(path) && !path.bare && cursor.at_end() && include(path.value);
    }
    const std::string_view name = cursor.name();
    return !name.empty() && cursor.take("=") && assign(cursor, name, false) && cursor.at_end();
  }

  bool each(Cursor& cursor, bool (Interpreter::*one)(Cursor&)) {
    if (cursor.at_end()) {
      return false;  // a bare `export` prints
    }
    while (!cursor.at_end()) {
      if (!(this->*one)(cursor)) {
        return false;
      }
    }
    return true;
  }

  bool export_one(Cursor& cursor) {
    const std::string_view name = cursor.name();
    if (name.empty()) {
      return false;
    }
    if (cursor.take("=")) {
      return assign(cursor, name, true);
    }
    if (environment_.find(name) == nullptr) {
      return false;  // exported before it is set: the shell remembers, we do not
    }
    environment_.mark_exported(name);
    return true;
  }

  bool unset_one(Cursor& cursor) {
    const std::string_view name = cursor.name();
    if (name.empty()) {
      return false;
    }
    environment_.unset(name);
    return true;
  }

  bool assign(Cursor& cursor, std::string_view name, bool exported) {
    Cursor::Word word;
    // Shells differ on whether `export A=$B` splits the value: only a value that cannot be split
    // means the same to all. An empty one is fine there: the word is not empty.
    if (name == "IFS" || !cursor.word(word) ||
        (exported && word.split && word.value.find_first_of(" \t\n*?[\\") != std::string::npos)) {
      return false;
    }
    environment_.set(name, std::move(word.value), exported);
    return true;
  }

  bool include(const std::string& path) {
    if (depth_ >= kMaxNesting || path.find('/') == std::string::npos) {
      return false;
    }
    const std::optional<std::string> script = read_script(path.c_str());
    return script && Interpreter(environment_, depth_ + 1).run(*script);
  }

  Environment& environment_;
  int depth_;
  std::vector<Block> blocks_;
};

// The value of `NAME='WORDS'` on a line of its own, quotes removed.
std::optional<std::string> assigned(std::string_view script, std::string_view name) {
  for (std::string_view rest = script; !rest.empty();) {
    const auto end = rest.find('\n');
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    if (line.starts_with(name) && line.substr(name.size()).starts_with('=')) {
      const Environment none;
      Cursor cursor(line.substr(name.size() + 1), none);
      Cursor::Word word;
      return cursor.word(word) && cursor.at_end() ? std::optional(std::move(word.value))
                                                  : std::nullopt;
    }
  }
  return std::nullopt;
}

std::optional<std::vector<std::string>> assigned_words(std::string_view script,
                                                       std::string_view name,
                                                       const Environment& environment) {
  const std::optional<std::string> text = assigned(script, name);
  return text ? split_words(*text, environment) : std::nullopt;
}

// ENTRYPOINT alone takes the arguments; CMD alone is replaced by them; both: they replace CMD.
std::vector<std::string> combined(std::vector<std::string> entrypoint,
                                  const std::vector<std::string>& command,
                                  const std::vector<std::string>& arguments) {
  const std::vector<std::string>& rest = arguments.empty() ? command : arguments;
  entrypoint.insert(entrypoint.end(), rest.begin(), rest.end());
  return entrypoint;
}

std::optional<std::vector<std::string>> our_oci_command(std::string_view script,
                                                        const std::vector<std::string>& arguments) {
  constexpr std::string_view kDefault = "[ $# -gt 0 ] || set -- ";
  constexpr std::string_view kExec = "exec ";
  constexpr std::string_view kArguments = " \"$@\"";
  const Environment none;
  std::vector<std::string> command;
  while (!script.empty()) {
    const auto end = script.find('\n');
    std::string_view line = script.substr(0, end);
    script.remove_prefix(end == std::string_view::npos ? script.size() : end + 1);
    if (line.empty() || line.starts_with('#')) {
      continue;
    }
    if (line.starts_with(kDefault) && command.empty()) {
      auto words = split_words(line.substr(kDefault.size()), none);
      if (!words) {
        return std::nullopt;
      }
      command = *std::move(words);
      continue;
    }
    // `exec "$@"` (no ENTRYPOINT) has the words between its ends missing.
    if (!line.starts_with(kExec) || !line.ends_with(kArguments) || !script.empty()) {
      return std::nullopt;
    }
    line.remove_suffix(kArguments.size());
    auto words = split_words(line.substr(std::min(kExec.size(), line.size())), none);
    return words ? std::optional(combined(*std::move(words), command, arguments)) : std::nullopt;
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::vector<std::string>> split_words(std::string_view line,
                                                    const Environment& environment) {
  std::vector<std::string> words;
  Cursor cursor(line, environment);
  while (!cursor.at_end()) {
    Cursor::Word word;
    if (!cursor.word(word) || word.bare || cursor.at_separator()) {
      return std::nullopt;
    }
    words.push_back(std::move(word.value));
  }
  return words;
}

std::optional<std::vector<std::string>> oci_command(std::string_view script,
                                                    const std::vector<std::string>& arguments,
                                                    const Environment& environment,
                                                    bool shell) {
  if (script.find('\0') != std::string_view::npos || !script.starts_with("#!/bin/sh\n")) {
    return std::nullopt;
  }
  if (auto command = our_oci_command(script, arguments)) {
    return command;
  }
  if (shell) {
    return std::nullopt;
  }
  auto entrypoint = assigned_words(script, "OCI_ENTRYPOINT", environment);
  const auto command = assigned_words(script, "OCI_CMD", environment);
  if (!entrypoint || !command) {
    return std::nullopt;
  }
  return combined(*std::move(entrypoint), *command, arguments);
}

bool interpret(std::string_view script, Environment& environment) {
  return script.find('\0') == std::string_view::npos && Interpreter(environment, 0).run(script);
}

std::optional<std::string> expand_value(std::string_view value, const Environment& environment) {
  std::string out;
  if (!Cursor(value, environment).all_quoted(out)) {
    return std::nullopt;
  }
  return out;
}

std::optional<std::string> read_script(const char* path) {
  const UniqueFd file(::open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  struct stat info = {};
  if (!file.valid() || ::fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode) ||
      static_cast<std::size_t>(info.st_size) > kMaxScriptBytes) {
    return std::nullopt;
  }
  std::string text(static_cast<std::size_t>(info.st_size), '\0');
  std::size_t have = 0;
  while (have < text.size()) {
    const ssize_t got = ::read(file.get(), text.data() + have, text.size() - have);
    if (got <= 0) {
      return std::nullopt;
    }
    have += static_cast<std::size_t>(got);
  }
  return text;
}

}  // namespace postern::init

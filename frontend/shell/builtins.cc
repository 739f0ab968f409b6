// The commands that are part of the shell (POSIX.1-2017 XCU 2.14, bash(1) SHELL BUILTIN COMMANDS).
#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <regex.h>
#include <unistd.h>

#include "frontend/shell/machine.h"

namespace postern::shell {
namespace {

std::optional<long> number(const std::string& text) {
  char* end = nullptr;
  errno = 0;
  const long value = std::strtol(text.c_str(), &end, 10);
  while (end != nullptr && (*end == ' ' || *end == '\t')) {
    ++end;
  }
  return text.empty() || end == text.c_str() || *end != '\0' || errno != 0 ? std::nullopt
                                                                           : std::optional(value);
}

// The escapes of echo -e and printf. False: \c, where the output ends.
bool unescape(std::string_view text, std::string& out) {
  static constexpr std::string_view kFrom = "abefnrtv\\\"'";
  static constexpr std::string_view kTo = "\a\b\x1b\f\n\r\t\v\\\"'";
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\' || i + 1 == text.size()) {
      out += text[i];
      continue;
    }
    const char c = text[++i];
    if (c == 'c') {
      return false;
    }
    if (const auto found = kFrom.find(c); found != std::string_view::npos) {
      out += kTo[found];
    } else if (c >= '0' && c <= '7') {
      unsigned value = 0;
      std::size_t digits = 0;
      for (; digits < 3 && i + digits < text.size() && text[i + digits] >= '0' &&
             text[i + digits] <= '7';
           ++digits) {
        value = value * 8 + static_cast<unsigned>(text[i + digits] - '0');
      }
      i += digits - 1;
      out += static_cast<char>(value);
    } else {
      out += '\\';
      out += c;
    }
  }
  return true;
}

struct Limit {
  char letter;
  int resource;
  rlim_t unit;
};

constexpr int kMaxConditions = 64;  // parentheses of one, and of a regular expression

constexpr std::array<Limit, 11> kLimits = {{{'c', RLIMIT_CORE, 1024},
                                            {'d', RLIMIT_DATA, 1024},
                                            {'f', RLIMIT_FSIZE, 1024},
                                            {'l', RLIMIT_MEMLOCK, 1024},
                                            {'m', RLIMIT_RSS, 1024},
                                            {'n', RLIMIT_NOFILE, 1},
                                            {'s', RLIMIT_STACK, 1024},
                                            {'t', RLIMIT_CPU, 1},
                                            {'u', RLIMIT_NPROC, 1},
                                            {'v', RLIMIT_AS, 1024},
                                            {'q', RLIMIT_MSGQUEUE, 1}}};

}  // namespace

Machine::Builtin Machine::find_builtin(std::string_view name) {
  struct Row {
    std::string_view name;
    Builtin builtin;
  };

  static constexpr auto kBuiltins = std::to_array<Row>({
      {".", &Machine::do_source},
      {":", &Machine::do_nothing},
      {"[", &Machine::do_test},
      {"alias", &Machine::do_nothing},
      {"break", &Machine::do_break},
      {"builtin", &Machine::do_command},
      {"cd", &Machine::do_cd},
      {"command", &Machine::do_command},
      {"complete", &Machine::do_nothing},
      {"continue", &Machine::do_break},
      {"declare", &Machine::do_declare},
      {"echo", &Machine::do_echo},
      {"enable", &Machine::do_nothing},
      {"eval", &Machine::do_eval},
      {"exec", &Machine::do_exec},
      {"exit", &Machine::do_exit},
      {"export", &Machine::do_export},
      {"false", &Machine::do_false},
      {"hash", &Machine::do_nothing},
      {"let", &Machine::do_let},
      {"local", &Machine::do_declare},
      {"printf", &Machine::do_printf},
      {"pwd", &Machine::do_pwd},
      {"read", &Machine::do_read},
      {"readonly", &Machine::do_declare},
      {"return", &Machine::do_return},
      {"set", &Machine::do_set},
      {"shift", &Machine::do_shift},
      {"shopt", &Machine::do_shopt},
      {"source", &Machine::do_source},
      {"test", &Machine::do_test},
      {"trap", &Machine::do_trap},
      {"true", &Machine::do_nothing},
      {"type", &Machine::do_type},
      {"typeset", &Machine::do_declare},
      {"ulimit", &Machine::do_ulimit},
      {"umask", &Machine::do_umask},
      {"unalias", &Machine::do_nothing},
      {"unset", &Machine::do_unset},
      {"wait", &Machine::do_wait},
  });
  const auto* found = std::find_if(kBuiltins.begin(), kBuiltins.end(),
                                   [name](const Row& row) { return row.name == name; });
  return found != kBuiltins.end() ? found->builtin : nullptr;
}

// XCU 2.14: assignments before these stay.
bool Machine::is_special(std::string_view name) {
  static constexpr std::array<std::string_view, 13> kSpecial = {
      ".",      ":",        "break",  "continue", "eval",  "exec", "exit",
      "export", "readonly", "return", "set",      "shift", "unset"};
  return std::find(kSpecial.begin(), kSpecial.end(), name) != kSpecial.end();
}

int Machine::print(std::string_view text) {
  if (!allowed("it prints")) {
    return 1;
  }
  while (!text.empty()) {
    const ssize_t written = ::write(STDOUT_FILENO, text.data(), text.size());
    if (written < 0 && errno != EINTR) {
      return 1;
    }
    text.remove_prefix(written > 0 ? static_cast<std::size_t>(written) : 0);
  }
  return 0;
}

int Machine::do_nothing(const Arguments& /*words*/) {
  return 0;
}

int Machine::do_false(const Arguments& /*words*/) {
  return 1;
}

// ---------------------------------------------------------------------------------- flow of
// control

int Machine::do_break(const Arguments& words) {
  if (loops_ == 0) {
    return 0;
  }
  levels_ = words.size() > 1
                ? static_cast<int>(std::clamp(number(words[1]).value_or(1), 1L, long{loops_}))
                : 1;
  flow_ = words[0] == "break" ? Flow::kBreak : Flow::kContinue;
  status_ = 0;
  return 0;
}

int Machine::do_return(const Arguments& words) {
  status_ = words.size() > 1 ? static_cast<int>(number(words[1]).value_or(2) & 255) : status_;
  flow_ = Flow::kReturn;
  return status_;
}

int Machine::do_exit(const Arguments& words) {
  status_ = words.size() > 1 ? static_cast<int>(number(words[1]).value_or(2) & 255) : status_;
  flow_ = Flow::kExit;
  return status_;
}

int Machine::do_eval(const Arguments& words) {
  std::string script;
  for (std::size_t i = 1; i < words.size(); ++i) {
    script += (i > 1 ? " " : "") + words[i];
  }
  return evaluate(script);
}

int Machine::do_source(const Arguments& words) {
  if (words.size() < 2) {
    say(words[0] + ": a file is needed");
    return 2;
  }
  std::string path = words[1];
  struct stat info = {};
  if (path.find('/') == std::string::npos && reach_ == Reach::kEverything &&
      ::stat(path.c_str(), &info) != 0) {
    path = find_program(path).value_or(path);
  }
  return source(path, Arguments(words.begin() + 2, words.end()));
}

int Machine::do_exec(const Arguments& words) {
  if (words.size() == 1) {
    return 0;  // its redirections stay
  }
  const int status = program(Arguments(words.begin() + 1, words.end()), true);
  if (flow_ == Flow::kNormal) {
    flow_ = Flow::kExit;
    status_ = status;
  }
  return status;
}

int Machine::do_trap(const Arguments& words) {
  if (words.size() > 1) {
    say("trap is not supported in environment scripts");
  }
  return 0;
}

int Machine::do_wait(const Arguments& words) {
  if (!allowed("it waits for processes")) {
    return 1;
  }
  if (words.size() > 1) {
    return wait_for(static_cast<int>(number(words[1]).value_or(0)));
  }
  if (last_background_ > 0) {
    (void)wait_for(std::exchange(last_background_, 0));
  }
  return 0;
}

// command and builtin: the words without functions.
int Machine::do_command(const Arguments& words) {
  std::size_t first = 1;
  bool looks = false;
  for (; first < words.size() && words[first].size() > 1 && words[first][0] == '-'; ++first) {
    looks = looks || words[first].find_first_of("vV") != std::string::npos;
  }
  const Arguments rest(words.begin() + static_cast<std::ptrdiff_t>(first), words.end());
  if (rest.empty()) {
    return 0;
  }
  if (looks) {
    return do_type(words);
  }
  if (const Builtin builtin = find_builtin(rest[0]); builtin != nullptr) {
    return (this->*builtin)(rest);
  }
  return program(rest, false);
}

int Machine::do_type(const Arguments& words) {
  int status = 1;
  for (std::size_t i = 1; i < words.size(); ++i) {
    const std::string& name = words[i];
    if (name.size() > 1 && name[0] == '-') {
      continue;
    }
    const bool known = functions_.find(name) != functions_.end() || find_builtin(name) != nullptr;
    const auto path = known || !allowed("it looks for programs", Reach::kFiles)
                          ? std::nullopt
                          : find_program(name);
    struct stat info = {};
    const bool exists = path && ::stat(path->c_str(), &info) == 0;
    if (!known && !exists) {
      return 1;
    }
    status = print((known ? name : *path) + '\n');
  }
  return status;
}

// ----------------------------------------------------------------------------------------
// variables

int Machine::do_export(const Arguments& words) {
  bool removes = false;
  for (std::size_t i = 1; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word == "-n") {
      removes = true;
      continue;
    }
    if (word == "-p" || word == "--" || word == "-f") {
      continue;
    }
    const auto equals = word.find('=');
    const std::string name = word.substr(0, equals);
    if (!is_identifier(name)) {
      say("export: \"" + name + "\" is not a name");
      return 1;
    }
    if (equals != std::string::npos && !set(name, word.substr(equals + 1))) {
      return 1;
    }
    variables_[name].exported = !removes;
  }
  return 0;
}

// declare, typeset, local, readonly.
int Machine::do_declare(const Arguments& words) {
  const bool is_local = words[0] == "local" || (words[0] != "readonly" && !locals_.empty());
  bool exports = false;
  bool read_only = words[0] == "readonly";
  bool array = false;
  for (std::size_t i = 1; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word.size() > 1 && (word[0] == '-' || word[0] == '+')) {
      exports = exports || word.find('x') != std::string::npos;
      read_only = read_only || word.find('r') != std::string::npos;
      array = array || word.find('a') != std::string::npos;
      if (word.find('A') != std::string::npos) {
        return fail(Flow::kError, "associative arrays are not supported");
      }
      continue;
    }
    const auto equals = word.find('=');
    const std::string name = word.substr(0, equals);
    if (!is_identifier(name)) {
      say(words[0] + ": \"" + name + "\" is not a name");
      return 1;
    }
    const bool made = is_local && std::any_of(locals_.back().begin(), locals_.back().end(),
                                              [&](const auto& one) { return one.first == name; });
    if (is_local && !made && !locals_.empty()) {
      make_local(name);
      variables_.erase(name);
    }
    if (equals != std::string::npos && !set(name, word.substr(equals + 1))) {
      return 1;
    }
    Variable& variable = variables_[name];
    variable.exported = variable.exported || exports;
    variable.read_only = variable.read_only || read_only;
    if (array && !variable.is_array) {
      variable.is_array = true;
      if (variable.is_set) {
        variable.elements[0] = variable.value;
      }
    }
  }
  return 0;
}

int Machine::do_unset(const Arguments& words) {
  bool functions = false;
  for (std::size_t i = 1; i < words.size(); ++i) {
    if (words[i] == "-f" || words[i] == "-v") {
      functions = words[i] == "-f";
      continue;
    }
    const Variable* const variable = find(words[i]);
    if (!functions && variable != nullptr) {
      if (variable->read_only) {
        say("unset: " + words[i] + " is read only");
        return 1;
      }
      variables_.erase(words[i]);
    } else {
      functions_.erase(words[i]);
    }
  }
  return 0;
}

int Machine::do_let(const Arguments& words) {
  std::int64_t last = 0;
  for (std::size_t i = 1; i < words.size(); ++i) {
    last = arithmetic(words[i]).value_or(0);
  }
  return last != 0 ? 0 : 1;
}

int Machine::do_shift(const Arguments& words) {
  const long count = words.size() > 1 ? number(words[1]).value_or(-1) : 1;
  if (count < 0 || static_cast<std::size_t>(count) > arguments_.size()) {
    return 1;
  }
  arguments_.erase(arguments_.begin(), arguments_.begin() + count);
  return 0;
}

int Machine::do_set(const Arguments& words) {
  for (std::size_t i = 1; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word == "--" || word == "-" || word.size() < 2 || (word[0] != '-' && word[0] != '+')) {
      const std::size_t first = word == "--" || word == "-" ? i + 1 : i;
      arguments_.assign(words.begin() + static_cast<std::ptrdiff_t>(first), words.end());
      return 0;
    }
    const bool on = word[0] == '-';
    for (const char letter : word.substr(1)) {
      switch (letter) {
        case 'e':
          stop_on_error_ = on;
          break;
        case 'u':
          stop_on_unset_ = on;
          break;
        case 'a':
          export_all_ = on;
          break;
        case 'f':
          no_globbing_ = on;
          break;
        case 'x':
          trace_ = on;
          break;
        case 'o':
          if (i + 1 < words.size()) {
            const std::string& name = words[++i];
            stop_on_error_ = name == "errexit" ? on : stop_on_error_;
            stop_on_unset_ = name == "nounset" ? on : stop_on_unset_;
            export_all_ = name == "allexport" ? on : export_all_;
            no_globbing_ = name == "noglob" ? on : no_globbing_;
            trace_ = name == "xtrace" ? on : trace_;
            pipe_fail_ = name == "pipefail" ? on : pipe_fail_;
          }
          break;
        default:
          break;  // of interactive shells
      }
    }
  }
  return 0;
}

int Machine::do_shopt(const Arguments& words) {
  return words.size() > 1 && words[1].find('q') != std::string::npos ? 1 : 0;
}

// --------------------------------------------------------------------------------------- input,
// output

int Machine::do_echo(const Arguments& words) {
  bool newline = true;
  bool escapes = false;
  std::size_t first = 1;
  for (; first < words.size() && words[first].size() > 1 && words[first][0] == '-' &&
         words[first].find_first_not_of("neE", 1) == std::string::npos;
       ++first) {
    newline = newline && words[first].find('n') == std::string::npos;
    escapes = words[first].find('e') != std::string::npos;
  }
  std::string out;
  for (std::size_t i = first; i < words.size(); ++i) {
    out += i > first ? " " : "";
    if (!escapes) {
      out += words[i];
    } else if (!unescape(words[i], out)) {
      return print(out);
    }
  }
  return print(newline ? out + '\n' : out);
}

namespace {

// Of the escape at `at`: a backslash with one character, or with up to three octal digits.
std::size_t escape_length(std::string_view format, std::size_t at) {
  const auto is_octal = [&](std::size_t i) {
    return i < format.size() && format[i] >= '0' && format[i] <= '7';
  };
  std::size_t length = 2;
  while (length < 4 && is_octal(at + 1) && is_octal(at + length)) {
    ++length;
  }
  return length;
}

std::string in_quotes(std::string_view text) {
  std::string out = "'";
  for (const char c : text) {
    out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  }
  return out + '\'';
}

// What a conversion of printf(1) makes of an argument; none if there is no such conversion.
std::optional<std::string> converted(const std::string& specification,
                                     char kind,
                                     const std::string& argument) {
  std::array<char, 4096> buffer{};
  const auto print = [&](const std::string& format, auto value) {
    std::snprintf(buffer.data(), buffer.size(), format.c_str(), value);
    return std::string(buffer.data());
  };
  if (kind == 'b') {
    std::string out;
    unescape(argument, out);
    return out;
  }
  if (kind == 'q') {
    return in_quotes(argument);
  }
  if (kind == 's') {
    return specification == "%" ? argument : print(specification + "s", argument.c_str());
  }
  if (kind == 'c') {
    return argument.substr(0, 1);
  }
  if (std::string_view("dioxXu").find(kind) != std::string_view::npos) {
    return print(specification + "ll" + kind, std::strtoll(argument.c_str(), nullptr, 0));
  }
  if (std::string_view("feEgG").find(kind) != std::string_view::npos) {
    return print(specification + kind, std::strtod(argument.c_str(), nullptr));
  }
  return std::nullopt;
}

// The format once, with the words from `at` on as arguments. The letter of a conversion that does
// not exist, none if all do.
std::optional<char> format_once(const std::string& format,
                                const std::vector<std::string>& words,
                                std::size_t& at,
                                std::string& out) {
  for (std::size_t i = 0; i < format.size(); ++i) {
    if (format[i] == '\\' && i + 1 < format.size()) {
      const std::size_t length = escape_length(format, i);
      unescape(std::string_view(format).substr(i, length), out);
      i += length - 1;
      continue;
    }
    if (format[i] != '%') {
      out += format[i];
      continue;
    }
    const std::size_t end = format.find_first_not_of("-+ #0123456789.", i + 1);
    if (end == std::string::npos) {
      break;
    }
    const char kind = format[end];
    const std::string specification = format.substr(i, end - i);
    i = end;
    if (kind == '%') {
      out += '%';
      continue;
    }
    const auto text =
        converted(specification, kind, at < words.size() ? words[at++] : std::string());
    if (!text) {
      return kind;
    }
    out += *text;
  }
  return std::nullopt;
}

}  // namespace

int Machine::do_printf(const Arguments& words) {
  std::size_t at = 1;
  std::string variable;
  if (words.size() > 3 && words[1] == "-v") {
    variable = words[2];
    at = 3;
  }
  if (at >= words.size()) {
    return 2;
  }
  const std::string format = words[at++];
  std::string out;
  const std::size_t first = at;
  do {
    if (const auto unknown = format_once(format, words, at, out)) {
      say("printf: %" + std::string(1, *unknown) + " is not known");
      return 1;
    }
  } while (at < words.size() && at > first);
  if (!variable.empty()) {
    return set(variable, std::move(out)) ? 0 : 1;
  }
  return print(out);
}

int Machine::do_read(const Arguments& words) {
  if (!allowed("it reads")) {
    return 1;
  }
  bool raw = false;
  std::vector<std::string> names;
  for (std::size_t i = 1; i < words.size(); ++i) {
    if (words[i].size() > 1 && words[i][0] == '-') {
      raw = raw || words[i].find('r') != std::string::npos;
      i += std::string_view("dpntu").find(words[i].back()) != std::string_view::npos ? 1U : 0U;
    } else {
      names.push_back(words[i]);
    }
  }
  if (names.empty()) {
    names.emplace_back("REPLY");
  }
  std::string line;
  char c = '\0';
  ssize_t got = 0;
  // One byte at a time: what follows the line is for the next command.
  while ((got = ::read(STDIN_FILENO, &c, 1)) == 1 && c != '\n') {
    if (c == '\\' && !raw) {
      if (::read(STDIN_FILENO, &c, 1) == 1 && c != '\n') {
        line += c;
      }
    } else if (c != '\0') {
      line += c;
    }
  }
  const std::string separators = find("IFS") != nullptr ? value("IFS") : " \t\n";
  std::size_t at = 0;
  for (std::size_t i = 0; i < names.size(); ++i) {
    while (at < line.size() && separators.find(line[at]) != std::string::npos &&
           (line[at] == ' ' || line[at] == '\t')) {
      ++at;
    }
    std::size_t end =
        std::min(line.find_first_of(separators.empty() ? std::string(1, '\0') : separators, at),
                 line.size());
    if (i + 1 == names.size()) {
      end = line.size();
      while (end > at && (line[end - 1] == ' ' || line[end - 1] == '\t') &&
             separators.find(line[end - 1]) != std::string::npos) {
        --end;
      }
    }
    if (!set(names[i], line.substr(std::min(at, line.size()), end - std::min(at, end)))) {
      return 1;
    }
    at = end + 1;
  }
  return got == 1 ? 0 : 1;
}

// -------------------------------------------------------------------------------- state of the
// process

int Machine::do_cd(const Arguments& words) {
  if (!allowed("it changes the directory")) {
    return 1;
  }
  std::size_t first = 1;
  while (first < words.size() &&
         (words[first] == "-P" || words[first] == "-L" || words[first] == "--")) {
    ++first;
  }
  const std::string target = first >= words.size() ? value("HOME")
                             : words[first] == "-" ? value("OLDPWD")
                                                   : words[first];
  std::array<char, PATH_MAX> path = {};
  const std::string before = ::getcwd(path.data(), path.size()) != nullptr ? path.data() : "";
  if (target.empty() || ::chdir(target.c_str()) != 0) {
    say("cd: " + target + ": " + strerrordesc_np(errno));
    return 1;
  }
  set("OLDPWD", before);
  if (::getcwd(path.data(), path.size()) != nullptr) {
    set("PWD", path.data());
  }
  return 0;
}

int Machine::do_pwd(const Arguments& /*words*/) {
  std::array<char, PATH_MAX> path = {};
  return ::getcwd(path.data(), path.size()) != nullptr ? print(std::string(path.data()) + '\n') : 1;
}

int Machine::do_umask(const Arguments& words) {
  if (!allowed("it changes the umask")) {
    return 1;
  }
  if (words.size() > 1) {
    char* end = nullptr;
    const long mask = std::strtol(words[1].c_str(), &end, 8);
    if (*end != '\0' || mask < 0 || mask > 0777) {
      say("umask: \"" + words[1] + "\" is not a mask in octal digits");
      return 1;
    }
    ::umask(static_cast<mode_t>(mask));
    return 0;
  }
  const mode_t mask = ::umask(0);
  ::umask(mask);
  std::array<char, 16> text{};
  std::snprintf(text.data(), text.size(), "%04o\n", mask);
  return print(text.data());
}

int Machine::do_ulimit(const Arguments& words) {
  if (!allowed("it changes limits")) {
    return 1;
  }
  bool soft = false;
  bool hard = false;
  Limit limit = kLimits[2];
  std::string given;
  for (std::size_t i = 1; i < words.size(); ++i) {
    if (words[i].size() < 2 || words[i][0] != '-') {
      given = words[i];
      continue;
    }
    for (const char letter : words[i].substr(1)) {
      const auto* found = std::find_if(kLimits.begin(), kLimits.end(),
                                       [letter](const Limit& one) { return one.letter == letter; });
      if (letter == 'S' || letter == 'H') {
        (letter == 'S' ? soft : hard) = true;
      } else if (found != kLimits.end()) {
        limit = *found;
      } else {
        say("ulimit: -" + std::string(1, letter) + " is not known");
        return 1;
      }
    }
  }
  rlimit now{};
  if (::getrlimit(limit.resource, &now) != 0) {
    return 1;
  }
  if (given.empty()) {
    const rlim_t shown = hard ? now.rlim_max : now.rlim_cur;
    return print(shown == RLIM_INFINITY ? "unlimited\n"
                                        : std::to_string(shown / limit.unit) + '\n');
  }
  char* end = nullptr;
  const rlim_t wanted = given == "unlimited" ? RLIM_INFINITY
                        : given == "hard"    ? now.rlim_max
                                             : std::strtoull(given.c_str(), &end, 10) * limit.unit;
  if (end != nullptr && *end != '\0') {
    say("ulimit: \"" + given + "\" is not a number");
    return 1;
  }
  const bool both = !soft && !hard;
  now.rlim_cur = soft || both ? wanted : now.rlim_cur;
  now.rlim_max = hard || both ? wanted : now.rlim_max;
  if (::setrlimit(limit.resource, &now) != 0) {
    say(std::string("ulimit: ") + strerrordesc_np(errno));
    return 1;
  }
  return 0;
}

// -------------------------------------------------------------------------------------------
// conditions

bool Machine::test_unary(char what, const std::string& operand) {
  struct stat info = {};
  switch (what) {
    case 'n':
      return !operand.empty();
    case 'z':
      return operand.empty();
    case 'v': {
      const Variable* const variable = find(operand);
      return variable != nullptr && variable->is_set;
    }
    case 't':
      return ::isatty(static_cast<int>(number(operand).value_or(-1))) == 1;
    case 'o':
      return operand == "errexit" ? stop_on_error_ : operand == "nounset" && stop_on_unset_;
    default:
      break;
  }
  if (!allowed("it looks at the file " + operand, reach_for(operand))) {
    return false;
  }
  if (what == 'h' || what == 'L') {
    return ::lstat(operand.c_str(), &info) == 0 && S_ISLNK(info.st_mode);
  }
  if (::stat(operand.c_str(), &info) != 0) {
    return false;
  }
  switch (what) {
    case 'a':
    case 'e':
      return true;
    case 'b':
      return S_ISBLK(info.st_mode);
    case 'c':
      return S_ISCHR(info.st_mode);
    case 'd':
      return S_ISDIR(info.st_mode);
    case 'f':
      return S_ISREG(info.st_mode);
    case 'g':
      return (info.st_mode & S_ISGID) != 0;
    case 'k':
      return (info.st_mode & S_ISVTX) != 0;
    case 'p':
      return S_ISFIFO(info.st_mode);
    case 'r':
      return ::access(operand.c_str(), R_OK) == 0;
    case 's':
      return info.st_size > 0;
    case 'u':
      return (info.st_mode & S_ISUID) != 0;
    case 'w':
      return ::access(operand.c_str(), W_OK) == 0;
    case 'x':
      return ::access(operand.c_str(), X_OK) == 0;
    case 'G':
      return info.st_gid == ::getegid();
    case 'O':
      return info.st_uid == ::geteuid();
    case 'S':
      return S_ISSOCK(info.st_mode);
    default:
      return false;
  }
}

// For == and != the right side is a pattern of fnmatch(3).
bool Machine::test_binary(const std::string& left,
                          const std::string& operation,
                          const std::string& right,
                          bool& wrong) {
  if (operation == "==" || operation == "=" || operation == "!=") {
    return matches(right, left) == (operation != "!=");
  }
  if (operation == "<" || operation == ">") {
    return operation == "<" ? left < right : left > right;
  }
  if (operation == "-nt" || operation == "-ot" || operation == "-ef") {
    struct stat a = {};
    struct stat b = {};
    if (!allowed("it looks at files", Reach::kFiles)) {
      return false;
    }
    const bool has_a = ::stat(left.c_str(), &a) == 0;
    const bool has_b = ::stat(right.c_str(), &b) == 0;
    if (operation == "-ef") {
      return has_a && has_b && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
    }
    const auto key = [](const struct stat& info) {
      return std::pair(info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
    };
    return operation == "-nt" ? has_a && (!has_b || key(a) > key(b))
                              : has_b && (!has_a || key(a) < key(b));
  }
  const auto a = number(left);
  const auto b = number(right);
  if (!a || !b) {
    wrong = true;
    return false;
  }
  if (operation == "-eq") return *a == *b;
  if (operation == "-ne") return *a != *b;
  if (operation == "-lt") return *a < *b;
  if (operation == "-le") return *a <= *b;
  if (operation == "-gt") return *a > *b;
  if (operation == "-ge") return *a >= *b;
  wrong = true;
  return false;
}

// [[ ]]
int Machine::test_node(const Node& node) {
  if (node.words.size() == 1) {
    return test_unary(node.name[1], text_of(node.words[0])) ? 0 : 1;
  }
  const std::string left = text_of(node.words[0]);
  bool wrong = false;
  if (node.name == "=~") {
    const std::string expression = text_of(node.words[1]);
    // What one takes of stack and memory is in the hands of who wrote it.
    if (!allowed("it uses a regular expression")) {
      return 2;
    }
    regex_t compiled = {};
    if (std::count(expression.begin(), expression.end(), '(') > kMaxConditions ||
        ::regcomp(&compiled, expression.c_str(), REG_EXTENDED) != 0) {
      say("[[: \"" + expression + "\" is not a regular expression");
      return 2;
    }
    std::array<regmatch_t, 10> places{};
    const bool found = ::regexec(&compiled, left.c_str(), places.size(), places.data(), 0) == 0;
    ::regfree(&compiled);
    Variable& groups = variables_["BASH_REMATCH"];
    groups = {};
    groups.is_set = groups.is_array = true;
    for (std::size_t i = 0; found && i < places.size() && places[i].rm_so >= 0; ++i) {
      groups.elements[static_cast<std::int64_t>(i)] =
          left.substr(static_cast<std::size_t>(places[i].rm_so),
                      static_cast<std::size_t>(places[i].rm_eo - places[i].rm_so));
    }
    return found ? 0 : 1;
  }
  if (node.name[0] == '-' && node.name != "-nt" && node.name != "-ot" && node.name != "-ef") {
    const auto a = arithmetic(left);
    const auto b = arithmetic(text_of(node.words[1]));
    const bool holds =
        a && b && test_binary(std::to_string(*a), node.name, std::to_string(*b), wrong);
    return holds ? 0 : 1;
  }
  const bool is_pattern = node.name == "==" || node.name == "=" || node.name == "!=";
  const std::string right = is_pattern ? pattern_of(node.words[1]) : text_of(node.words[1]);
  return test_binary(left, node.name, right, wrong) ? 0 : 1;
}

// test and [: -o binds weakest, then -a, then !.
bool Machine::test_words(
    const Arguments& words, std::size_t& at, int level, bool& wrong, int depth) {
  if (level < 2) {
    bool holds = test_words(words, at, level + 1, wrong, depth);
    while (at < words.size() && words[at] == (level == 0 ? "-o" : "-a")) {
      ++at;
      const bool right = test_words(words, at, level + 1, wrong, depth);
      holds = level == 0 ? holds || right : holds && right;
    }
    return holds;
  }
  if (at >= words.size() || depth > kMaxConditions) {
    wrong = true;
    return false;
  }
  const std::size_t left = words.size() - at;
  static constexpr std::array<std::string_view, 14> kBinary = {
      "=", "==", "!=", "<", ">", "-eq", "-ne", "-lt", "-le", "-gt", "-ge", "-nt", "-ot", "-ef"};
  const bool binary =
      left >= 3 && std::find(kBinary.begin(), kBinary.end(), words[at + 1]) != kBinary.end();
  if (binary) {
    std::string right = words[at + 2];
    if (words[at + 1] == "=" || words[at + 1] == "==" || words[at + 1] == "!=") {
      const bool same = words[at] == right;
      const bool holds = same == (words[at + 1] != "!=");
      at += 3;
      return holds;
    }
    const bool holds = test_binary(words[at], words[at + 1], right, wrong);
    at += 3;
    return holds;
  }
  if (words[at] == "!" && left > 1) {
    ++at;
    return !test_words(words, at, 2, wrong, depth + 1);
  }
  if (words[at] == "(" && left > 2) {
    ++at;
    const bool holds = test_words(words, at, 0, wrong, depth + 1);
    wrong = wrong || at >= words.size() || words[at] != ")";
    ++at;
    return holds;
  }
  if (left >= 2 && words[at].size() == 2 && words[at][0] == '-' && words[at] != "-a" &&
      words[at + 1] != "-a" && words[at + 1] != "-o") {
    const bool holds = test_unary(words[at][1], words[at + 1]);
    at += 2;
    return holds;
  }
  return !words[at++].empty();
}

int Machine::do_test(const Arguments& words) {
  Arguments operands(words.begin() + 1, words.end());
  if (words[0] == "[") {
    if (operands.empty() || operands.back() != "]") {
      say("[: \"]\" is missing");
      return 2;
    }
    operands.pop_back();
  }
  if (operands.empty()) {
    return 1;
  }
  std::size_t at = 0;
  bool wrong = false;
  const bool holds = test_words(operands, at, 0, wrong);
  if (wrong || at != operands.size()) {
    say(words[0] + ": this is not a condition");
    return 2;
  }
  return holds ? 0 : 1;
}

}  // namespace postern::shell

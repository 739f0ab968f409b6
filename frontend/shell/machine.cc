#include "frontend/shell/machine.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/shell/parser.h"
#include "protocol/base/unique_fd.h"

namespace postern::shell {
namespace {

constexpr int kMaxDepth = 40;  // of functions, sourced files and commands: the stack is small
// With less than Reach::kEverything: commands, and bytes of values made.
constexpr std::size_t kMaxSteps = 100000;
constexpr std::size_t kMaxBytes = std::size_t{8} * 1024 * 1024;
constexpr std::size_t kMaxFileBytes = std::size_t{4} * 1024 * 1024;
constexpr int kFirstSavedFd = 10;

// What the shell makes by itself, which is no variable of the image's.
constexpr std::array<std::string_view, 5> kOwnVariables = {"IFS", "OPTIND", "OLDPWD", "REPLY", "_"};

std::optional<std::string> read_file(const std::string& path) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  struct stat info = {};
  if (!file.valid() || ::fstat(file.get(), &info) != 0 || S_ISDIR(info.st_mode)) {
    errno = file.valid() ? EISDIR : errno;
    return std::nullopt;
  }
  std::string text;
  std::array<char, 16384> buffer;
  for (ssize_t got = 1; got > 0 && text.size() <= kMaxFileBytes;) {
    got = ::read(file.get(), buffer.data(), buffer.size());
    text.append(buffer.data(), got > 0 ? static_cast<std::size_t>(got) : 0);
  }
  return text;
}

int status_of(int status) {
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace

// ------------------------------------------------------------------------------------------
// variables

Machine::Machine(const Environment& environment, Reach reach) : name_("postern"), reach_(reach) {
  for (const Setting& one : environment.variables()) {
    Variable& variable = variables_[one.name];
    variable.value = one.value;
    variable.is_set = true;
    variable.exported = one.exported;
    order_.push_back(one.name);
  }
}

Environment Machine::environment() const {
  Environment out;
  const auto keep = [&](const std::string& name) {
    const Variable* const variable = find(name);
    if (variable != nullptr && variable->is_set && !variable->is_array) {
      out.set(name, variable->value, variable->exported);
    }
  };
  for (const std::string& name : order_) {
    keep(name);
  }
  for (const auto& [name, variable] : variables_) {
    const bool own =
        std::find(kOwnVariables.begin(), kOwnVariables.end(), name) != kOwnVariables.end();
    if (out.find(name) == nullptr && !(own && !variable.exported)) {
      keep(name);
    }
  }
  return out;
}

Variable* Machine::find(std::string_view name) {
  const auto found = variables_.find(name);
  return found != variables_.end() ? &found->second : nullptr;
}

const Variable* Machine::find(std::string_view name) const {
  const auto found = variables_.find(name);
  return found != variables_.end() ? &found->second : nullptr;
}

std::string Machine::value(std::string_view name) const {
  const Variable* const variable = find(name);
  if (variable == nullptr) {
    return {};
  }
  return variable->is_array
             ? (variable->elements.empty() ? std::string() : variable->elements.begin()->second)
             : variable->value;
}

bool Machine::set(std::string_view name, std::string value) {
  if (!account(value.size())) {
    return false;
  }
  Variable& variable = variables_[std::string(name)];
  if (variable.read_only) {
    fail(Flow::kError, std::string(name) + ": is read only");
    return false;
  }
  if (variable.is_array) {
    variable.elements[0] = std::move(value);
  } else {
    variable.value = std::move(value);
  }
  variable.is_set = true;
  variable.exported = variable.exported || export_all_;
  return true;
}

bool Machine::assign(const Assignment& assignment) {
  Variable* variable = find(assignment.name);
  if (!assignment.is_array && assignment.index == nullptr) {
    std::string text = text_of(assignment.value);
    if (assignment.append) {
      text = value(assignment.name) + text;
    }
    return flow_ == Flow::kNormal && set(assignment.name, std::move(text));
  }
  if (variable != nullptr && variable->read_only) {
    fail(Flow::kError, assignment.name + ": is read only");
    return false;
  }
  if (assignment.index != nullptr) {
    const auto index = arithmetic(*assignment.index);
    std::string text = text_of(assignment.value);
    if (!index || *index < 0 || flow_ != Flow::kNormal || !account(text.size())) {
      return false;
    }
    Variable& array = variables_[assignment.name];
    if (!array.is_array && array.is_set) {
      array.elements[0] = std::move(array.value);
    }
    array.is_array = array.is_set = true;
    std::string& element = array.elements[*index];
    element = assignment.append ? element + text : text;
    return true;
  }
  const std::vector<std::string> texts = fields(assignment.elements);
  if (flow_ != Flow::kNormal) {
    return false;
  }
  Variable& array = variables_[assignment.name];
  std::int64_t next = 0;
  if (assignment.append) {
    if (!array.is_array && array.is_set) {
      array.elements[0] = array.value;
    }
    next = array.elements.empty() ? 0 : array.elements.rbegin()->first + 1;
  } else {
    array.elements.clear();
  }
  array.is_array = array.is_set = true;
  for (const std::string& text : texts) {
    if (!account(text.size())) {
      return false;
    }
    array.elements[next++] = text;
  }
  return true;
}

void Machine::make_local(const std::string& name) {
  if (locals_.empty()) {
    return;
  }
  const Variable* const before = find(name);
  locals_.back().emplace_back(name, before != nullptr ? std::optional(*before) : std::nullopt);
}

// ------------------------------------------------------------------------------------ ends,
// messages

void Machine::say(std::string_view text) {
  if (messages_.size() < 50) {
    messages_.push_back("line " + std::to_string(line_) + ": " + std::string(text));
  }
}

int Machine::fail(Flow flow, std::string_view text, int status) {
  if (flow_ == Flow::kNormal) {
    say(text);
    flow_ = flow;
    status_ = status;
  }
  return status;
}

bool Machine::allowed(std::string_view what, Reach needed) {
  if (reach_ >= needed) {
    return true;
  }
  fail(Flow::kBeyond, what);
  return false;
}

bool Machine::account(std::size_t bytes) {
  bytes_ += bytes;
  if (reach_ != Reach::kEverything && bytes_ > kMaxBytes) {
    fail(Flow::kBeyond, "its values are too large");
    return false;
  }
  return true;
}

// -------------------------------------------------------------------------------------------
// running

Run Machine::run(std::string_view script, const std::string& name) {
  Run out;
  name_ = name;
  flow_ = Flow::kNormal;
  stop_on_error_ = stop_on_unset_ = trace_ = no_globbing_ = pipe_fail_ = false;
  messages_.clear();
  loops_ = condition_ = depth_ = 0;
  const auto parsed = parse_script(script);
  if (!parsed) {
    out.ended = Ended::kSyntax;
    out.messages.push_back("line " + std::to_string(parsed.error().line) + ": " +
                           parsed.error().what);
    return out;
  }
  sources_.assign(1, name_);
  status_ = 0;
  out.status = list(*parsed);
  out.messages = std::move(messages_);
  if (flow_ == Flow::kExit) {
    out.ended = Ended::kExit;
    out.status = status_;
  } else if (flow_ == Flow::kBeyond) {
    out.ended = Ended::kBeyond;
  }
  return out;
}

std::optional<std::string> Machine::expand_quoted(std::string_view text) {
  const auto word = parse_quoted(text);
  if (!word) {
    return std::nullopt;
  }
  std::string out = text_of(*word);
  return flow_ == Flow::kNormal ? std::optional(std::move(out)) : std::nullopt;
}

std::optional<std::vector<std::string>> Machine::plain_words(const Node& node) {
  std::vector<std::string> out;
  for (const Word& word : node.words) {
    for (const Part& part : word.parts) {
      const bool plain = part.quoted || (part.kind == Part::Kind::kText &&
                                         part.text.find_first_of("*?[~{") == std::string::npos);
      if (!plain) {
        return std::nullopt;
      }
    }
    out.push_back(text_of(word));
  }
  return flow_ == Flow::kNormal ? std::optional(std::move(out)) : std::nullopt;
}

int Machine::list(const Node::List& commands) {
  for (const auto& command : commands) {
    status_ = execute(*command);
    if (flow_ != Flow::kNormal) {
      break;
    }
  }
  return status_;
}

int Machine::execute(const Node& node) {
  if (reach_ != Reach::kEverything && ++steps_ > kMaxSteps) {
    return fail(Flow::kBeyond, "it does not end");
  }
  if (depth_ >= kMaxDepth) {
    return fail(Flow::kError, "commands are nested too deeply");
  }
  ++depth_;
  line_ = node.line;
  int status = 0;
  std::vector<std::pair<int, int>> saved;
  const bool own_redirections = node.kind == Node::Kind::kSimple || node.redirections.empty();
  if (own_redirections || redirect(node.redirections, saved)) {
    status = execute_kind(node);
  } else {
    status = 1;
  }
  restore(saved);
  --depth_;
  status_ = flow_ == Flow::kExit || flow_ == Flow::kReturn ? status_ : status;
  const bool counts = node.kind == Node::Kind::kSimple || node.kind == Node::Kind::kPipeline ||
                      node.kind == Node::Kind::kSubshell || node.kind == Node::Kind::kTest ||
                      node.kind == Node::Kind::kArithmetic;
  if (stop_on_error_ && status != 0 && counts && condition_ == 0 && flow_ == Flow::kNormal) {
    fail(Flow::kError, "a command failed, and set -e is in force", status);
  }
  return status;
}

// a && b || c, which the parser has as (a && b) || c: in a loop, for chains are long.
int Machine::chain(const Node& node) {
  std::vector<const Node*> links;
  const Node* first = &node;
  for (; first->kind == Node::Kind::kAnd || first->kind == Node::Kind::kOr;
       first = first->children[0].get()) {
    links.push_back(first);
  }
  ++condition_;
  int status = execute(*first);
  --condition_;
  while (!links.empty() && flow_ == Flow::kNormal) {
    const Node& link = *links.back();
    links.pop_back();
    if ((status == 0) == (link.kind == Node::Kind::kAnd)) {
      const int is_condition = links.empty() ? 0 : 1;
      condition_ += is_condition;
      status = execute(*link.children[1]);
      condition_ -= is_condition;
    }
  }
  return status;
}

int Machine::execute_kind(const Node& node) {
  switch (node.kind) {
    case Node::Kind::kSimple:
      return simple(node);
    case Node::Kind::kPipeline:
      return pipeline(node);
    case Node::Kind::kAnd:
    case Node::Kind::kOr:
      return chain(node);
    case Node::Kind::kNot: {
      ++condition_;
      const int status = execute(*node.children[0]);
      --condition_;
      return status == 0 ? 1 : 0;
    }
    case Node::Kind::kBackground: {
      if (!allowed("it starts a process")) {
        return 1;
      }
      const int pid = in_child(*node.children[0]);
      last_background_ = pid;
      return pid > 0 ? 0 : 1;
    }
    case Node::Kind::kIf:
      for (std::size_t i = 0; i < node.conditions.size(); ++i) {
        ++condition_;
        const int status = list(node.conditions[i]);
        --condition_;
        if (flow_ != Flow::kNormal) {
          return status_;
        }
        if (status == 0) {
          return list(node.bodies[i]);
        }
      }
      return node.bodies.size() > node.conditions.size() ? list(node.bodies.back()) : 0;
    case Node::Kind::kFor:
      return for_loop(node);
    case Node::Kind::kForArithmetic:
      return for_arithmetic(node);
    case Node::Kind::kWhile:
    case Node::Kind::kUntil:
      return loop(node);
    case Node::Kind::kCase:
      return case_of(node);
    case Node::Kind::kGroup:
      return list(node.bodies[0]);
    case Node::Kind::kSubshell:
      return subshell(node);
    case Node::Kind::kFunction:
      functions_[node.name] = node.children[0];
      return 0;
    case Node::Kind::kTest:
      return test_node(node);
    case Node::Kind::kArithmetic: {
      const auto number = arithmetic(node.words[0]);
      return number && *number != 0 ? 0 : 1;
    }
  }
  return 1;
}

// After a round of a loop: whether another follows. Takes break and continue for this loop away.
bool Machine::goes_round(int& status) {
  status = status_;
  if (flow_ == Flow::kBreak || flow_ == Flow::kContinue) {
    const bool continues = flow_ == Flow::kContinue;
    if (--levels_ > 0) {
      return false;
    }
    flow_ = Flow::kNormal;
    return continues;
  }
  return flow_ == Flow::kNormal;
}

int Machine::loop(const Node& node) {
  int status = 0;
  ++loops_;
  for (;;) {
    ++condition_;
    const int condition = list(node.conditions[0]);
    --condition_;
    if (flow_ != Flow::kNormal || (condition == 0) != (node.kind == Node::Kind::kWhile)) {
      break;
    }
    list(node.bodies[0]);
    if (!goes_round(status)) {
      break;
    }
  }
  --loops_;
  return status;
}

int Machine::for_loop(const Node& node) {
  int status = 0;
  const std::vector<std::string> values = node.over_arguments ? arguments_ : fields(node.words);
  ++loops_;
  for (const std::string& one : values) {
    if (flow_ != Flow::kNormal || !set(node.name, one)) {
      break;
    }
    list(node.bodies[0]);
    if (!goes_round(status)) {
      break;
    }
  }
  --loops_;
  return status;
}

int Machine::for_arithmetic(const Node& node) {
  int status = 0;
  const auto evaluate_word = [&](std::size_t i, std::int64_t empty) {
    const std::string text = text_of(node.words[i]);
    return text.find_first_not_of(" \t") == std::string::npos ? empty
                                                              : arithmetic(text).value_or(0);
  };
  evaluate_word(0, 0);
  ++loops_;
  while (flow_ == Flow::kNormal && evaluate_word(1, 1) != 0 && flow_ == Flow::kNormal) {
    list(node.bodies[0]);
    if (!goes_round(status)) {
      break;
    }
    evaluate_word(2, 0);
  }
  --loops_;
  return status;
}

int Machine::case_of(const Node& node) {
  const std::string subject = text_of(node.words[0]);
  bool falls = false;
  for (const CaseItem& item : node.cases) {
    bool matched = falls;
    for (const Word& pattern : item.patterns) {
      matched = matched || test_binary(subject, "==", pattern_of(pattern), matched);
    }
    if (flow_ != Flow::kNormal) {
      return status_;
    }
    if (matched) {
      status_ = 0;
      const int status = list(item.body);
      if (!item.falls_through || flow_ != Flow::kNormal) {
        return status;
      }
      falls = true;
    }
  }
  return 0;
}

// ------------------------------------------------------------------------------------ simple
// commands

int Machine::simple(const Node& node) {
  const unsigned line = node.line;
  substituted_.reset();
  const Arguments words = fields(node.words);
  line_ = line;
  if (flow_ != Flow::kNormal) {
    return status_;
  }
  std::vector<std::pair<int, int>> saved;
  if (!node.redirections.empty() && !allowed("it opens files")) {
    return 1;
  }
  const bool keeps = !words.empty() && words[0] == "exec" && words.size() == 1;
  if (!redirect(node.redirections, saved)) {
    restore(saved);
    return 1;
  }
  int status = 0;
  if (words.empty()) {
    bool done = true;
    for (const Assignment& assignment : node.assignments) {
      done = done && assign(assignment);
    }
    // XCU 2.9.1: the status of the last command substitution, if there was one.
    status = done ? substituted_.value_or(0) : 1;
  } else {
    status = with_assignments(node, words);
  }
  if (keeps) {
    for (const auto& [fd, copy] : saved) {
      if (copy >= 0) {
        ::close(copy);
      }
    }
  } else {
    restore(saved);
  }
  return status;
}

// A=b COMMAND: for the time of the command, except before special builtins; of export and its like
// they are arguments.
int Machine::with_assignments(const Node& node, const Arguments& words) {
  static constexpr std::array<std::string_view, 5> kDeclare = {"export", "declare", "typeset",
                                                               "local", "readonly"};
  const bool declares = std::find(kDeclare.begin(), kDeclare.end(), words[0]) != kDeclare.end();
  std::vector<std::pair<std::string, std::optional<Variable>>> before;
  Arguments all = words;
  for (const Assignment& assignment : node.assignments) {
    if (declares) {
      if (words[0] == "local" ||
          ((words[0] == "declare" || words[0] == "typeset") && !locals_.empty())) {
        make_local(assignment.name);
      }
      if (!assign(assignment)) {
        return 1;
      }
      all.push_back(assignment.name);
      continue;
    }
    const Variable* const old = find(assignment.name);
    before.emplace_back(assignment.name, old != nullptr ? std::optional(*old) : std::nullopt);
    if (!assign(assignment)) {
      return 1;
    }
    variables_[assignment.name].exported = true;
  }
  if (trace_) {
    std::string line = "+";
    for (const std::string& word : all) {
      line += ' ' + word;
    }
    say(line);
  }
  int status = 0;
  const auto function = functions_.find(words[0]);
  if (function != functions_.end()) {
    status = call(function->second, Arguments(words.begin() + 1, words.end()));
  } else if (const Builtin builtin = find_builtin(words[0]); builtin != nullptr) {
    status = (this->*builtin)(all);
  } else {
    status = program(words, false);
  }
  if (!is_special(words[0])) {
    for (auto old = before.rbegin(); old != before.rend(); ++old) {
      if (old->second) {
        variables_[old->first] = *old->second;
      } else {
        variables_.erase(old->first);
      }
    }
  }
  return status;
}

int Machine::call(const std::shared_ptr<Node>& body, Arguments arguments) {
  const std::shared_ptr<Node> kept = body;  // it may define itself again
  std::swap(arguments_, arguments);
  locals_.emplace_back();
  const int loops = std::exchange(loops_, 0);
  int status = execute(*kept);
  loops_ = loops;
  if (flow_ == Flow::kReturn) {
    flow_ = Flow::kNormal;
    status = status_;
  }
  for (auto old = locals_.back().rbegin(); old != locals_.back().rend(); ++old) {
    if (old->second) {
      variables_[old->first] = *old->second;
    } else {
      variables_.erase(old->first);
    }
  }
  locals_.pop_back();
  std::swap(arguments_, arguments);
  return status;
}

int Machine::evaluate(std::string_view script) {
  const auto parsed = parse_script(script);
  if (!parsed) {
    say(parsed.error().what);
    return 2;
  }
  const unsigned line = line_;
  status_ = 0;
  const int status = list(*parsed);
  line_ = line;
  return status;
}

int Machine::source(const std::string& path, const Arguments& arguments) {
  if (!allowed("it reads the file " + path, reach_for(path))) {
    return 1;
  }
  const std::optional<std::string> text = read_file(path);
  if (!text) {
    say(path + ": " + strerrordesc_np(errno));
    return 1;
  }
  Arguments own = arguments.empty() ? arguments_ : arguments;
  std::swap(arguments_, own);
  sources_.push_back(path);
  int status = evaluate(*text);
  if (flow_ == Flow::kReturn) {
    flow_ = Flow::kNormal;
    status = status_;
  }
  sources_.pop_back();
  if (!arguments.empty()) {
    std::swap(arguments_, own);
  }
  return status;
}

// --------------------------------------------------------------------------------- files of
// commands

bool Machine::place(int fd, int target, std::vector<std::pair<int, int>>* saved) {
  if (saved != nullptr) {
    saved->emplace_back(target, ::fcntl(target, F_DUPFD_CLOEXEC, kFirstSavedFd));
  }
  return ::dup2(fd, target) == target;
}

bool Machine::redirect(const std::vector<Redirection>& redirections,
                       std::vector<std::pair<int, int>>& saved) {
  if (!redirections.empty() && !allowed("it opens files")) {
    return false;
  }
  return std::all_of(redirections.begin(), redirections.end(),
                     [&](const Redirection& one) { return redirect_one(one, &saved); });
}

bool Machine::redirect_one(const Redirection& redirection,
                           std::vector<std::pair<int, int>>* saved) {
  const std::string& operation = redirection.operation;
  const std::string text = text_of(redirection.target);
  if (flow_ != Flow::kNormal) {
    return false;
  }
  const bool reads = operation[0] == '<';
  const int target = redirection.fd >= 0 ? redirection.fd : reads ? STDIN_FILENO : STDOUT_FILENO;
  if (operation == "<&" || operation == ">&") {
    if (text == "-") {
      if (saved != nullptr) {
        saved->emplace_back(target, ::fcntl(target, F_DUPFD_CLOEXEC, kFirstSavedFd));
      }
      ::close(target);
      return true;
    }
    char* end = nullptr;
    const long fd = std::strtol(text.c_str(), &end, 10);
    if (!text.empty() && *end == '\0') {
      if (!place(static_cast<int>(fd), target, saved)) {
        say(text + ": " + strerrordesc_np(errno));
        return false;
      }
      return true;
    }
  }
  if (operation == "<<" || operation == "<<<") {
    const UniqueFd document(::memfd_create("here-document", MFD_CLOEXEC));
    const std::string content = operation == "<<<" ? text + '\n' : text;
    return document.valid() &&
           ::write(document.get(), content.data(), content.size()) ==
               static_cast<ssize_t>(content.size()) &&
           ::lseek(document.get(), 0, SEEK_SET) == 0 && place(document.get(), target, saved);
  }
  const bool both = operation == "&>" || operation == "&>>" || operation == ">&";
  const bool appends = operation == ">>" || operation == "&>>";
  const int flags = operation == "<"    ? O_RDONLY
                    : operation == "<>" ? O_RDWR | O_CREAT
                                        : O_WRONLY | O_CREAT | (appends ? O_APPEND : O_TRUNC);
  const UniqueFd file(::open(text.c_str(), flags | O_CLOEXEC, 0666));
  if (!file.valid()) {
    say(text + ": " + strerrordesc_np(errno));
    return false;
  }
  return place(file.get(), target, saved) && (!both || place(file.get(), STDERR_FILENO, saved));
}

void Machine::restore(std::vector<std::pair<int, int>>& saved) {
  for (auto one = saved.rbegin(); one != saved.rend(); ++one) {
    if (one->second >= 0) {
      ::dup2(one->second, one->first);
      ::close(one->second);
    } else {
      ::close(one->first);
    }
  }
  saved.clear();
}

// ------------------------------------------------------------------------------------------
// processes

std::vector<std::string> Machine::exported() const {
  std::vector<std::string> out;
  for (const auto& [name, variable] : variables_) {
    if (variable.exported && variable.is_set && !variable.is_array) {
      out.push_back(name + '=' + variable.value);
    }
  }
  return out;
}

std::optional<std::string> Machine::find_program(const std::string& name) {
  if (name.find('/') != std::string::npos) {
    return name;
  }
  const std::string path = value("PATH");
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find(':', begin), path.size());
    std::string candidate = path.substr(begin, end - begin);
    candidate += (candidate.empty() ? "./" : "/") + name;
    struct stat info = {};
    if (::stat(candidate.c_str(), &info) == 0 && S_ISREG(info.st_mode) &&
        ::access(candidate.c_str(), X_OK) == 0) {
      return candidate;
    }
    begin = end + 1;
  }
  return std::nullopt;
}

int Machine::program(const Arguments& words, bool in_place) {
  if (!allowed("it runs the program " + words[0])) {
    return 1;
  }
  const std::optional<std::string> path = find_program(words[0]);
  if (!path) {
    say(words[0] + ": command not found");
    return 127;
  }
  // Everything that allocates comes before fork(2): the child only executes.
  std::vector<std::string> arguments = words;
  std::vector<std::string> environment = exported();
  std::vector<char*> argv;
  std::vector<char*> envp;
  for (std::string& one : arguments) {
    argv.push_back(one.data());
  }
  for (std::string& one : environment) {
    envp.push_back(one.data());
  }
  argv.push_back(nullptr);
  envp.push_back(nullptr);
  std::string shell = "/bin/sh";
  std::string file = *path;
  std::vector<char*> by_shell{shell.data(), file.data()};
  by_shell.insert(by_shell.end(), argv.begin() + 1, argv.end());
  const pid_t pid = in_place ? 0 : ::fork();
  if (pid == 0) {
    ::execve(path->c_str(), argv.data(), envp.data());
    if (errno == ENOEXEC) {
      ::execve(shell.c_str(), by_shell.data(), envp.data());
    }
    const int status = errno == ENOENT ? 127 : 126;
    if (!in_place) {
      ::_exit(status);
    }
    say(words[0] + ": " + strerrordesc_np(errno));
    return status;
  }
  const int status = pid > 0 ? wait_for(pid) : 1;
  if (status == 126 || status == 127) {
    say(words[0] + ": cannot be executed, or ended with status " + std::to_string(status));
  }
  return status;
}

int Machine::wait_for(int pid) {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) {
      return 127;
    }
  }
  return status_of(status);
}

// In a process that was forked for it. Its messages are lost to the parent, so they go out here.
void Machine::run_as_child(const Node& node) {
  const std::size_t said = messages_.size();
  status_ = execute(node);
  for (std::size_t i = said; i < messages_.size(); ++i) {
    const std::string line = name_ + ": " + messages_[i] + '\n';
    if (::write(STDERR_FILENO, line.data(), line.size()) < 0) {
      break;
    }
  }
  ::_exit(status_);
}

int Machine::in_child(const Node& node) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    run_as_child(node);
  }
  return pid;
}

int Machine::subshell(const Node& node) {
  if (!allowed("it starts a process")) {
    return 1;
  }
  Node group;
  group.kind = Node::Kind::kGroup;
  group.line = node.line;
  group.bodies = node.bodies;
  const int pid = in_child(group);
  return pid > 0 ? wait_for(pid) : 1;
}

int Machine::pipeline(const Node& node) {
  if (!allowed("it starts processes")) {
    return 1;
  }
  std::vector<int> pids;
  UniqueFd input;
  for (std::size_t i = 0; i < node.children.size(); ++i) {
    const bool last = i + 1 == node.children.size();
    std::array<int, 2> ends = {-1, -1};
    if (!last && ::pipe2(ends.data(), O_CLOEXEC) != 0) {
      say(std::string("a pipe: ") + strerrordesc_np(errno));
      break;
    }
    const UniqueFd reading(ends[0]);
    const UniqueFd writing(ends[1]);
    const pid_t pid = ::fork();
    if (pid == 0) {
      if (input.valid()) {
        ::dup2(input.get(), STDIN_FILENO);
      }
      if (writing.valid()) {
        ::dup2(writing.get(), STDOUT_FILENO);
      }
      run_as_child(*node.children[i]);
    }
    pids.push_back(pid);
    input = last ? UniqueFd() : UniqueFd(::fcntl(reading.get(), F_DUPFD_CLOEXEC, 3));
  }
  input.reset();
  int status = 0;
  for (const int pid : pids) {
    const int one = pid > 0 ? wait_for(pid) : 1;
    status = pipe_fail_ && one == 0 ? status : one;
  }
  return status;
}

// $(…): the standard output without the newlines at its end.
std::string Machine::capture(const Node& command) {
  std::array<int, 2> ends = {-1, -1};
  if (!allowed("it runs a command")) {
    return {};
  }
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
    say(std::string("a pipe: ") + strerrordesc_np(errno));
    return {};
  }
  const UniqueFd reading(ends[0]);
  UniqueFd writing(ends[1]);
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::dup2(writing.get(), STDOUT_FILENO);
    run_as_child(command);
  }
  writing.reset();
  std::string out;
  std::array<char, 4096> buffer;
  for (ssize_t got = 1; pid > 0 && got != 0;) {
    got = ::read(reading.get(), buffer.data(), buffer.size());
    if (got < 0 && errno != EINTR) {
      break;
    }
    out.append(buffer.data(), got > 0 ? static_cast<std::size_t>(got) : 0);
  }
  status_ = pid > 0 ? wait_for(pid) : 1;
  substituted_ = status_;
  std::erase(out, '\0');
  while (!out.empty() && out.back() == '\n') {
    out.pop_back();
  }
  return out;
}

// -----------------------------------------------------------------------------------------
// interface

Session::Session(const Environment& environment, Reach reach)
    : machine_(std::make_unique<Machine>(environment, reach)) {}

Session::~Session() = default;

void Session::export_all() {
  machine_->export_all();
}

Run Session::run(std::string_view script, const std::string& name) {
  return machine_->run(script, name);
}

Environment Session::environment() const {
  return machine_->environment();
}

std::optional<std::string> expand_quoted(std::string_view text,
                                         const Environment& environment,
                                         Reach reach) {
  return Machine(environment, reach).expand_quoted(text);
}

std::optional<std::vector<std::string>> plain_words(std::string_view line,
                                                    const Environment& environment) {
  const auto parsed = parse_script(line);
  if (!parsed || parsed->size() > 1) {
    return std::nullopt;
  }
  if (parsed->empty()) {
    return std::vector<std::string>{};
  }
  const Node& node = *parsed->front();
  if (node.kind != Node::Kind::kSimple || !node.assignments.empty() || !node.redirections.empty()) {
    return std::nullopt;
  }
  return Machine(environment, Reach::kVariables).plain_words(node);
}

}  // namespace postern::shell

// The state of a running script, and what executes, expands and implements its commands. Internal
// to this folder; shell.h is the interface.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "frontend/shell/shell.h"
#include "frontend/shell/syntax.h"

namespace postern::shell {

struct Variable {
  std::string value;
  std::map<std::int64_t, std::string> elements;  // of an array
  bool is_set = false;
  bool is_array = false;
  bool exported = false;
  bool read_only = false;
};

// What stops the ordinary order of commands.
enum class Flow {
  kNormal,
  kBreak,
  kContinue,
  kReturn,
  kExit,    // `exit`
  kError,   // what ends a script: ${X?}, set -u, set -e, a special builtin's error
  kBeyond,  // Reach::kVariables does not suffice
};

// The characters of a field and where each comes from.
struct Field {
  std::string text;
  std::string origin;  // 'q' quoted, 'l' literal, 'e' result of an unquoted expansion
  bool has_quotes = false;

  void add(std::string_view characters, char from) {
    text += characters;
    origin.append(characters.size(), from);
  }
};

// What it takes to look at a file. Before the payload's directory is entered a relative path means
// another file, so it takes everything.
inline Reach reach_for(std::string_view path) {
  return path.starts_with('/') ? Reach::kFiles : Reach::kEverything;
}

class Machine {
 public:
  Machine(const Environment& environment, Reach reach);

  void export_all() { export_all_ = true; }

  Run run(std::string_view script, const std::string& name);
  std::optional<std::string> expand_quoted(std::string_view text);
  // nullopt where a word has an unquoted expansion.
  std::optional<std::vector<std::string>> plain_words(const Node& node);
  [[nodiscard]] Environment environment() const;

 private:
  using Arguments = std::vector<std::string>;

  // --- execution (machine.cc)
  int list(const Node::List& commands);
  int execute(const Node& node);
  int chain(const Node& node);
  int execute_kind(const Node& node);
  int simple(const Node& node);
  int pipeline(const Node& node);
  int loop(const Node& node);
  int for_loop(const Node& node);
  int for_arithmetic(const Node& node);
  int case_of(const Node& node);
  int subshell(const Node& node);
  int call(const std::shared_ptr<Node>& body, Arguments arguments);
  int program(const Arguments& words, bool in_place);
  int with_assignments(const Node& node, const Arguments& words);
  int source(const std::string& path, const Arguments& arguments);
  int evaluate(std::string_view script);
  bool goes_round(int& status);
  int wait_for(int pid);
  int in_child(const Node& node);
  [[noreturn]] void run_as_child(const Node& node);
  bool redirect(const std::vector<Redirection>& redirections,
                std::vector<std::pair<int, int>>& saved);
  bool redirect_one(const Redirection& redirection, std::vector<std::pair<int, int>>* saved);
  bool place(int fd, int target, std::vector<std::pair<int, int>>* saved);
  static void restore(std::vector<std::pair<int, int>>& saved);
  std::string capture(const Node& command);
  std::vector<std::string> exported() const;
  std::optional<std::string> find_program(const std::string& name);

  // --- expansion (expansion.cc)
  std::vector<std::string> fields(const std::vector<Word>& words);
  std::string text_of(const Word& word);     // as in an assignment: one field, not split
  std::string pattern_of(const Word& word);  // for fnmatch(3)
  std::vector<Field> expand(const Word& word, bool assignment);
  void expand_part(const Part& part, std::vector<Field>& out);
  void expand_parameter(const Part& part, std::vector<Field>& out);
  bool expand_list(const Part& part, std::vector<Field>& out);
  void take_slice(const Part& part, bool arguments, std::vector<std::string>& values);
  void add_list(const Part& part,
                const std::string& index,
                const std::vector<std::string>& values,
                std::vector<Field>& out);
  std::string apply(const Part& part, const std::string& value);
  std::string replace(const Part& part, const std::string& value);
  std::string change_case(const Part& part, const std::string& value);
  std::string remove_pattern(const Part& part, const std::string& value);
  std::string substring(const Part& part, const std::string& value);
  std::optional<std::string> value_of(const Part& part);
  std::optional<std::string> special(std::string_view name) const;
  std::optional<std::int64_t> arithmetic(const std::string& text);

  std::optional<std::int64_t> arithmetic(const Word& word) { return arithmetic(text_of(word)); }

  void split(const Field& field, std::vector<Field>& out) const;
  void globbed(const Field& field, std::vector<std::string>& out);
  // Whether the text is what the pattern of fnmatch(3) describes.
  bool matches(const std::string& pattern, const std::string& text);

  // --- builtins (builtins.cc)
  using Builtin = int (Machine::*)(const Arguments& words);
  static Builtin find_builtin(std::string_view name);
  static bool is_special(std::string_view name);
  int do_nothing(const Arguments& words);
  int do_false(const Arguments& words);
  int do_break(const Arguments& words);
  int do_cd(const Arguments& words);
  int do_command(const Arguments& words);
  int do_declare(const Arguments& words);
  int do_echo(const Arguments& words);
  int do_eval(const Arguments& words);
  int do_exec(const Arguments& words);
  int do_exit(const Arguments& words);
  int do_export(const Arguments& words);
  int do_let(const Arguments& words);
  int do_printf(const Arguments& words);
  int do_pwd(const Arguments& words);
  int do_read(const Arguments& words);
  int do_return(const Arguments& words);
  int do_set(const Arguments& words);
  int do_shift(const Arguments& words);
  int do_shopt(const Arguments& words);
  int do_source(const Arguments& words);
  int do_test(const Arguments& words);
  int do_trap(const Arguments& words);
  int do_type(const Arguments& words);
  int do_ulimit(const Arguments& words);
  int do_umask(const Arguments& words);
  int do_unset(const Arguments& words);
  int do_wait(const Arguments& words);
  bool test_words(const Arguments& words, std::size_t& at, int level, bool& wrong, int depth = 0);
  bool test_unary(char what, const std::string& operand);
  bool test_binary(const std::string& left,
                   const std::string& operation,
                   const std::string& right,
                   bool& wrong);
  int test_node(const Node& node);
  int print(std::string_view text);

  // --- variables
  Variable* find(std::string_view name);
  const Variable* find(std::string_view name) const;
  bool assign(const Assignment& assignment);
  bool set(std::string_view name, std::string value);
  void make_local(const std::string& name);
  [[nodiscard]] std::string value(std::string_view name) const;

  // --- ends and messages
  void say(std::string_view text);
  int fail(Flow flow, std::string_view text, int status = 1);
  // False, and Flow::kBeyond, where the reach is less than that.
  bool allowed(std::string_view what, Reach needed = Reach::kEverything);
  bool account(std::size_t bytes);

  std::map<std::string, Variable, std::less<>> variables_;
  std::vector<std::string> order_;  // of the variables that came in
  std::map<std::string, std::shared_ptr<Node>, std::less<>> functions_;
  std::vector<std::string> arguments_;  // $1 …
  std::vector<std::string> sources_;    // BASH_SOURCE, innermost last
  std::vector<std::vector<std::pair<std::string, std::optional<Variable>>>> locals_;
  std::vector<std::string> messages_;
  std::string name_;  // $0
  Reach reach_;
  Flow flow_ = Flow::kNormal;
  int levels_ = 0;  // of break and continue
  int loops_ = 0;
  int status_ = 0;  // $?
  int depth_ = 0;
  int condition_ = 0;  // inside of a condition: set -e does not count
  unsigned line_ = 0;
  std::size_t steps_ = 0;
  std::size_t bytes_ = 0;
  int last_background_ = 0;
  std::optional<int> substituted_;  // status of the last $(…) since the command began
  bool stop_on_error_ = false;      // set -e
  bool stop_on_unset_ = false;      // set -u
  bool export_all_ = false;         // set -a
  bool no_globbing_ = false;        // set -f
  bool trace_ = false;              // set -x
  bool pipe_fail_ = false;
};

}  // namespace postern::shell

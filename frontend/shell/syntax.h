// The syntax tree of a shell script (POSIX.1-2017 XCU chapter 2, and what people use of bash).
#pragma once

#include <memory>
#include <string>
#include <vector>

namespace postern::shell {

struct Node;
struct Word;

// A piece of a word: text, or something that expands.
struct Part {
  enum class Kind {
    kText,        // `text`
    kParameter,   // ${text OP argument}
    kCommand,     // $(command)
    kArithmetic,  // $((argument))
  };
  Kind kind = Kind::kText;
  bool quoted = false;
  std::string text;       // the characters, or the parameter's name
  std::string operation;  // kParameter: "", "-", ":-", "=", "+", "?", "%", "##", "/", ":", "^^" …
  bool length = false;    // ${#NAME}
  bool indirect = false;  // ${!NAME}
  std::shared_ptr<Word> index;        // NAME[index]
  std::shared_ptr<Word> argument;     // of the operation; of kArithmetic
  std::shared_ptr<Word> replacement;  // ${NAME/argument/replacement}, ${NAME:argument:replacement}
  std::shared_ptr<Node> command;
};

struct Word {
  std::vector<Part> parts;
};

struct Assignment {
  std::string name;
  std::shared_ptr<Word> index;  // NAME[index]=…
  bool append = false;          // NAME+=…
  bool is_array = false;        // NAME=(elements)
  Word value;
  std::vector<Word> elements;
};

struct Redirection {
  int fd = -1;            // -1: that of the operation
  std::string operation;  // "<", ">", ">>", ">|", "<>", "<&", ">&", "&>", "&>>", "<<", "<<<"
  Word target;            // of "<<": the document
};

struct CaseItem {
  std::vector<Word> patterns;
  std::vector<std::shared_ptr<Node>> body;
  bool falls_through = false;  // ;&
};

struct Node {
  enum class Kind {
    kSimple,         // assignments, words, redirections
    kPipeline,       // children
    kAnd,            // children[0] && children[1]
    kOr,             // children[0] || children[1]
    kNot,            // ! children[0]
    kBackground,     // children[0] &
    kIf,             // conditions, bodies; the last body is that of else, if it has no condition
    kFor,            // name, words (or "$@"), bodies[0]
    kForArithmetic,  // words: three expressions; bodies[0]
    kWhile,          // conditions[0], bodies[0]
    kUntil,
    kCase,        // words[0], cases
    kGroup,       // bodies[0]
    kSubshell,    // bodies[0]
    kFunction,    // name, children[0]
    kTest,        // [[ ]]: name = the operator, words = the operands
    kArithmetic,  // (( words[0] ))
  };
  using List = std::vector<std::shared_ptr<Node>>;

  Kind kind = Kind::kSimple;
  unsigned line = 0;
  std::string name;
  bool over_arguments = false;  // kFor without a list
  std::vector<Assignment> assignments;
  std::vector<Word> words;
  std::vector<Redirection> redirections;
  List children;
  std::vector<List> conditions;
  std::vector<List> bodies;
  std::vector<CaseItem> cases;
};

}  // namespace postern::shell

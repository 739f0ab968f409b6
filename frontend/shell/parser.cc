#include "frontend/shell/parser.h"

#include <algorithm>
#include <array>
#include <utility>

namespace postern::shell {
namespace {

// Of commands, words and expansions in one another. The payload's process has a small stack.
constexpr int kMaxNesting = 48;
constexpr int kMaxChain = 256;  // of && and ||: each holds the one before

constexpr bool is_name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

constexpr bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

constexpr bool is_name(char c) {
  return is_name_start(c) || is_digit(c);
}

constexpr bool is_blank(char c) {
  return c == ' ' || c == '\t' || c == '\r';
}

constexpr bool ends_word(char c) {
  return is_blank(c) || c == '\n' || c == ';' || c == '&' || c == '|' || c == '<' || c == '>' ||
         c == '(' || c == ')';
}

Part text_part(std::string text, bool quoted) {
  Part part;
  part.quoted = quoted;
  part.text = std::move(text);
  return part;
}

// Joins neighbours of one kind, so that `abc` is one part.
void add_text(Word& word, std::string_view text, bool quoted) {
  if (!word.parts.empty() && word.parts.back().kind == Part::Kind::kText &&
      word.parts.back().quoted == quoted) {
    word.parts.back().text += text;
  } else {
    word.parts.push_back(text_part(std::string(text), quoted));
  }
}

class Parser {
 public:
  explicit Parser(std::string_view text, unsigned line = 1, int depth = 0)
      : text_(text), line_(line), depth_(depth) {}

  Result<Node::List, SyntaxError> script() {
    Node::List list = commands({});
    if (!failed_ && at_ < text_.size()) {
      fail("unexpected \"" + std::string(1, text_[at_]) + '"');
    }
    if (!failed_ && !documents_.empty()) {
      read_documents();
    }
    if (failed_) {
      return error_;
    }
    return list;
  }

  Result<Word, SyntaxError> quoted_text() {
    Word word;
    while (!failed_ && at_ < text_.size()) {
      quoted_character(word, '\0');
    }
    if (failed_) {
      return error_;
    }
    return word;
  }

 private:
  using Terminators = std::initializer_list<std::string_view>;

  struct Nesting {
    explicit Nesting(Parser& parser) : parser_(parser) {
      if (++parser.depth_ > kMaxNesting) {
        parser.fail("too deeply nested");
      }
    }

    ~Nesting() { --parser_.depth_; }

    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;
    Parser& parser_;
  };

  void fail(std::string what) {
    if (!failed_) {
      failed_ = true;
      error_ = {line_, std::move(what)};
    }
    at_ = text_.size();
  }

  [[nodiscard]] char peek(std::size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }

  // Behind the end, where the position may stand after an error, there is nothing.
  [[nodiscard]] std::string_view piece(std::size_t begin,
                                       std::size_t length = std::string_view::npos) const {
    return text_.substr(std::min(begin, text_.size()), length);
  }

  [[nodiscard]] bool at_end() const { return at_ >= text_.size(); }

  bool take(std::string_view what) {
    if (!piece(at_).starts_with(what)) {
      return false;
    }
    at_ += what.size();
    return true;
  }

  void newline() {
    ++at_;
    ++line_;
    read_documents();
  }

  void skip_blanks() {
    while (!at_end()) {
      if (is_blank(peek())) {
        ++at_;
      } else if (peek() == '\\' && peek(1) == '\n') {
        at_ += 2;
        ++line_;
      } else if (peek() == '#') {
        while (!at_end() && peek() != '\n') {
          ++at_;
        }
      } else {
        return;
      }
    }
  }

  void skip_newlines() {
    for (skip_blanks(); !at_end() && peek() == '\n'; skip_blanks()) {
      newline();
    }
  }

  // The unquoted word ahead, for reserved words; empty where it has quotes or expansions.
  [[nodiscard]] std::string_view ahead() const {
    std::size_t end = at_;
    while (end < text_.size() && !ends_word(text_[end])) {
      const char c = text_[end];
      if (c == '\'' || c == '"' || c == '$' || c == '`' || c == '\\') {
        return {};
      }
      ++end;
    }
    return piece(at_, end - at_);
  }

  bool take_reserved(std::string_view word) {
    skip_blanks();
    if (ahead() != word) {
      return false;
    }
    at_ += word.size();
    return true;
  }

  void expect_reserved(std::string_view word) {
    skip_newlines();
    if (!take_reserved(word)) {
      fail("\"" + std::string(word) + "\" is expected");
    }
  }

  bool at_terminator(Terminators terminators) {
    if (at_end() || peek() == ')') {
      return true;
    }
    if (peek() == ';' && (peek(1) == ';' || peek(1) == '&')) {
      return true;  // of a case
    }
    const std::string_view word = ahead();
    return std::find(terminators.begin(), terminators.end(), word) != terminators.end();
  }

  Node::List commands(Terminators terminators) {
    const Nesting nesting(*this);
    Node::List list;
    for (skip_newlines(); !failed_ && !at_terminator(terminators); skip_newlines()) {
      std::shared_ptr<Node> node = and_or();
      skip_blanks();
      if (peek() == '&' && peek(1) != '&') {
        ++at_;
        node = wrap(Node::Kind::kBackground, {std::move(node)});
      } else if (peek() == ';' && peek(1) != ';' && peek(1) != '&') {
        ++at_;
      } else if (!at_end() && peek() != '\n' && !at_terminator(terminators)) {
        fail("unexpected \"" + std::string(1, peek()) + '"');
      }
      list.push_back(std::move(node));
    }
    return list;
  }

  Node::List body(Terminators terminators) {
    Node::List list = commands(terminators);
    if (!failed_ && list.empty()) {
      fail("a command is expected");
    }
    return list;
  }

  std::shared_ptr<Node> make(Node::Kind kind) const {
    auto node = std::make_shared<Node>();
    node->kind = kind;
    node->line = line_;
    return node;
  }

  std::shared_ptr<Node> wrap(Node::Kind kind, Node::List children) const {
    auto node = make(kind);
    node->children = std::move(children);
    return node;
  }

  std::shared_ptr<Node> link(Node::Kind kind,
                             std::shared_ptr<Node> left,
                             std::shared_ptr<Node> right,
                             int links) {
    if (links == kMaxChain) {
      fail("too much is joined by && and ||");
    }
    return wrap(kind, {std::move(left), std::move(right)});
  }

  std::shared_ptr<Node> and_or() {
    auto left = pipeline();
    for (int links = 0;; ++links) {
      skip_blanks();
      const bool both = take("&&");
      if (failed_ || (!both && !take("||"))) {
        return left;
      }
      skip_newlines();
      left = link(both ? Node::Kind::kAnd : Node::Kind::kOr, std::move(left), pipeline(), links);
    }
  }

  std::shared_ptr<Node> pipeline() {
    if (take_reserved("!")) {
      return wrap(Node::Kind::kNot, {pipeline_commands()});
    }
    return pipeline_commands();
  }

  std::shared_ptr<Node> pipeline_commands() {
    auto first = command();
    Node::List all{std::move(first)};
    for (skip_blanks(); !failed_ && peek() == '|' && peek(1) != '|'; skip_blanks()) {
      ++at_;
      if (take("&")) {  // 2>&1 |
        all.back()->redirections.push_back({2, ">&", Word{{text_part("1", true)}}});
      }
      skip_newlines();
      all.push_back(command());
    }
    return all.size() == 1 ? std::move(all[0]) : wrap(Node::Kind::kPipeline, std::move(all));
  }

  std::shared_ptr<Node> command() {
    const Nesting nesting(*this);
    skip_blanks();
    auto node = compound();
    if (node == nullptr) {
      static constexpr std::array<std::string_view, 8> kOutOfPlace = {"then", "elif", "else", "fi",
                                                                      "do",   "done", "esac", "}"};
      const std::string_view first = ahead();
      if (std::find(kOutOfPlace.begin(), kOutOfPlace.end(), first) != kOutOfPlace.end()) {
        fail("unexpected \"" + std::string(first) + '"');
      }
      return simple();
    }
    if (node->kind != Node::Kind::kFunction) {
      while (!failed_ && redirection(*node)) {
      }
    }
    return node;
  }

  // nullptr where a simple command comes.
  std::shared_ptr<Node> compound() {
    if (peek() == '(' && peek(1) == '(') {
      return arithmetic_command();
    }
    if (take("(")) {
      auto node = make(Node::Kind::kSubshell);
      node->bodies.push_back(body({}));
      close_parenthesis();
      return node;
    }
    const std::string_view word = ahead();
    if (word == "{") {
      ++at_;
      auto node = make(Node::Kind::kGroup);
      node->bodies.push_back(body({"}"}));
      expect_reserved("}");
      return node;
    }
    if (word == "if") {
      return if_command();
    }
    if (word == "for") {
      return for_command();
    }
    if (word == "while" || word == "until") {
      auto node = make(word == "while" ? Node::Kind::kWhile : Node::Kind::kUntil);
      at_ += word.size();
      node->conditions.push_back(body({"do"}));
      do_group(*node);
      return node;
    }
    if (word == "case") {
      return case_command();
    }
    if (word == "[[") {
      at_ += 2;
      auto node = test_or();
      skip_newlines();
      if (!take("]]")) {
        fail("\"]]\" is expected");
      }
      return node;
    }
    if (word == "select" || word == "coproc" || word == "time") {
      fail("\"" + std::string(word) + "\" is not supported");
      return make(Node::Kind::kSimple);
    }
    return function();
  }

  void close_parenthesis() {
    skip_newlines();
    if (!take(")")) {
      fail("\")\" is expected");
    }
  }

  std::shared_ptr<Node> function() {
    const std::size_t start = at_;
    const unsigned line = line_;
    const bool keyword = ahead() == "function";
    if (keyword) {
      at_ += 8;
      skip_blanks();
    }
    const std::string name(ahead());
    at_ += name.size();
    skip_blanks();
    bool parentheses = false;
    if (!name.empty() && take("(")) {
      skip_blanks();
      parentheses = take(")");
    }
    if (name.empty() || name.find('=') != std::string::npos || (!keyword && !parentheses)) {
      at_ = start;
      line_ = line;
      return nullptr;
    }
    skip_newlines();
    auto node = make(Node::Kind::kFunction);
    node->name = name;
    node->children.push_back(command());
    return node;
  }

  std::shared_ptr<Node> if_command() {
    auto node = make(Node::Kind::kIf);
    at_ += 2;
    for (;;) {
      node->conditions.push_back(body({"then"}));
      expect_reserved("then");
      node->bodies.push_back(body({"elif", "else", "fi"}));
      if (failed_ || !take_reserved("elif")) {
        break;
      }
    }
    if (take_reserved("else")) {
      node->bodies.push_back(body({"fi"}));
    }
    expect_reserved("fi");
    return node;
  }

  void do_group(Node& node) {
    expect_reserved("do");
    node.bodies.push_back(body({"done"}));
    expect_reserved("done");
  }

  std::shared_ptr<Node> for_command() {
    at_ += 3;
    skip_blanks();
    if (peek() == '(' && peek(1) == '(') {
      auto node = make(Node::Kind::kForArithmetic);
      at_ += 2;
      const std::string text = arithmetic_text();
      std::size_t begin = 0;
      for (int i = 0; i < 3; ++i) {
        const std::size_t end = i < 2 ? text.find(';', begin) : text.size();
        if (end == std::string::npos) {
          fail("a for loop has three expressions");
          return node;
        }
        node->words.push_back(expression(text.substr(begin, end - begin)));
        begin = end + 1;
      }
      skip_blanks();
      take(";");
      do_group(*node);
      return node;
    }
    auto node = make(Node::Kind::kFor);
    node->name = ahead();
    at_ += node->name.size();
    if (node->name.empty() || !is_name_start(node->name[0])) {
      fail("the name of a variable is expected after \"for\"");
    }
    skip_newlines();
    if (take_reserved("in")) {
      for (skip_blanks(); !failed_ && !at_end() && peek() != ';' && peek() != '\n'; skip_blanks()) {
        node->words.push_back(word());
      }
    } else {
      node->over_arguments = true;
    }
    skip_blanks();
    take(";");
    do_group(*node);
    return node;
  }

  std::shared_ptr<Node> case_command() {
    auto node = make(Node::Kind::kCase);
    at_ += 4;
    skip_blanks();
    node->words.push_back(word());
    expect_reserved("in");
    for (skip_newlines(); !failed_ && !take_reserved("esac"); skip_newlines()) {
      if (at_end()) {
        fail("\"esac\" is expected");
        break;
      }
      CaseItem item;
      take("(");
      do {
        skip_blanks();
        item.patterns.push_back(word());
        skip_blanks();
      } while (!failed_ && take("|"));
      if (!take(")")) {
        fail("\")\" is expected in a case");
      }
      item.body = commands({"esac"});
      if (take(";;&")) {
        fail(";;& is not supported");
      } else if (take(";&")) {
        item.falls_through = true;
      } else {
        take(";;");
      }
      node->cases.push_back(std::move(item));
    }
    return node;
  }

  // ------------------------------------------------------------------------------- [[ ]] and (( ))

  std::shared_ptr<Node> test_or() {
    const Nesting nesting(*this);
    auto left = test_and();
    skip_newlines();
    for (int links = 0; !failed_ && take("||"); ++links) {
      left = link(Node::Kind::kOr, std::move(left), test_and(), links);
      skip_newlines();
    }
    return left;
  }

  std::shared_ptr<Node> test_and() {
    auto left = test_not();
    skip_newlines();
    for (int links = 0; !failed_ && take("&&"); ++links) {
      left = link(Node::Kind::kAnd, std::move(left), test_not(), links);
      skip_newlines();
    }
    return left;
  }

  std::shared_ptr<Node> test_not() {
    skip_newlines();
    if (ahead() == "!") {
      const Nesting nesting(*this);
      ++at_;
      return wrap(Node::Kind::kNot, {test_not()});
    }
    if (take("(")) {
      auto inner = test_or();
      close_parenthesis();
      return inner;
    }
    return test_leaf();
  }

  std::shared_ptr<Node> test_leaf() {
    auto node = make(Node::Kind::kTest);
    const std::string_view first = ahead();
    if (first == "]]" || at_end()) {
      fail("an operand is expected in [[ ]]");
      return node;
    }
    if (first.size() == 2 && first[0] == '-' && is_name_start(first[1])) {
      node->name = first;
      at_ += 2;
      skip_blanks();
      if (ahead() == "]]") {
        node->words.push_back(Word{{text_part(node->name, true)}});  // [[ -n ]]: a string
        node->name = "-n";
        return node;
      }
      node->words.push_back(word());
      return node;
    }
    node->words.push_back(word());
    skip_blanks();
    static constexpr std::array<std::string_view, 13> kBinary = {
        "=~", "==", "!=", "=", "-eq", "-ne", "-lt", "-le", "-gt", "-ge", "-nt", "-ot", "-ef"};
    const std::string_view word_ahead = ahead();
    const auto* found = std::find(kBinary.begin(), kBinary.end(), word_ahead);
    if (found != kBinary.end()) {
      node->name = *found;
      at_ += found->size();
    } else if (peek() == '<' || peek() == '>') {
      node->name = std::string(1, peek());
      ++at_;
    } else {
      node->name = "-n";
      return node;
    }
    skip_blanks();
    node->words.push_back(word(node->name == "=~"));
    return node;
  }

  std::shared_ptr<Node> arithmetic_command() {
    auto node = make(Node::Kind::kArithmetic);
    at_ += 2;
    node->words.push_back(expression(arithmetic_text()));
    return node;
  }

  // Up to and over the "))" that closes.
  std::string arithmetic_text() {
    int open = 0;
    const std::size_t start = at_;
    for (; !at_end(); ++at_) {
      if (peek() == '(') {
        ++open;
      } else if (peek() == ')' && open > 0) {
        --open;
      } else if (peek() == ')' && peek(1) == ')') {
        const std::string_view text = piece(start, at_ - start);
        at_ += 2;
        return std::string(text);
      } else if (peek() == '\n') {
        ++line_;
      }
    }
    fail("\"))\" is expected");
    return {};
  }

  // An arithmetic expression is expanded like a text in double quotes.
  Word expression(const std::string& text) {
    auto parsed = Parser(text, line_, depth_ + 1).quoted_text();
    if (!parsed) {
      fail(parsed.error().what);
      return {};
    }
    return *std::move(parsed);
  }

  // ------------------------------------------------------------------------------- simple commands

  std::shared_ptr<Node> simple() {
    auto node = make(Node::Kind::kSimple);
    const std::size_t start = at_;
    bool declares = false;  // export A=(…): assignments are arguments of these
    for (skip_blanks(); !failed_ && !at_end(); skip_blanks()) {
      if (redirection(*node)) {
        continue;
      }
      if (ends_word(peek())) {
        break;
      }
      if (node->words.empty() || declares) {
        if (assignment(*node, declares)) {
          continue;
        }
      }
      if (node->words.empty()) {
        const std::string_view name = ahead();
        static constexpr std::array<std::string_view, 5> kDeclare = {"export", "declare", "typeset",
                                                                     "local", "readonly"};
        declares = std::find(kDeclare.begin(), kDeclare.end(), name) != kDeclare.end();
      }
      node->words.push_back(word());
    }
    if (!failed_ && at_ == start) {
      fail(at_end() ? "a command is expected" : "unexpected \"" + std::string(1, peek()) + '"');
    }
    return node;
  }

  // NAME=value, NAME+=value, NAME[index]=value, NAME=(…). Behind export and its like the words are
  // kept in order with the others, as assignments with the same meaning.
  bool assignment(Node& node, bool declares) {
    std::size_t end = at_;
    while (end < text_.size() && is_name(text_[end])) {
      ++end;
    }
    if (end == at_ || !is_name_start(peek())) {
      return false;
    }
    Assignment out;
    out.name = piece(at_, end - at_);
    const std::size_t start = at_;
    at_ = end;
    if (peek() == '[' && !declares) {
      const std::size_t close = text_.find(']', at_);
      if (close == std::string_view::npos ||
          (piece(close + 1, 1) != "=" && piece(close + 1, 2) != "+=")) {
        at_ = start;
        return false;
      }
      out.index = std::make_shared<Word>(expression(std::string(piece(at_ + 1, close - at_ - 1))));
      at_ = close + 1;
    }
    out.append = peek() == '+' && peek(1) == '=';
    if (!take(out.append ? "+=" : "=")) {
      at_ = start;
      return false;
    }
    if (take("(")) {
      out.is_array = true;
      for (skip_newlines(); !failed_ && !at_end() && peek() != ')'; skip_newlines()) {
        out.elements.push_back(word());
      }
      close_parenthesis();
    } else if (!at_end() && !ends_word(peek())) {
      out.value = word();
    }
    node.assignments.push_back(std::move(out));
    return true;
  }

  bool redirection(Node& node) {
    skip_blanks();
    const std::size_t start = at_;
    Redirection out;
    while (is_digit(peek())) {
      ++at_;
    }
    if (at_ > start && at_ - start < 5 && (peek() == '<' || peek() == '>')) {
      out.fd = std::stoi(std::string(piece(start, at_ - start)));
    } else {
      at_ = start;
    }
    static constexpr std::array<std::string_view, 12> kOperations = {
        "&>>", "&>", "<<<", "<<-", "<<", "<&", "<>", "<", ">>", ">&", ">|", ">"};
    const std::string_view rest = piece(at_);
    if (rest.starts_with("<(") || rest.starts_with(">(")) {
      fail("process substitution is not supported");
      return false;
    }
    const auto* found =
        std::find_if(kOperations.begin(), kOperations.end(),
                     [rest](std::string_view one) { return rest.starts_with(one); });
    if (found == kOperations.end()) {
      at_ = start;
      return false;
    }
    at_ += found->size();
    out.operation = *found;
    skip_blanks();
    if (at_end() || ends_word(peek())) {
      fail("a file is expected after " + out.operation);
      return false;
    }
    const bool document = out.operation == "<<" || out.operation == "<<-";
    out.target = word();
    node.redirections.push_back(std::move(out));
    if (document) {
      documents_.push_back({&node, node.redirections.size() - 1});
    }
    return true;
  }

  struct Document {
    Node* node;
    std::size_t index;
  };

  // The texts of here-documents start on the line after their operator.
  void read_documents() {
    for (const Document& document : std::exchange(documents_, {})) {
      Redirection& redirection = document.node->redirections[document.index];
      std::string delimiter;
      bool literal = false;
      for (const Part& part : redirection.target.parts) {
        delimiter += part.text;
        literal = literal || part.quoted;
      }
      const bool strip = redirection.operation == "<<-";
      std::string text;
      bool closed = false;
      while (!at_end() && !closed) {
        std::size_t end = std::min(text_.find('\n', at_), text_.size());
        std::string_view line = piece(at_, end - at_);
        while (strip && line.starts_with('\t')) {
          line.remove_prefix(1);
        }
        closed = line == delimiter;
        if (!closed) {
          text += line;
          text += '\n';
        }
        at_ = std::min(end + 1, text_.size());
        ++line_;
      }
      redirection.operation = "<<";
      redirection.target = literal ? Word{{text_part(text, true)}} : document_text(text);
    }
  }

  Word document_text(const std::string& text) {
    Word out;
    Parser parser(text, line_, depth_ + 1);
    while (!parser.failed_ && !parser.at_end()) {
      parser.quoted_character(out, '\0');
    }
    if (parser.failed_) {
      fail(parser.error_.what);
    }
    return out;
  }

  // ------------------------------------------------------------------------------------------
  // words

  // `pattern`: the right side of =~, where parentheses and bars belong to the word.
  Word word(bool pattern = false) {
    const Nesting nesting(*this);
    Word out;
    bool any = false;
    int open = 0;
    while (!failed_ && !at_end()) {
      const char c = peek();
      if (pattern && (c == '(' || (c == ')' && open > 0) || (c == '|' && open > 0) ||
                      (c == '|' && peek(1) != '|'))) {
        open += c == '(' ? 1 : c == ')' ? -1 : 0;
        add_text(out, std::string_view(&c, 1), false);
        ++at_;
      } else if (ends_word(c)) {
        break;
      } else {
        word_character(out);
      }
      any = true;
    }
    if (!failed_ && !any) {
      fail("a word is expected");
    }
    return out;
  }

  void word_character(Word& out) {
    const char c = peek();
    if (c == '\\') {
      if (peek(1) == '\n') {
        at_ += 2;
        ++line_;
      } else if (at_ + 1 < text_.size()) {
        add_text(out, piece(at_ + 1, 1), true);
        at_ += 2;
      } else {
        add_text(out, "\\", true);
        ++at_;
      }
    } else if (c == '\'') {
      single_quotes(out);
    } else if (c == '"') {
      double_quotes(out);
    } else if (c == '$' && peek(1) == '\'') {
      ++at_;
      ansi_quotes(out);
    } else if (c == '$' && peek(1) == '"') {
      ++at_;
      double_quotes(out);
    } else if (c == '$') {
      dollar(out, false);
    } else if (c == '`') {
      backquote(out, false);
    } else {
      add_text(out, piece(at_, 1), false);
      ++at_;
    }
  }

  void single_quotes(Word& out) {
    const std::size_t end = text_.find('\'', at_ + 1);
    if (end == std::string_view::npos) {
      fail("a quote is not closed");
      return;
    }
    const std::string_view text = piece(at_ + 1, end - at_ - 1);
    line_ += static_cast<unsigned>(std::count(text.begin(), text.end(), '\n'));
    add_text(out, text, true);
    at_ = end + 1;
  }

  void double_quotes(Word& out) {
    ++at_;
    add_text(out, {}, true);  // "" is a word
    while (!failed_ && peek() != '"') {
      if (at_end()) {
        fail("a quote is not closed");
        return;
      }
      quoted_character(out, '"');
    }
    ++at_;
  }

  // $'…': ANSI C escapes (bash(1), QUOTING).
  void ansi_quotes(Word& out) {
    std::string text;
    for (++at_; peek() != '\''; ++at_) {
      if (at_end()) {
        fail("a quote is not closed");
        return;
      }
      if (peek() != '\\') {
        text += peek();
        continue;
      }
      ++at_;
      static constexpr std::string_view kFrom = "abefnrtv\\'\"?";
      static constexpr std::string_view kTo = "\a\b\x1b\f\n\r\t\v\\'\"?";
      if (const auto found = kFrom.find(peek()); found != std::string_view::npos) {
        text += kTo[found];
      } else if (peek() >= '0' && peek() <= '7') {
        text += number(8, 3);
      } else if (peek() == 'x') {
        ++at_;
        text += number(16, 2);
      } else {
        text += '\\';
        text += peek();
      }
    }
    ++at_;
    add_text(out, text, true);
  }

  char number(unsigned base, int digits) {
    unsigned value = 0;
    for (int i = 0; i < digits; ++i, ++at_) {
      const char c = peek();
      const unsigned digit = is_digit(c)            ? static_cast<unsigned>(c - '0')
                             : c >= 'a' && c <= 'f' ? static_cast<unsigned>(c - 'a' + 10)
                             : c >= 'A' && c <= 'F' ? static_cast<unsigned>(c - 'A' + 10)
                                                    : 99U;
      if (digit >= base) {
        break;
      }
      value = value * base + digit;
    }
    --at_;
    return static_cast<char>(value);
  }

  // XCU 2.2.3: in double quotes only $ ` \ are special, and a backslash escapes only $ ` " \ and a
  // newline. `quote` 0: a whole text, in which a double quote is a character like others.
  void quoted_character(Word& out, char quote) {
    const char c = peek();
    if (c == '\\') {
      const char next = peek(1);
      if (next == '\n') {
        at_ += 2;
        ++line_;
      } else if (next == '$' || next == '`' || next == '\\' || (next == '"' && quote == '"')) {
        add_text(out, piece(at_ + 1, 1), true);
        at_ += 2;
      } else {
        add_text(out, "\\", true);
        ++at_;
      }
    } else if (c == '$') {
      dollar(out, true);
    } else if (c == '`') {
      backquote(out, true);
    } else {
      line_ += c == '\n' ? 1U : 0U;
      add_text(out, piece(at_, 1), true);
      ++at_;
    }
  }

  void backquote(Word& out, bool quoted) {
    std::string script;
    const unsigned line = line_;
    for (++at_; peek() != '`'; ++at_) {
      if (at_end()) {
        fail("a backquote is not closed");
        return;
      }
      if (peek() == '\\' && (peek(1) == '`' || peek(1) == '\\' || peek(1) == '$')) {
        ++at_;
      }
      line_ += peek() == '\n' ? 1U : 0U;
      script += peek();
    }
    ++at_;
    auto parsed = Parser(script, line, depth_ + 1).script();
    if (!parsed) {
      fail(parsed.error().what);
      return;
    }
    add_command(out, *std::move(parsed), quoted);
  }

  void add_command(Word& out, Node::List list, bool quoted) const {
    auto group = make(Node::Kind::kGroup);
    group->bodies.push_back(std::move(list));
    Part part;
    part.kind = Part::Kind::kCommand;
    part.quoted = quoted;
    part.command = std::move(group);
    out.parts.push_back(std::move(part));
  }

  void dollar(Word& out, bool quoted) {
    const Nesting nesting(*this);
    ++at_;
    if (peek() == '(' && peek(1) == '(' && arithmetic(out, quoted)) {
      return;
    }
    if (take("(")) {
      Node::List list = commands({});
      close_parenthesis();
      add_command(out, std::move(list), quoted);
      return;
    }
    if (take("{")) {
      braced(out, quoted);
      return;
    }
    Part part;
    part.kind = Part::Kind::kParameter;
    part.quoted = quoted;
    part.text = parameter_name(false);
    if (part.text.empty()) {
      add_text(out, "$", quoted);
      return;
    }
    out.parts.push_back(std::move(part));
  }

  // False: it is a command substitution that starts with a subshell.
  bool arithmetic(Word& out, bool quoted) {
    Parser attempt(*this);
    attempt.at_ += 2;
    const std::string text = attempt.arithmetic_text();
    if (attempt.failed_) {
      return false;
    }
    at_ = attempt.at_;
    line_ = attempt.line_;
    Part part;
    part.kind = Part::Kind::kArithmetic;
    part.quoted = quoted;
    part.argument = std::make_shared<Word>(expression(text));
    out.parts.push_back(std::move(part));
    return true;
  }

  std::string parameter_name(bool braces) {
    const std::size_t start = at_;
    if (is_name_start(peek())) {
      while (is_name(peek())) {
        ++at_;
      }
    } else if (is_digit(peek())) {
      do {
        ++at_;
      } while (braces && is_digit(peek()));
    } else if (!at_end() && std::string_view("@*#?-$!").find(peek()) != std::string_view::npos) {
      ++at_;
    }
    return std::string(piece(start, at_ - start));
  }

  void braced(Word& out, bool quoted) {
    Part part;
    part.kind = Part::Kind::kParameter;
    part.quoted = quoted;
    if (peek() == '#' && peek(1) != '}' && peek(1) != '#' && peek(1) != '%' && peek(1) != ':' &&
        peek(1) != '-') {
      part.length = true;
      ++at_;
    } else if (peek() == '!' && is_name_start(peek(1))) {
      part.indirect = true;
      ++at_;
    }
    part.text = parameter_name(true);
    if (part.text.empty()) {
      fail("\"${\" is not followed by a parameter");
      return;
    }
    if (peek() == '[') {
      const std::size_t close = text_.find(']', at_);
      if (close == std::string_view::npos) {
        fail("\"]\" is expected");
        return;
      }
      part.index = std::make_shared<Word>(expression(std::string(piece(at_ + 1, close - at_ - 1))));
      at_ = close + 1;
    }
    if (!take("}")) {
      operation(part, quoted);
    }
    out.parts.push_back(std::move(part));
  }

  void operation(Part& part, bool quoted) {
    static constexpr std::array<std::string_view, 22> kOperations = {
        ":-", ":=", ":+", ":?", "##", "%%", "//", "/#", "/%", "^^", ",,",
        "-",  "=",  "+",  "?",  "#",  "%",  "/",  "^",  ",",  "@",  ":"};
    const std::string_view rest = piece(at_);
    const auto* found =
        std::find_if(kOperations.begin(), kOperations.end(),
                     [rest](std::string_view one) { return rest.starts_with(one); });
    if (found == kOperations.end() || *found == "@") {
      fail("this expansion is not supported: ${" + part.text + std::string(rest.substr(0, 1)));
      return;
    }
    at_ += found->size();
    part.operation = *found;
    // In double quotes the operand of a default is itself quoted; a pattern is not.
    const bool is_default = part.operation.find_first_of("-=+?") != std::string::npos;
    const bool two = part.operation[0] == '/' || part.operation == ":";
    part.argument = std::make_shared<Word>(
        operand(quoted && is_default, two ? (part.operation == ":" ? ':' : '/') : '\0'));
    if (two && !failed_ && text_[at_ - 1] != '}') {
      part.replacement = std::make_shared<Word>(operand(false, '\0'));
    }
  }

  // Up to and over the closing brace, or `separator`.
  Word operand(bool quoted, char separator) {
    Word out;
    while (!failed_) {
      if (at_end()) {
        fail("\"}\" is expected");
        break;
      }
      const char c = peek();
      if (c == '}' || (separator != '\0' && c == separator)) {
        ++at_;
        break;
      }
      if (c == '"') {
        double_quotes(out);
      } else if (!quoted) {
        line_ += c == '\n' ? 1U : 0U;
        word_character(out);
      } else if (c == '\\' && peek(1) == '}') {
        add_text(out, "}", true);
        at_ += 2;
      } else {
        quoted_character(out, '"');
      }
    }
    return out;
  }

  std::string_view text_;
  std::size_t at_ = 0;
  unsigned line_;
  int depth_;
  bool failed_ = false;
  SyntaxError error_;
  std::vector<Document> documents_;
};

}  // namespace

Result<Node::List, SyntaxError> parse_script(std::string_view text) {
  if (text.find('\0') != std::string_view::npos) {
    return SyntaxError{1, "it contains a NUL"};
  }
  return Parser(text).script();
}

Result<Word, SyntaxError> parse_quoted(std::string_view text) {
  return Parser(text).quoted_text();
}

}  // namespace postern::shell

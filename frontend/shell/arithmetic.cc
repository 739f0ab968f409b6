#include "frontend/shell/arithmetic.h"

#include <array>
#include <charconv>
#include <limits>

namespace postern::shell {
namespace {

using Number = std::int64_t;
using Bits = std::uint64_t;

constexpr int kMaxNesting = 64;  // of parentheses, and of variables that hold expressions

constexpr Number wrap(Bits bits) {
  return static_cast<Number>(bits);
}

constexpr bool is_name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

constexpr bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

class Evaluator {
 public:
  Evaluator(std::string_view text, const ArithmeticVariables& variables, int depth)
      : text_(text), variables_(variables), depth_(depth) {}

  std::optional<Number> run() {
    skip();
    if (at_ == text_.size()) {
      return 0;
    }
    const Number value = comma();
    skip();
    return failed_ || at_ != text_.size() ? std::nullopt : std::optional(value);
  }

 private:
  struct Operator {
    std::string_view text;
    int level;
  };

  // Longest first where one starts another.
  static constexpr std::array<Operator, 19> kBinary = {{{"||", 1},
                                                        {"&&", 2},
                                                        {"==", 6},
                                                        {"!=", 6},
                                                        {"<<", 8},
                                                        {">>", 8},
                                                        {"<=", 7},
                                                        {">=", 7},
                                                        {"**", 11},
                                                        {"|", 3},
                                                        {"^", 4},
                                                        {"&", 5},
                                                        {"<", 7},
                                                        {">", 7},
                                                        {"+", 9},
                                                        {"-", 9},
                                                        {"*", 10},
                                                        {"/", 10},
                                                        {"%", 10}}};

  void skip() {
    while (at_ < text_.size() &&
           std::string_view(" \t\n\r").find(text_[at_]) != std::string_view::npos) {
      ++at_;
    }
  }

  bool take(std::string_view what) {
    skip();
    if (!text_.substr(at_).starts_with(what)) {
      return false;
    }
    at_ += what.size();
    return true;
  }

  Number fail() {
    failed_ = true;
    at_ = text_.size();
    return 0;
  }

  Number comma() {
    Number value = assignment();
    while (!failed_ && take(",")) {
      value = assignment();
    }
    return value;
  }

  std::string_view name_ahead() {
    skip();
    std::size_t end = at_;
    while (end < text_.size() &&
           (is_name_start(text_[end]) || (end > at_ && is_digit(text_[end])))) {
      ++end;
    }
    return text_.substr(at_, end - at_);
  }

  Number assignment() {
    if (++depth_ > kMaxNesting) {
      return fail();
    }
    const std::size_t start = at_;
    const std::string_view name = name_ahead();
    if (!name.empty()) {
      at_ += name.size();
      skip();
      static constexpr std::array<std::string_view, 11> kAssign = {
          "<<=", ">>=", "+=", "-=", "*=", "/=", "%=", "&=", "^=", "|=", "="};
      for (const std::string_view operation : kAssign) {
        if (text_.substr(at_).starts_with(operation) &&
            !(operation == "=" && text_.substr(at_).starts_with("=="))) {
          at_ += operation.size();
          const Number right = assignment();
          const std::string_view binary = operation.substr(0, operation.size() - 1);
          const Number value = binary.empty() ? right : apply(binary, value_of(name), right);
          if (active_ && !failed_) {
            variables_.set(name, value);
          }
          --depth_;
          return value;
        }
      }
    }
    at_ = start;
    const Number value = conditional();
    --depth_;
    return value;
  }

  Number conditional() {
    const Number condition = binary(1);
    if (failed_ || !take("?")) {
      return condition;
    }
    const bool outer = active_;
    active_ = outer && condition != 0;
    const Number yes = assignment();
    if (!take(":")) {
      return fail();
    }
    active_ = outer && condition == 0;
    const Number no = assignment();
    active_ = outer;
    return condition != 0 ? yes : no;
  }

  const Operator* operator_ahead() {
    skip();
    for (const Operator& one : kBinary) {
      if (text_.substr(at_).starts_with(one.text)) {
        const char next =
            at_ + one.text.size() < text_.size() ? text_[at_ + one.text.size()] : '\0';
        const bool assigns = next == '=' && one.level != 6 && one.level != 1 && one.level != 2 &&
                             one.text != "<=" && one.text != ">=";
        return assigns ? nullptr : &one;
      }
    }
    return nullptr;
  }

  Number binary(int level) {
    if (level > 11) {
      return unary();
    }
    if (level == 11 && ++depth_ > kMaxNesting) {  // a ** b ** c is a ** (b ** c)
      return fail();
    }
    Number left = binary(level + 1);
    for (const Operator* found = operator_ahead();
         !failed_ && found != nullptr && found->level == level; found = operator_ahead()) {
      at_ += found->text.size();
      const bool outer = active_;
      if (level <= 2) {
        active_ = outer && (level == 1 ? left == 0 : left != 0);
      }
      const Number right = binary(level == 11 ? level : level + 1);
      active_ = outer;
      left = apply(found->text, left, right);
    }
    depth_ -= level == 11 ? 1 : 0;
    return left;
  }

  Number apply(std::string_view operation, Number left, Number right) {
    const auto a = static_cast<Bits>(left);
    const auto b = static_cast<Bits>(right);
    if (operation == "/" || operation == "%") {
      if (right == 0) {
        return active_ ? fail() : 0;
      }
      if (right == -1) {
        return operation == "/" ? wrap(0 - a) : 0;
      }
      return operation == "/" ? left / right : left % right;
    }
    if (operation == "**") {
      Bits power = 1;
      for (Number i = 0; i < right && i < 64; ++i) {
        power *= a;
      }
      return right < 0 ? fail() : wrap(power);
    }
    if (operation == "+") return wrap(a + b);
    if (operation == "-") return wrap(a - b);
    if (operation == "*") return wrap(a * b);
    if (operation == "<<") return wrap(a << (b & 63));
    if (operation == ">>") return left >> (b & 63);
    if (operation == "&") return wrap(a & b);
    if (operation == "|") return wrap(a | b);
    if (operation == "^") return wrap(a ^ b);
    if (operation == "==") return left == right ? 1 : 0;
    if (operation == "!=") return left != right ? 1 : 0;
    if (operation == "<") return left < right ? 1 : 0;
    if (operation == ">") return left > right ? 1 : 0;
    if (operation == "<=") return left <= right ? 1 : 0;
    if (operation == ">=") return left >= right ? 1 : 0;
    if (operation == "&&") return left != 0 && right != 0 ? 1 : 0;
    return left != 0 || right != 0 ? 1 : 0;
  }

  Number unary() {
    if (++depth_ > kMaxNesting) {
      return fail();
    }
    const Number value = unary_operand();
    --depth_;
    return value;
  }

  Number step(std::string_view name, Number by, bool prefix) {
    const Number before = value_of(name);
    const Number after = wrap(static_cast<Bits>(before) + static_cast<Bits>(by));
    if (active_) {
      variables_.set(name, after);
    }
    return prefix ? after : before;
  }

  Number unary_operand() {
    for (const auto& [text, by] : {std::pair<std::string_view, Number>{"++", 1}, {"--", -1}}) {
      const std::size_t start = at_;
      if (take(text)) {
        const std::string_view name = name_ahead();
        if (!name.empty()) {
          at_ += name.size();
          return step(name, by, true);
        }
        at_ = start;
      }
    }
    if (take("!")) return unary() == 0 ? 1 : 0;
    if (take("~")) return wrap(~static_cast<Bits>(unary()));
    if (take("-")) return wrap(0 - static_cast<Bits>(unary()));
    if (take("+")) return unary();
    return primary();
  }

  Number primary() {
    if (take("(")) {
      const Number value = comma();
      return take(")") ? value : fail();
    }
    const std::string_view name = name_ahead();
    if (!name.empty()) {
      at_ += name.size();
      if (take("++")) return step(name, 1, false);
      if (take("--")) return step(name, -1, false);
      return value_of(name);
    }
    return literal();
  }

  Number literal() {
    skip();
    int base = 10;
    if (text_.substr(at_).starts_with("0x") || text_.substr(at_).starts_with("0X")) {
      base = 16;
      at_ += 2;
    } else if (text_.substr(at_).starts_with("0")) {
      base = 8;
    } else if (const auto mark = text_.find('#', at_);
               mark != std::string_view::npos && mark - at_ <= 2 && mark > at_) {
      const auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + mark, base);
      if (error != std::errc{} || end != text_.data() + mark || base < 2 || base > 36) {
        return fail();
      }
      at_ = mark + 1;
    }
    Bits value = 0;
    const auto [end, error] =
        std::from_chars(text_.data() + at_, text_.data() + text_.size(), value, base);
    if (error == std::errc::invalid_argument) {
      return fail();
    }
    at_ = static_cast<std::size_t>(end - text_.data());
    return wrap(value);
  }

  // A variable may hold an expression itself.
  Number value_of(std::string_view name) {
    if (!active_) {
      return 0;
    }
    const std::string text = variables_.get(name);
    const auto value = Evaluator(text, variables_, depth_ + 1).run();
    return depth_ <= kMaxNesting && value ? *value : fail();
  }

  std::string_view text_;
  const ArithmeticVariables& variables_;
  int depth_;
  std::size_t at_ = 0;
  bool failed_ = false;
  bool active_ = true;  // in a branch that counts
};

}  // namespace

std::optional<std::int64_t> evaluate_arithmetic(std::string_view text,
                                                const ArithmeticVariables& variables) {
  return Evaluator(text, variables, 0).run();
}

}  // namespace postern::shell

#include "policy/json/strict.h"

#include <algorithm>

#include <nlohmann/json.hpp>

namespace postern::json {
namespace {

char fold(char c) noexcept {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

std::string folded(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), fold);
  return out;
}

bool same(std::string_view a, std::string_view b) noexcept {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return fold(x) == fold(y); });
}

// Builds the tree; returning false stops the parser.
class Builder final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit Builder(const Limits& limits) : limits_(limits) {}

  Value take() { return std::move(root_); }

  std::string complaint() { return std::move(complaint_); }

  bool null() override { return put({}); }

  bool boolean(bool value) override {
    Value out;
    out.kind = Value::Kind::kBool;
    out.boolean = value;
    return put(std::move(out));
  }

  bool number_integer(number_integer_t /*value*/) override { return other_number(); }

  bool number_unsigned(number_unsigned_t value) override {
    Value out;
    out.kind = Value::Kind::kUnsigned;
    out.number = value;
    return put(std::move(out));
  }

  bool number_float(number_float_t /*value*/, const string_t& /*text*/) override {
    return other_number();
  }

  bool string(string_t& value) override {
    Value out;
    out.kind = Value::Kind::kString;
    out.text = std::move(value);
    return put(std::move(out));
  }

  bool binary(binary_t& /*value*/) override { return stop("binary value"); }

  bool start_object(std::size_t /*elements*/) override { return open(Value::Kind::kObject); }

  bool key(string_t& name) override {
    open_.back()->members.push_back(Member{std::move(name), {}});
    return true;
  }

  bool end_object() override {
    // Sorted, so that an object of a million members costs no more than n log n.
    std::vector<std::string> names;
    for (const auto& [name, value] : open_.back()->members) {
      names.push_back(folded(name));
    }
    std::sort(names.begin(), names.end());
    const auto twice = std::adjacent_find(names.begin(), names.end());
    if (twice != names.end()) {
      return stop("member '" + twice->substr(0, 64) + "' is repeated");
    }
    open_.pop_back();
    return true;
  }

  bool start_array(std::size_t /*elements*/) override { return open(Value::Kind::kArray); }

  bool end_array() override {
    open_.pop_back();
    return true;
  }

  bool parse_error(std::size_t position,
                   const std::string& /*token*/,
                   const nlohmann::json::exception& /*error*/) override {
    return stop("not JSON at byte " + std::to_string(position));
  }

 private:
  bool stop(std::string why) {
    complaint_ = std::move(why);
    return false;
  }

  bool other_number() {
    Value out;
    out.kind = Value::Kind::kOtherNumber;
    return put(std::move(out));
  }

  // Where the next value goes: the last member or item of the innermost open value, or the root.
  Value* place(Value value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Value& parent = *open_.back();
    if (parent.kind == Value::Kind::kObject) {
      parent.members.back().value = std::move(value);
      return &parent.members.back().value;
    }
    parent.items.push_back(std::move(value));
    return &parent.items.back();
  }

  bool put(Value value) {
    place(std::move(value));
    return true;
  }

  bool open(Value::Kind kind) {
    if (open_.size() >= limits_.depth) {
      return stop("nested deeper than " + std::to_string(limits_.depth));
    }
    Value value;
    value.kind = kind;
    // SAFETY: the pointer stays good while the value is open: its parent's list grows again only
    // after it has been closed.
    open_.push_back(place(std::move(value)));
    return true;
  }

  Limits limits_;
  Value root_;
  std::vector<Value*> open_;
  std::string complaint_;
};

}  // namespace

const Value* Value::find(std::string_view name) const noexcept {
  for (const auto& [key, value] : members) {
    if (same(key, name)) {
      return &value;
    }
  }
  return nullptr;
}

const Value* Value::find(std::string_view name, Kind wanted) const noexcept {
  const Value* value = find(name);
  return value != nullptr && value->kind == wanted ? value : nullptr;
}

Outcome<Value> parse(std::string_view text, const Limits& limits) {
  if (text.size() > limits.bytes) {
    return Problem{"JSON larger than " + std::to_string(limits.bytes) + " bytes"};
  }
  if (text.starts_with("\xEF\xBB\xBF")) {
    return Problem{"JSON starts with a byte order mark"};
  }
  Builder builder(limits);
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &builder,
                                 nlohmann::json::input_format_t::json, /*strict=*/true)) {
    return Problem{builder.complaint()};
  }
  return builder.take();
}

std::string quoted(std::string_view text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace postern::json

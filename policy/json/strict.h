// JSON that somebody else wrote, read strictly: bounded in bytes and depth, no repeated member (in
// any case: "Version" repeats "version"), no byte order mark, nothing after the value.
//
// Repeated members are refused because two readers of one text may pick different ones (RFC 8259
// §4), and both would say that the signature over it is good.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "policy/problem.h"

namespace postern::json {

struct Limits {
  std::size_t bytes = std::size_t{4} << 20;
  unsigned depth = 8;  // arrays and objects inside each other
};

struct Member;

struct Value {
  enum class Kind : std::uint8_t {
    kNull,
    kBool,
    kUnsigned,
    kOtherNumber,
    kString,
    kArray,
    kObject
  };

  Kind kind = Kind::kNull;
  bool boolean = false;
  std::uint64_t number = 0;     // kUnsigned: no sign, fraction or exponent
  std::string text;             // kString: UTF-8
  std::vector<Value> items;     // kArray
  std::vector<Member> members;  // kObject, names as written

  // The member of this name in any ASCII case (Go's rule, which other SIF tools follow); null
  // where there is none or this is no object.
  [[nodiscard]] const Value* find(std::string_view name) const noexcept;
  // … if it is of this kind, else null.
  [[nodiscard]] const Value* find(std::string_view name, Kind wanted) const noexcept;
};

struct Member {
  std::string name;
  Value value;
};

// Error: which rule the text breaks. Does not throw, whatever the text.
Outcome<Value> parse(std::string_view text, const Limits& limits = {});

// `text` as a JSON string with its quotes. Bytes that are not UTF-8 become U+FFFD.
std::string quoted(std::string_view text);

}  // namespace postern::json

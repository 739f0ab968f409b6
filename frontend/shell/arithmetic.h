// Arithmetic expansion: C's integer expressions (POSIX.1-2017 XCU 2.6.4), on 64 bits that wrap.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace postern::shell {

struct ArithmeticVariables {
  std::function<std::string(std::string_view name)> get;
  std::function<void(std::string_view name, std::int64_t value)> set;
};

// nullopt: it is malformed, divides by zero, or is nested too deeply.
std::optional<std::int64_t> evaluate_arithmetic(std::string_view text,
                                                const ArithmeticVariables& variables);

}  // namespace postern::shell

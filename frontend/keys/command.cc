#include "frontend/keys/command.h"

#include <array>
#include <charconv>
#include <cstdio>
#include <ctime>

#include "frontend/message/message.h"
#include "protocol/exit_codes.h"

namespace postern::keys {

int fail(const Problem& problem, int exit_code) {
  message::fatal(problem);
  return exit_code != 0 ? exit_code : problem.exit_code;
}

Outcome<std::vector<std::uint32_t>> numbers_of(const std::vector<std::string>& values,
                                               std::string_view what) {
  std::vector<std::uint32_t> out;
  for (const std::string& value : values) {
    std::uint32_t number = 0;
    const char* end = value.data() + value.size();
    const auto [stop, error] = std::from_chars(value.data(), end, number);
    if (error != std::errc() || stop != end || number == 0) {
      return Problem{"'" + value + "' is not " + std::string(what)};
    }
    out.push_back(number);
  }
  return out;
}

std::string time_text(std::int64_t unix_seconds) {
  const std::time_t time = unix_seconds;
  std::tm parts{};
  std::array<char, 64> text{};
  if (::localtime_r(&time, &parts) == nullptr ||
      std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S %z %Z", &parts) == 0) {
    return std::to_string(unix_seconds);
  }
  return text.data();
}

}  // namespace postern::keys

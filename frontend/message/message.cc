#include "frontend/message/message.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <new>
#include <string>

#include <unistd.h>

#include "policy/text/printable.h"
#include "protocol/exit_codes.h"

namespace postern::message {
namespace {

Level g_threshold = Level::kInfo;
bool g_colour = false;
const std::chrono::steady_clock::time_point g_begun = std::chrono::steady_clock::now();

std::string in_one_line(std::string_view text) {
  std::string spaced(text);
  std::replace(spaced.begin(), spaced.end(), '\t', ' ');
  return text::printable(spaced);
}

// One write(2) a message, so that lines of many ranks do not mix.
void print(Level level, std::string_view label, std::string_view colour, std::string_view text) {
  if (static_cast<int>(level) > static_cast<int>(g_threshold)) {
    return;
  }
  std::string line;
  line.reserve(label.size() + text.size() + 24);
  if (g_colour) {
    line += colour;
  }
  line += label;
  if (g_colour) {
    line += "\x1b[0m";
  }
  line.append(label.size() < 9 ? 9 - label.size() : 1, ' ');
  line += in_one_line(text);
  line += '\n';
  if (::write(STDERR_FILENO, line.data(), line.size()) < 0) {
    return;  // standard error is gone: nobody is left to tell
  }
}

// For std::set_terminate: memory that ended is no fault of the program, and is said without memory.
[[noreturn]] void on_terminate() noexcept {
  static constexpr std::string_view kWords =
      "FATAL:   there is no more memory; raise `ulimit -d` and `ulimit -v`, or the batch system's "
      "limit\n";
  try {
    if (const std::exception_ptr thrown = std::current_exception()) {
      std::rethrow_exception(thrown);
    }
  } catch (const std::bad_alloc&) {
    [[maybe_unused]] const ssize_t told = ::write(STDERR_FILENO, kWords.data(), kWords.size());
    ::_exit(kExitFatal);
  } catch (...) {
    std::abort();
  }
  std::abort();
}

}  // namespace

void configure(Level threshold, bool colour) noexcept {
  std::set_terminate(on_terminate);
  g_threshold = threshold;
  g_colour = colour && ::isatty(STDERR_FILENO) == 1;
}

Level threshold() noexcept {
  return g_threshold;
}

void configure_from_environment() noexcept {
  const char* level = std::getenv("POSTERN_MESSAGELEVEL");
  char* end = nullptr;
  const long number = level != nullptr ? std::strtol(level, &end, 10) : 1;
  const bool valid =
      level != nullptr && end != level && *end == '\0' && number >= -4 && number <= 9;
  configure(valid ? static_cast<Level>(number) : Level::kInfo,
            std::getenv("POSTERN_NOCOLOR") == nullptr);
}

void error(std::string_view text) {
  print(Level::kError, "ERROR:", "\x1b[31m", text);
}

void warning(std::string_view text) {
  print(Level::kWarning, "WARNING:", "\x1b[33m", text);
}

void info(std::string_view text) {
  print(Level::kInfo, "INFO:", "\x1b[34m", text);
}

void verbose(std::string_view text) {
  print(Level::kVerbose, "VERBOSE:", "", text);
}

void debug(std::string_view text) {
  if (g_threshold < Level::kDebug) {
    return;
  }
  const auto now = std::chrono::steady_clock::now();
  const auto since = std::chrono::duration_cast<std::chrono::microseconds>(now - g_begun).count();
  std::string line = std::to_string(since / 1000) + '.';
  line += std::to_string(since % 1000 / 100) + " ms: ";
  print(Level::kDebug, "DEBUG:", "", line.append(text));
}

void fatal(const Problem& problem) {
  if (problem.what.empty()) {
    return;  // a program that we started has said it
  }
  std::string text = problem.what;
  if (!problem.cure.empty()) {
    text += "; ";
    text += problem.cure;
  }
  print(Level::kFatal, "FATAL:", "\x1b[31m", text);
}

int wrong_usage(std::string_view command, std::string_view what, std::string_view usage) {
  const std::string words =
      (command.empty() ? "Error: " : "Error for command \"" + std::string(command) + "\": ") +
      text::printable(what) + "\n\n" + std::string(usage);
  (void)std::fputs(words.c_str(), stderr);
  return kExitUsage;
}

int unknown_command(std::string_view word, std::string_view parent, std::string_view usage) {
  const std::string words = "Error: unknown command \"" + text::printable(word) + "\" for \"" +
                            std::string(parent) + "\"\n\n" + std::string(usage);
  (void)std::fputs(words.c_str(), stderr);
  return kExitUsage;
}

}  // namespace postern::message

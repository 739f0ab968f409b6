// A progress bar on standard error for work that takes long: `build`, `verify`, `encrypt`, `pull`.
//
// On a terminal one line is redrawn at most ten times a second and wiped at the end, so that what
// stays on the screen are the messages. Anywhere else, and with -q or -s, nothing is printed: a
// log file wants INFO lines, not a bar.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace postern::message {

class Progress {
 public:
  // `total` in bytes, 0 where it is not known (then only what was done is shown).
  Progress(std::string label, std::uint64_t total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Adds `bytes` to what was done. One thread at a time.
  void advance(std::uint64_t bytes);
  // Replaces what was done, for work that knows its position.
  void set(std::uint64_t done);
  // Wipes the line. Call it before printing a message while a bar is up; the next advance draws
  // it again. The destructor does the same.
  void hide();

 private:
  void draw(std::chrono::steady_clock::time_point now);

  std::string label_;
  std::uint64_t total_;
  std::uint64_t done_ = 0;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point next_;
  bool enabled_;
  bool shown_ = false;
};

// The line that a terminal of `columns` columns shows; without line ends or control characters.
// Apart from the class so that it can be tested without a terminal.
std::string progress_line(std::string_view label,
                          std::uint64_t done,
                          std::uint64_t total,
                          std::chrono::milliseconds elapsed,
                          unsigned columns);

// "17 B", "1.4 MiB": three significant digits, binary units.
std::string human_bytes(std::uint64_t bytes);

}  // namespace postern::message

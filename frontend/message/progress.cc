#include "frontend/message/progress.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include <sys/ioctl.h>

#include <unistd.h>

#include "frontend/message/message.h"

namespace postern::message {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kRedraw{100};
// Work that ends sooner needs no bar: a flash on the screen tells nobody anything.
constexpr milliseconds kFirstDraw{300};
constexpr unsigned kFallbackColumns = 80;
constexpr unsigned kMinimumBar = 10;
constexpr unsigned kMaximumBar = 40;

unsigned terminal_columns() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    return size.ws_col;
  }
  return kFallbackColumns;
}

void write_error(std::string_view text) {
  if (::write(STDERR_FILENO, text.data(), text.size()) < 0) {
    return;  // the terminal is gone: nobody is left to tell
  }
}

std::string clock_text(std::uint64_t seconds) {
  std::array<char, 48> text{};
  const unsigned long long hours = seconds / 3600;
  const unsigned minutes = static_cast<unsigned>(seconds / 60 % 60);
  const unsigned rest = static_cast<unsigned>(seconds % 60);
  if (hours > 0) {
    std::snprintf(text.data(), text.size(), "%llu:%02u:%02u", hours, minutes, rest);
  } else {
    std::snprintf(text.data(), text.size(), "%02u:%02u", minutes, rest);
  }
  return text.data();
}

// `done` of `total` times `scale`, rounded down; total > 0. In floating point: the product of two
// byte counts does not fit an integer.
unsigned fraction(std::uint64_t done, std::uint64_t total, unsigned scale) {
  const double part = static_cast<double>(std::min(done, total)) / static_cast<double>(total);
  return static_cast<unsigned>(part * scale);
}

}  // namespace

std::string human_bytes(std::uint64_t bytes) {
  static constexpr std::array kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  std::array<char, 32> text{};
  const int digits = unit == 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  std::snprintf(text.data(), text.size(), "%.*f %s", digits, value, kUnits[unit]);
  return text.data();
}

std::string progress_line(std::string_view label,
                          std::uint64_t done,
                          std::uint64_t total,
                          std::chrono::milliseconds elapsed,
                          unsigned columns) {
  std::string tail = human_bytes(done);
  if (total > 0) {
    tail += " / " + human_bytes(total);
  }
  const auto ms = static_cast<std::uint64_t>(std::max<std::int64_t>(elapsed.count(), 1));
  const double rate = static_cast<double>(done) * 1000 / static_cast<double>(ms);
  tail += "  " + human_bytes(static_cast<std::uint64_t>(rate)) + "/s";
  if (total > done && done > 0) {
    const double left = static_cast<double>(total - done) / std::max(rate, 1.0);
    tail += "  " + clock_text(static_cast<std::uint64_t>(left) + 1) + " left";
  } else {
    tail += "  " + clock_text(ms / 1000);
  }

  std::string line(label);
  const std::size_t fixed = label.size() + tail.size() + 12;  // blanks, brackets, " 100%"
  if (total > 0 && columns > fixed + kMinimumBar) {
    const auto room = static_cast<unsigned>(columns - fixed);
    const unsigned width = std::min(room, kMaximumBar);
    const unsigned full = fraction(done, total, width);
    line += " [" + std::string(full, '=');
    if (full < width) {
      line += '>' + std::string(width - full - 1, ' ');
    }
    line += ']';
  }
  if (total > 0) {
    std::array<char, 16> percent{};
    std::snprintf(percent.data(), percent.size(), " %3u%%", fraction(done, total, 100));
    line += percent.data();
  }
  line += "  " + tail;
  // The last column stays free: writing to it makes some terminals wrap.
  if (columns > 1 && line.size() >= columns) {
    line.resize(columns - 1);
  }
  return line;
}

Progress::Progress(std::string label, std::uint64_t total)
    : label_(std::move(label)),
      total_(total),
      start_(std::chrono::steady_clock::now()),
      next_(start_ + kFirstDraw),
      enabled_(::isatty(STDERR_FILENO) == 1 && threshold() >= Level::kInfo) {}

Progress::~Progress() {
  hide();
}

void Progress::advance(std::uint64_t bytes) {
  set(done_ + bytes);
}

void Progress::set(std::uint64_t done) {
  done_ = done;
  if (!enabled_) {
    return;
  }
  const auto now = std::chrono::steady_clock::now();
  if (now >= next_) {
    draw(now);
  }
}

void Progress::draw(std::chrono::steady_clock::time_point now) {
  next_ = now + kRedraw;
  shown_ = true;
  const auto elapsed = std::chrono::duration_cast<milliseconds>(now - start_);
  write_error("\r" + progress_line(label_, done_, total_, elapsed, terminal_columns()) + "\x1b[K");
}

void Progress::hide() {
  if (shown_) {
    write_error("\r\x1b[K");
    shown_ = false;
  }
}

}  // namespace postern::message

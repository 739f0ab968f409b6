// A terminal for a process that joins an instance. The process is in another session than the
// caller, whose terminal it cannot control: it gets one of its own, and what is typed and written
// goes to and fro between the two. Through the new one nothing can be put into the caller's.
#pragma once

#include <array>
#include <optional>
#include <string>

#include <termios.h>

#include "protocol/base/unique_fd.h"

namespace postern::instance {

class Terminal {
 public:
  // Where 0 and 1 are a terminal in whose foreground this process is. nullopt: there is none, or no
  // new one to be had; then the descriptors go to the process as they are.
  static std::optional<Terminal> open();

  Terminal(Terminal&&) noexcept = default;
  Terminal& operator=(Terminal&&) = delete;
  ~Terminal();

  // 0, 1 and 2 become the new terminal while they are handed over, as far as they are the caller's;
  // then they are as they were.
  bool lend() noexcept;
  void take_back() noexcept;

  // From here on what is typed is the process's.
  void begin() noexcept;

  // poll(2) events to wait for: -1 where there is nothing to wait for now.
  [[nodiscard]] int typed() const noexcept;

  [[nodiscard]] int written() const noexcept { return master_.get(); }

  [[nodiscard]] bool has_pending() const noexcept { return !pending_.empty(); }

  void pass_typed() noexcept;
  // False: all of them are closed, or `wait` is false and there is nothing.
  bool pass_written() noexcept;
  void flush_typed() noexcept;

  // The caller's has another size.
  void resize() noexcept;

 private:
  Terminal() = default;
  UniqueFd master_;
  UniqueFd slave_;
  std::array<UniqueFd, 3> own_;  // copies of 0, 1 and 2 while they are lent
  termios before_ = {};
  bool raw_ = false;
  bool typing_ended_ = false;
  std::string pending_;  // typed, and not taken yet
};

}  // namespace postern::instance

// Asking the user: on the terminal, or from standard input if that is no terminal (a pipe).
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "policy/problem.h"

namespace postern::message {

// Reads one line into `answer` and returns its length, without the line feed. `secret`: a terminal
// does not show what is typed. What was typed before the question counts. A signal that ends or
// stops the program does so at once, with the terminal as it was before; when a stopped program
// goes on, the question is asked again. Of a pipe, no byte behind the line is taken. Problem: no
// answer, or one that does not fit.
Outcome<std::size_t> ask_line(const std::string& prompt, bool secret, std::span<std::byte> answer);

}  // namespace postern::message

// What the program says to people: one line a message on standard error, "LEVEL:" padded to eight
// columns and a space, as Apptainer prints them, so that scripts that grep keep working.
#pragma once

#include <string_view>

#include "policy/problem.h"

namespace postern::message {

// Shown when the message's level is at most the threshold.
enum class Level : int {
  kFatal = -4,
  kError = -3,
  kWarning = -2,
  kLog = -1,
  kInfo = 1,
  kVerbose = 4,
  kDebug = 5,
};

// Set once at start, from -d -v -q -s or POSTERN_MESSAGELEVEL. Default kInfo. Colour is used where
// `colour` is true and standard error is a terminal. From here on a program that runs out of memory
// ends with a line that says so (std::set_terminate), not with abort(3).
void configure(Level threshold, bool colour) noexcept;
Level threshold() noexcept;

// For programs that bin/postern executes: takes both from POSTERN_MESSAGELEVEL and POSTERN_NOCOLOR,
// which it exports.
void configure_from_environment() noexcept;

// Control characters in `text` are shown as \xNN: text may come from an image.
void error(std::string_view text);
void warning(std::string_view text);
void info(std::string_view text);
void verbose(std::string_view text);
void debug(std::string_view text);  // with the time since the program began

// Prints "FATAL:   what" and, where there is one, the cure on the same line after "; ". Nothing
// where `what` is empty: then another program has said it already. Nothing for a problem without
// words.
void fatal(const Problem& problem);

// For a command line that cannot be: what is wrong with that of `command` ("": of postern), or the
// `word` that names no command of `parent`, an empty line and `usage`. Both return the exit status
// for that.
int wrong_usage(std::string_view command, std::string_view what, std::string_view usage);
int unknown_command(std::string_view word, std::string_view parent, std::string_view usage);

}  // namespace postern::message

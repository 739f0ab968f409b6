// Environment scripts of images, interpreted without a shell where they are plain enough.
//
// Nearly every image's /.singularity.d/env consists of comments, exports of literals and the few
// conditionals that image builders generate. Starting the image's /bin/sh for those costs more than
// the rest of a start (exec, dynamic linking, reading libc through decompression), so they are
// interpreted here; whatever is not understood to the last character is left to the shell.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "frontend/init/environment.h"

namespace postern::init {

// Runs the script on `environment`. False: it holds something that only a shell may interpret, or
// would fail; `environment` is then in an undefined state.
//
// Understood (POSIX.1-2017 XCU chapter 2): comments, NAME=WORD, export, unset, `. FILE`,
// if/else/fi on `[ -z|-n|-d|-f|-e WORD ]` or test, with `; then` on the line of the condition.
bool interpret(std::string_view script, Environment& environment);

// What the value of a forwarded variable means inside double quotes: $NAME, ${NAME}, ${NAME:-WORD}
// and backslash escapes. nullopt where it takes a shell (command substitution …).
std::optional<std::string> expand_value(std::string_view value, const Environment& environment);

// The words of a command line, quotes and expansions resolved; nullopt where it holds more than
// words, or an expansion outside quotes.
std::optional<std::vector<std::string>> split_words(std::string_view line,
                                                    const Environment& environment);

// What a runscript that was generated from an OCI image's ENTRYPOINT and CMD executes, given the
// caller's arguments: so that images without a shell run. Two forms are known, both exactly:
// `[ $# -gt 0 ] || set -- CMD` (optional) and `exec ENTRYPOINT "$@"`, which our builds write; and,
// where the image has no shell (`shell` false), OCI_ENTRYPOINT='…' and OCI_CMD='…' of other builds.
std::optional<std::vector<std::string>> oci_command(std::string_view script,
                                                    const std::vector<std::string>& arguments,
                                                    const Environment& environment,
                                                    bool shell);

// At most this much of a script is read; a longer one is left to the shell.
inline constexpr std::size_t kMaxScriptBytes = 256 * 1024;

// The bytes of a regular file of at most kMaxScriptBytes; nullopt otherwise.
std::optional<std::string> read_script(const char* path);

}  // namespace postern::init

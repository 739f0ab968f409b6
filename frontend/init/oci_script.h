// Runscripts that were generated from an OCI image's ENTRYPOINT and CMD, understood without a
// shell.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "frontend/shell/environment.h"

namespace postern::init {

using shell::Environment;

// What a runscript that was generated from an OCI image's ENTRYPOINT and CMD executes, given the
// caller's arguments: so that images without a shell run. Two forms are known, both exactly:
// `[ $# -gt 0 ] || set -- CMD` (optional) and `exec ENTRYPOINT "$@"`, which our builds write; and,
// where the image has no shell (`shell` false), OCI_ENTRYPOINT='…' and OCI_CMD='…' of other builds.
std::optional<std::vector<std::string>> oci_command(std::string_view script,
                                                    const std::vector<std::string>& arguments,
                                                    const Environment& environment,
                                                    bool shell);

// At most this much of a script is read.
inline constexpr std::size_t kMaxScriptBytes = 256 * 1024;

// The bytes of a regular file of at most kMaxScriptBytes; nullopt otherwise.
std::optional<std::string> read_script(const char* path);

}  // namespace postern::init

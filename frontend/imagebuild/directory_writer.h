// Writes a tree to a directory of this host (a sandbox).
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "frontend/imagebuild/source.h"
#include "protocol/base/unique_fd.h"

namespace postern::imagebuild {

// What of an image gives rights on this host to whoever reaches the directory: set-user-ID and
// set-group-ID programs, device nodes, and attributes outside of user.* (file capabilities,
// trusted.overlay.*).
enum class Privileged : std::uint8_t { kLeaveOut, kKeep };

// Fills the empty directory at `path`. As root, owners and devices are made; else what cannot be
// made is left out, with one warning for all of a kind. tree.finish() must have been called.
Outcome<> write_directory(Tree& tree,
                          Source& source,
                          const std::string& path,
                          Privileged privileged,
                          message::Progress& progress);

// Takes what Privileged::kLeaveOut leaves out away from a directory that programs have worked in.
Outcome<> take_privileges(const std::string& path);

// Opens the bytes of a file of Origin::kHost.
using HostOpener = std::function<Outcome<UniqueFd>(InodeId)>;

// Writes what the build adds to a source (every Origin but kSource) into the present directory at
// `path`, in place of what stands there under their names.
Outcome<> write_additions(const Tree& tree, const HostOpener& open, const std::string& path);

}  // namespace postern::imagebuild

// Containers where "/" is the initramfs itself.
#pragma once

#include "protocol/base/result.h"

namespace postern::start {

// pivot_root(2), ERRORS: EINVAL if the current root is mounted on nothing, as the initramfs is.
// This gives the process another mount namespace, where a clone of the whole tree lies on the
// initramfs and is the root and the directory of the process, so that pivot_root works in what
// follows.
//
// The initramfs stays below whatever becomes the root then. No ".." leads there, because its place
// is the very root of the namespace. But what has all capabilities in the user namespace could take
// away the mount above it and enter its own mount namespace once more. So the namespace that is
// made belongs to a user namespace below that of this process: what is copied into a less
// privileged mount namespace nobody can take apart there (mount_namespaces(7)), and pivot_root(2)
// hands that on from the old root to the new.
//
// For a process with all capabilities in its user namespace, a mount namespace of its own and no
// other thread. Allocates nothing. ORDER: a descriptor of a directory that was opened before is one
// of another mount namespace afterwards.
Result<> cover_initramfs() noexcept;

}  // namespace postern::start

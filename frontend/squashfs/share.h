// Lets later starts of the same image use this mount.
#pragma once

#include <sys/types.h>

namespace postern::squashfs {

// Answers every connection of user `uid` on the listening unix socket `listening` with two messages
// of one byte. With the first come two descriptors: `fuse`, and `user_namespace` (left out where it
// is -1), which must outlive a look into /proc; with the second, this process's standard error,
// where it says what is wrong with the image. Others get nothing. Returns when the socket is shut
// down.
//
// The other side mounts the first again, in its own mount namespace but in the user namespace
// of the first mount: the kernel (5.15 and later) then gives it the same superblock, so the page
// and dentry caches are shared, and the connection lives until the last mount is gone. Where that
// has happened already the mount fails with ENOTCONN, and where this process is gone the connection
// ends without a byte: both mean "start your own". The other side must close the descriptor after
// the mount: while anybody holds one, a dead server looks like a slow one.
void share_mount(int listening, int fuse, int user_namespace, uid_t uid) noexcept;

}  // namespace postern::squashfs

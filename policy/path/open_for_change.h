// Files that are written by name, so that root can work in a folder of another user's: what is
// changed is what root named, never what that user chose.
#pragma once

#include <string>

#include "policy/problem.h"
#include "protocol/base/unique_fd.h"

namespace postern::path {

// Is this process root of the host, not of a user namespace?
bool is_host_root();

// Opens a file or directory that is there, to change it; `flags` as in open(2), without O_CREAT.
// Root of the host follows only symbolic links that belong to root, as with
// fs.protected_symlinks (proc_sys_fs(5)) in every directory and not in sticky ones alone. All
// others follow each.
[[nodiscard]] Outcome<UniqueFd> open_for_change(const std::string& path, int flags);

// Where a file that may not be there yet is made or exchanged.
struct NewFile {
  UniqueFd directory;  // O_PATH, reached by the rule above
  std::string name;

  // A path of the file that no exchange of a directory redirects: proc_pid_fd(5).
  [[nodiscard]] std::string path() const {
    return "/proc/self/fd/" + std::to_string(directory.get()) + '/' + name;
  }
};

[[nodiscard]] Outcome<NewFile> place_of_new_file(const std::string& path);

}  // namespace postern::path

#include "frontend/system/scratch_file.h"

#include <cerrno>
#include <cstdlib>

#include <fcntl.h>
#include <unistd.h>

#include "policy/write_problem.h"

namespace postern::system {

Outcome<UniqueFd> scratch_file(const std::string& directory) {
  UniqueFd file(::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  // COMPAT: file systems without O_TMPFILE (NFS, Lustre, FUSE): open(2), ERRORS.
  if (!file.valid() && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
    std::string name = directory + "/.postern-XXXXXX";
    file = UniqueFd(::mkostemp(name.data(), O_CLOEXEC));
    if (file.valid()) {
      ::unlink(name.c_str());
    }
  }
  if (!file.valid()) {
    return scratch_problem(directory, errno);
  }
  return file;
}

Problem scratch_problem(const std::string& directory, int err) {
  return write_problem("writing a temporary file in '" + directory + "'", err,
                       "choose another directory with --tmpdir");
}

}  // namespace postern::system

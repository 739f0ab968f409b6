#include "policy/write_problem.h"

#include <cerrno>
#include <string_view>

namespace postern {

bool is_full(int err) {
  return err == ENOSPC || err == EDQUOT;
}

Problem write_problem(std::string doing, int err, const std::string& elsewhere) {
  const std::string first(is_full(err) ? "make room, or "
                          : err == EIO ? "have the disk and the file system checked, or "
                                       : "");
  return system_problem(std::move(doing), err, first + elsewhere);
}

}  // namespace postern

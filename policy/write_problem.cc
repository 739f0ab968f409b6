#include "policy/write_problem.h"

#include <cerrno>
#include <string_view>

namespace postern {
namespace {

constexpr std::string_view kMakeRoom = "make room, or ";

}  // namespace

bool is_full(int err) {
  return err == ENOSPC || err == EDQUOT;
}

bool is_full(const Problem& problem) {
  return problem.cure.starts_with(kMakeRoom);
}

Problem write_problem(std::string doing, int err, const std::string& elsewhere) {
  const std::string first(is_full(err) ? kMakeRoom
                          : err == EIO ? "have the disk and the file system checked, or "
                                       : "");
  return system_problem(std::move(doing), err, first + elsewhere);
}

}  // namespace postern

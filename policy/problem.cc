#include "policy/problem.h"

#include <cerrno>
#include <cstring>

namespace postern {
namespace {

// What is exhausted is the cure, whatever was being done. Else "".
const char* limit_cure(int err) noexcept {
  switch (err) {
    case EMFILE:
      return "this process may have no more open files: raise `ulimit -n` (64 are enough for a "
             "start)";
    case ENFILE:
      return "the node has no more open files: ask for a larger sysctl fs.file-max";
    case ENOMEM:
      return "there is no more memory: raise `ulimit -v` and `ulimit -d`, or the batch system's "
             "limit";
    case EFBIG:
      return "files may not be that large: raise `ulimit -f`";
    default:
      return "";
  }
}

}  // namespace

Problem system_problem(std::string doing, int err, std::string cure) {
  const char* words = strerrordesc_np(err);  // strerror(3): no locale, no static buffer
  doing += ": ";
  doing += words != nullptr ? words : "unknown error";
  if (const std::string limit = limit_cure(err); !limit.empty()) {
    cure = limit;
  }
  return Problem{.what = std::move(doing), .cure = std::move(cure)};
}

Problem path_problem(std::string doing, int err, std::string cure) {
  if (err == EACCES) {
    cure = "ask its owner for read permission on it, and search permission on its directories";
  } else if (err != ENOENT && err != ENOTDIR) {
    cure.clear();
  }
  return system_problem(std::move(doing), err, std::move(cure));
}

}  // namespace postern

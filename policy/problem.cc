#include "policy/problem.h"

#include <cstring>

namespace postern {

Problem system_problem(std::string doing, int err, std::string cure) {
  const char* words = strerrordesc_np(err);  // strerror(3): no locale, no static buffer
  doing += ": ";
  doing += words != nullptr ? words : "unknown error";
  return Problem{.what = std::move(doing), .cure = std::move(cure)};
}

}  // namespace postern

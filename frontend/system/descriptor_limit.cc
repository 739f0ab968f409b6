#include "frontend/system/descriptor_limit.h"

#include <cerrno>
#include <string>

namespace postern::system {
namespace {

constexpr rlim_t kUsual = 96;  // servers, sockets, what the caller left open

}  // namespace

Outcome<DescriptorLimit> DescriptorLimit::for_sources(std::size_t count) {
  DescriptorLimit limit;
  rlimit now{};
  const rlim_t needed = count + kUsual;
  if (::getrlimit(RLIMIT_NOFILE, &now) != 0 || now.rlim_cur >= needed) {
    return limit;
  }
  if (now.rlim_max < needed && count > kUsual) {
    return Problem{.what = "a start with " + std::to_string(count) + " mounts and files needs " +
                           std::to_string(needed) + " open files, and the limit is " +
                           std::to_string(now.rlim_max),
                   .cure =
                       "raise the hard limit (ulimit -Hn), or bind a directory that holds the "
                       "files, not each file"};
  }
  const rlimit raised{.rlim_cur = now.rlim_max, .rlim_max = now.rlim_max};
  if (::setrlimit(RLIMIT_NOFILE, &raised) == 0) {
    limit.callers_ = now;
    limit.raised_ = raised;
  }
  return limit;
}

}  // namespace postern::system

#include "frontend/system/descriptor.h"

#include <cerrno>

#include <sys/mman.h>

#include <fcntl.h>
#include <unistd.h>

namespace postern::system {
Outcome<UniqueFd> make_content_fd(const char* name, std::string_view bytes) {
  UniqueFd file(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!file.valid()) {
    return system_problem("creating a memory file", errno);
  }
  while (!bytes.empty()) {
    const ssize_t put = ::write(file.get(), bytes.data(), bytes.size());
    if (put <= 0) {
      return system_problem("filling a memory file", errno);
    }
    bytes.remove_prefix(static_cast<std::size_t>(put));
  }
  if (::fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) !=
      0) {
    return system_problem("sealing a memory file", errno);
  }
  return file;
}

}  // namespace postern::system

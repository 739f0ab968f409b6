#include "frontend/squashfs/accounts.h"

#include <cerrno>
#include <string>

#include <sys/stat.h>

#include <unistd.h>

#include "frontend/squashfs/path_reader.h"
#include "protocol/limits.h"

namespace postern::squashfs {
namespace {

// Missing is not wrong: an image need not have accounts.
bool is_absent(int error) noexcept {
  return error == ENOENT || error == ENOTDIR || error == ELOOP;
}

}  // namespace

Outcome<> write_all(int out, const std::string& text) noexcept {
  for (std::size_t done = 0; done < text.size();) {
    const ssize_t written = ::write(out, text.data() + done, text.size() - done);
    if (written < 0 && errno != EINTR) {
      return system_problem("postern-squashfs: handing over a file of the image", errno);
    }
    done += written > 0 ? static_cast<std::size_t>(written) : 0;
  }
  return Ok{};
}

Outcome<> write_accounts(Image& image, int out) noexcept {
  PathReader paths(image);
  for (const char* path : {"/etc/passwd", "/etc/group"}) {
    const auto inode = paths.resolve(path);
    if (!inode && !is_absent(inode.error().number)) {
      return system_problem(std::string("reading ") + path + " in the image", inode.error().number);
    }
    if (!inode || !S_ISREG(inode->mode)) {
      POSTERN_TRY(write_all(out, "-\n"));
      continue;
    }
    const auto text = paths.bytes(*inode, kMaxFileBytes);
    if (!text) {
      return system_problem(std::string("reading ") + path + " in the image", text.error().number);
    }
    POSTERN_TRY(write_all(out, std::to_string(text->size()) + '\n' + *text));
  }
  return Ok{};
}

}  // namespace postern::squashfs

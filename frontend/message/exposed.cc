#include "frontend/message/exposed.h"

#include <sys/stat.h>

#include <unistd.h>

#include "frontend/message/message.h"

namespace postern::message {

void warn_if_exposed(int fd, const std::string& path, std::string_view text) {
  const auto holds = [&](std::string_view words) { return text.find(words) != text.npos; };
  const bool encrypted =
      holds("-----BEGIN ENCRYPTED PRIVATE KEY-----") || holds("Proc-Type: 4,ENCRYPTED");
  struct stat status{};
  if (!holds("PRIVATE KEY-----") || encrypted || ::fstat(fd, &status) != 0 ||
      !S_ISREG(status.st_mode)) {
    return;
  }
  if ((status.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
    warning(path + " holds a private key and is open to others: chmod 600 " + path);
  } else if (status.st_uid != ::geteuid() && status.st_uid != 0) {
    warning(path + " holds a private key and belongs to another user");
  }
}

}  // namespace postern::message

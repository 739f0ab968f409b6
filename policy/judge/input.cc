#include "policy/judge/input.h"

#include <cerrno>
#include <cstddef>
#include <span>

#include <sys/stat.h>

#include <unistd.h>

#include "protocol/judge_input.h"
#include "protocol/launch_request.h"
#include "protocol/limits.h"

namespace postern::judge {
namespace {

bool read_exactly(int fd, std::span<std::byte> out, std::size_t offset) {
  while (!out.empty()) {
    const ssize_t got = ::pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
    if (got <= 0) {
      return false;
    }
    out = out.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::size_t>(got);
  }
  return true;
}

Error malformed() {
  return Error{.err = EBADMSG, .op = Op::kJudge};
}

}  // namespace

Result<Input> read_input(int fd) noexcept {
  struct stat status{};
  JudgeInput head{};
  if (::fstat(fd, &status) != 0 || status.st_size < static_cast<off_t>(sizeof head) ||
      !read_exactly(fd, std::as_writable_bytes(std::span(&head, 1)), 0)) {
    return malformed();
  }
  const std::size_t group_bytes = static_cast<std::size_t>(status.st_size) - sizeof head;
  if (head.magic != kJudgeInputMagic || head.descriptor_count > kMaxDescriptors ||
      group_bytes % sizeof(gid_t) != 0 || group_bytes > kMaxGroups * sizeof(gid_t)) {
    return malformed();
  }
  Input input{.uid = head.uid,
              .gid = head.gid,
              .descriptors = head.descriptor_count,
              .open_for_writing = head.open_for_writing != 0};
  input.groups.resize(group_bytes / sizeof(gid_t));
  if (!read_exactly(fd, std::as_writable_bytes(std::span(input.groups)), sizeof head) ||
      ::lseek(fd, 0, SEEK_SET) != 0) {
    return malformed();
  }
  return input;
}

std::vector<std::byte> read_request(int fd) noexcept {
  struct stat status{};
  if (::fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size < 0 ||
      static_cast<std::size_t>(status.st_size) > kMaxRequestBytes) {
    return {};
  }
  std::vector<std::byte> request(static_cast<std::size_t>(status.st_size));
  return read_exactly(fd, request, 0) ? request : std::vector<std::byte>();
}

}  // namespace postern::judge

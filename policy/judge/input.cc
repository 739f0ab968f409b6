#include "policy/judge/input.h"

#include <cerrno>
#include <span>

#include <sys/stat.h>

#include <unistd.h>

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
  if (::fstat(fd, &status) != 0) {
    return Error{.err = errno, .op = Op::kJudge};
  }
  Input input;
  const auto bytes = static_cast<std::size_t>(status.st_size);
  if (!S_ISREG(status.st_mode) || bytes < sizeof input.head ||
      !read_exactly(fd, std::as_writable_bytes(std::span(&input.head, 1)), 0)) {
    return malformed();
  }
  const JudgeInput& head = input.head;
  const std::size_t group_bytes = std::size_t{head.group_count} * sizeof(std::uint32_t);
  const std::size_t body = bytes - sizeof head;
  if (head.magic != kJudgeInputMagic || head.reserved != 0 || head.group_count > kMaxGroups ||
      head.descriptor_count > kMaxDescriptors || group_bytes > body ||
      body - group_bytes > kMaxRequestBytes) {
    return malformed();
  }
  input.groups.resize(head.group_count);
  input.request.resize(body - group_bytes);
  if (!read_exactly(fd, std::as_writable_bytes(std::span(input.groups)), sizeof head) ||
      !read_exactly(fd, input.request, sizeof head + group_bytes)) {
    return malformed();
  }
  return input;
}

}  // namespace postern::judge

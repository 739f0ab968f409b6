#include "policy/judge/input.h"

#include <cerrno>
#include <cstddef>
#include <memory>
#include <span>

#include <sys/stat.h>

#include <unistd.h>

#include "protocol/judge_input.h"
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
  const auto head = std::make_unique<JudgeInput>();
  constexpr std::size_t kFixed = offsetof(JudgeInput, groups);
  if (!read_exactly(fd, std::as_writable_bytes(std::span(head.get(), 1)).first(kFixed), 0) ||
      head->magic != kJudgeInputMagic || head->group_count > kMaxGroups ||
      head->descriptor_count > kMaxDescriptors) {
    return malformed();
  }
  Input input{.uid = head->uid, .gid = head->gid, .descriptors = head->descriptor_count};
  input.groups.resize(head->group_count);
  if (!read_exactly(fd, std::as_writable_bytes(std::span(input.groups)), kFixed) ||
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

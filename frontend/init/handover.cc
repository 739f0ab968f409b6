#include "frontend/init/handover.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include <sys/socket.h>
#include <sys/uio.h>

#include <fcntl.h>
#include <unistd.h>

namespace postern::init {
namespace {

// Of one message. SCM_MAX_FD of the kernel is 253 (unix(7)).
constexpr std::size_t kMostAtOnce = 250;
constexpr std::int32_t kRecordNumber = -1;
constexpr int kLowest = 3;  // 0, 1 and 2 are inherited as they are

// remaining: descriptors of the messages to come; numbers: one for each of this message.
struct Message {
  std::int32_t remaining = 0;
  std::array<std::int32_t, kMostAtOnce> numbers{};
};

struct alignas(cmsghdr) Control {
  std::array<std::byte, CMSG_SPACE(sizeof(int) * kMostAtOnce)> bytes;
};

constexpr std::size_t bytes_of(std::size_t count) {
  return offsetof(Message, numbers) + count * sizeof(std::int32_t);
}

Result<> send_some(int socket, Message& message, std::span<const int> descriptors) noexcept {
  Control control;
  iovec part{.iov_base = &message, .iov_len = bytes_of(descriptors.size())};
  msghdr header{.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes.data()};
  header.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
  cmsghdr* const rights = CMSG_FIRSTHDR(&header);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(descriptors.size_bytes());
  std::memcpy(CMSG_DATA(rights), descriptors.data(), descriptors.size_bytes());
  ssize_t sent = -1;
  do {
    sent = ::sendmsg(socket, &header, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent == static_cast<ssize_t>(part.iov_len) ? Result<>(Ok{})
                                                    : Error{.err = errno, .op = Op::kStart};
}

struct Received {
  UniqueFd fd;
  int number = kRecordNumber;
};

Result<std::int32_t> receive_some(int socket, std::vector<Received>& all) {
  Message message;
  Control control;
  iovec part{.iov_base = &message, .iov_len = sizeof message};
  msghdr header{.msg_iov = &part,
                .msg_iovlen = 1,
                .msg_control = control.bytes.data(),
                .msg_controllen = sizeof control};
  ssize_t got = -1;
  do {
    got = ::recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  const cmsghdr* const rights = got > 0 ? CMSG_FIRSTHDR(&header) : nullptr;
  if (rights == nullptr || rights->cmsg_type != SCM_RIGHTS) {
    return Error{.err = got == 0 ? ECONNRESET : EBADMSG, .op = Op::kStart};
  }
  const std::size_t count = (rights->cmsg_len - CMSG_LEN(0)) / sizeof(int);
  for (std::size_t i = 0; i < count; ++i) {
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(rights) + i * sizeof fd, sizeof fd);
    all.push_back({UniqueFd(fd), message.numbers[std::min(i, kMostAtOnce - 1)]});
  }
  // MSG_CTRUNC: this process may not have so many descriptors (`ulimit -n`).
  const bool whole = (header.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) == 0 &&
                     static_cast<std::size_t>(got) == bytes_of(count);
  return whole ? Result<std::int32_t>(message.remaining) : Error{.err = EMFILE, .op = Op::kStart};
}

// Descriptor `at` under its number: what is in the way, one of ours, moves first.
Result<> place(std::vector<Received>& all, std::size_t at, int lowest) {
  Received& one = all[at];
  if (one.number < lowest) {
    return Error{.err = EBADMSG, .op = Op::kStart};
  }
  if (one.fd.get() != one.number) {
    const auto in_the_way = std::find_if(all.begin(), all.end(), [&](const Received& other) {
      return other.fd.get() == one.number;
    });
    if (in_the_way != all.end()) {
      const int moved = ::fcntl(one.number, F_DUPFD_CLOEXEC, kLowest);
      if (moved < 0) {
        return Error{.err = errno, .op = Op::kStart};
      }
      in_the_way->fd.reset(moved);
    }
    if (::dup2(one.fd.get(), one.number) < 0) {
      return Error{.err = errno, .op = Op::kStart};
    }
    one.fd.reset(one.number);
  }
  return ::fcntl(one.number, F_SETFD, 0) == 0 ? Result<>(Ok{})
                                              : Error{.err = errno, .op = Op::kStart};
}

}  // namespace

Result<> hand_over(int socket, int record, std::span<const int> inherited) noexcept {
  std::array<int, kMostAtOnce> descriptors{};
  std::size_t sent = 0;
  for (bool first = true; first || sent < inherited.size(); first = false) {
    Message message;
    std::size_t count = 0;
    if (first) {
      descriptors[0] = record;
      message.numbers[0] = kRecordNumber;
      count = 1;
    }
    for (; count < kMostAtOnce && sent < inherited.size(); ++count, ++sent) {
      descriptors[count] = inherited[sent];
      message.numbers[count] = inherited[sent];
    }
    message.remaining = static_cast<std::int32_t>(inherited.size() - sent);
    POSTERN_TRY(send_some(socket, message, std::span<const int>(descriptors).first(count)));
  }
  return Ok{};
}

namespace {

Result<> receive_all(int socket, std::vector<Received>& all) {
  for (std::int32_t remaining = 1; remaining > 0;) {
    POSTERN_TRY_ASSIGN(remaining, receive_some(socket, all));
  }
  const bool has_record = !all.empty() && all.front().number == kRecordNumber;
  return has_record ? Result<>(Ok{}) : Error{.err = EBADMSG, .op = Op::kStart};
}

Result<UniqueFd> place_all(std::vector<Received>& all, int lowest) {
  for (std::size_t i = 1; i < all.size(); ++i) {
    POSTERN_TRY(place(all, i, lowest));
  }
  for (std::size_t i = 1; i < all.size(); ++i) {
    (void)all[i].fd.release();  // the payload's now
  }
  return std::move(all.front().fd);
}

}  // namespace

Result<UniqueFd> take_over(UniqueFd socket) {
  std::vector<Received> all;
  POSTERN_TRY(receive_all(socket.get(), all));
  socket.reset();
  return place_all(all, kLowest);
}

Result<UniqueFd> take_over_all(UniqueFd& socket) {
  std::vector<Received> all;
  POSTERN_TRY(receive_all(socket.get(), all));
  int highest = kLowest;
  for (const Received& one : all) {
    highest = std::max(highest, one.number);
  }
  UniqueFd moved(::fcntl(socket.get(), F_DUPFD_CLOEXEC, highest + 1));
  if (!moved.valid()) {
    return Error{.err = errno == EINVAL ? EMFILE : errno, .op = Op::kStart};
  }
  socket = std::move(moved);
  return place_all(all, 0);
}

}  // namespace postern::init

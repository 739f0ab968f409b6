#include "protocol/channel.h"

#include <array>
#include <cstring>
#include <vector>

#include <sys/socket.h>
#include <sys/stat.h>

#include <doctest/doctest.h>
#include <fcntl.h>

#include "protocol/base/unique_fd.h"

using postern::kMaxDescriptors;
using postern::kMaxRights;
using postern::send_request;
using postern::UniqueFd;

namespace {

struct Pair {
  UniqueFd a;
  UniqueFd b;
};

Pair seqpacket_pair() {
  int ends[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

// The descriptors of all datagrams, each of which must be one byte; the last one's is 0.
std::vector<UniqueFd> receive(int socket) {
  std::vector<UniqueFd> got;
  for (char byte = 1; byte != 0;) {
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMaxRights)> control{};
    iovec part{.iov_base = &byte, .iov_len = 1};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    REQUIRE(::recvmsg(socket, &message, MSG_CMSG_CLOEXEC) == 1);
    CHECK((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0);
    const cmsghdr* const rights = CMSG_FIRSTHDR(&message);
    REQUIRE(rights != nullptr);
    REQUIRE(rights->cmsg_type == SCM_RIGHTS);
    for (std::size_t i = 0; i < (rights->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(rights) + i * sizeof fd, sizeof fd);
      got.emplace_back(fd);
    }
  }
  return got;
}

dev_t device_of(int fd) {
  struct stat status{};
  return ::fstat(fd, &status) == 0 ? status.st_rdev : 0;
}

}  // namespace

TEST_SUITE("protocol/channel") {
  TEST_CASE("the request goes first, then its descriptors in order") {
    const Pair pair = seqpacket_pair();
    const UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    const UniqueFd zero(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
    const UniqueFd full(::open("/dev/full", O_RDONLY | O_CLOEXEC));
    REQUIRE(send_request(pair.a.get(), full.get(), std::array{null.get(), zero.get()}));
    const std::vector<UniqueFd> got = receive(pair.b.get());
    REQUIRE(got.size() == 3);
    CHECK(device_of(got[0].get()) == device_of(full.get()));
    CHECK(device_of(got[1].get()) == device_of(null.get()));
    CHECK(device_of(got[2].get()) == device_of(zero.get()));
  }

  TEST_CASE("a request may have no descriptors, or as many as the limit, and not one more") {
    const Pair pair = seqpacket_pair();
    const UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    for (const std::size_t count : {std::size_t{0}, kMaxRights - 1, kMaxRights, kMaxDescriptors}) {
      REQUIRE(send_request(pair.a.get(), null.get(), std::vector<int>(count, null.get())));
      CHECK(receive(pair.b.get()).size() == 1 + count);
    }
    const auto more =
        send_request(pair.a.get(), null.get(), std::vector<int>(kMaxDescriptors + 1, null.get()));
    REQUIRE_FALSE(more);
    CHECK(more.error().err == EMSGSIZE);
  }

  TEST_CASE("a peer that is gone is an error, and no signal") {
    Pair pair = seqpacket_pair();
    pair.a.reset();
    const auto sent = send_request(pair.b.get(), pair.b.get(), {});
    REQUIRE_FALSE(sent);
    CHECK(sent.error().err == EPIPE);
  }
}

#include "protocol/channel.h"

#include <algorithm>
#include <vector>

#include <sys/socket.h>
#include <sys/stat.h>

#include <doctest/doctest.h>
#include <fcntl.h>

using postern::kMaxDescriptors;
using postern::receive_datagram;
using postern::Received;
using postern::send_datagram;
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

std::size_t open_descriptors() {
  std::size_t n = 0;
  for (int fd = 0; fd < 1024; ++fd) {
    n += ::fcntl(fd, F_GETFD) >= 0 ? 1U : 0U;
  }
  return n;
}

}  // namespace

TEST_SUITE("protocol/channel") {
  TEST_CASE("bytes and descriptors arrive in order and close-on-exec") {
    const Pair pair = seqpacket_pair();
    const UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    const UniqueFd zero(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
    const std::array<std::byte, 3> bytes{std::byte{1}, std::byte{2}, std::byte{3}};
    const std::array<int, 2> fds{null.get(), zero.get()};
    REQUIRE(send_datagram(pair.a.get(), bytes, fds));

    std::array<std::byte, 16> buffer{};
    Received received;
    REQUIRE(receive_datagram(pair.b.get(), buffer, received));
    CHECK(received.bytes == 3);
    CHECK(buffer[2] == std::byte{3});
    REQUIRE(received.descriptors == 2);
    struct stat got{}, want{};
    ::fstat(received.fds[1].get(), &got);
    ::fstat(zero.get(), &want);
    CHECK(got.st_rdev == want.st_rdev);
    CHECK((::fcntl(received.fds[0].get(), F_GETFD) & FD_CLOEXEC) != 0);
  }

  TEST_CASE("as many descriptors as the limit arrive; one more is refused and none leaks") {
    const Pair pair = seqpacket_pair();
    const UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    const std::array<std::byte, 1> byte{};
    std::array<std::byte, 16> buffer{};
    {
      const std::vector<int> fds(kMaxDescriptors, null.get());
      REQUIRE(send_datagram(pair.a.get(), byte, fds));
      Received received;
      REQUIRE(receive_datagram(pair.b.get(), buffer, received));
      CHECK(received.descriptors == kMaxDescriptors);
    }
    CHECK_FALSE(
        send_datagram(pair.a.get(), byte, std::vector<int>(kMaxDescriptors + 1, null.get())));

    // A peer that does not use our sender: 253 is the kernel's own limit.
    const std::size_t before = open_descriptors();
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * 253)> control{};
    char payload = 'x';
    iovec part{.iov_base = &payload, .iov_len = 1};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * 253);
    const std::vector<int> many(253, null.get());
    std::copy_n(reinterpret_cast<const char*>(many.data()), sizeof(int) * 253,
                reinterpret_cast<char*>(CMSG_DATA(c)));
    REQUIRE(::sendmsg(pair.a.get(), &message, 0) == 1);
    Received received;
    const auto result = receive_datagram(pair.b.get(), buffer, received);
    REQUIRE_FALSE(result);
    CHECK(result.error().err == EMSGSIZE);
    CHECK(received.descriptors == 0);
    CHECK(open_descriptors() == before);
  }

  TEST_CASE("a datagram larger than the buffer is refused, not cut") {
    const Pair pair = seqpacket_pair();
    const std::array<std::byte, 32> bytes{};
    REQUIRE(send_datagram(pair.a.get(), bytes, {}));
    std::array<std::byte, 31> buffer{};
    Received received;
    const auto result = receive_datagram(pair.b.get(), buffer, received);
    REQUIRE_FALSE(result);
    CHECK(result.error().err == EMSGSIZE);
  }

  TEST_CASE("an unexpected control message is refused") {
    const Pair pair = seqpacket_pair();
    const int on = 1;
    REQUIRE(::setsockopt(pair.b.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
    const std::array<std::byte, 1> byte{};
    REQUIRE(send_datagram(pair.a.get(), byte, {}));
    std::array<std::byte, 16> buffer{};
    Received received;
    const auto result = receive_datagram(pair.b.get(), buffer, received);
    REQUIRE_FALSE(result);
    CHECK(result.error().err == EPROTO);
  }

  TEST_CASE("a peer that is gone is an error on both sides, and no signal") {
    Pair pair = seqpacket_pair();
    pair.a.reset();
    std::array<std::byte, 16> buffer{};
    Received received;
    const auto result = receive_datagram(pair.b.get(), buffer, received);
    REQUIRE_FALSE(result);
    CHECK(result.error().err == ENODATA);
    const auto sent = send_datagram(pair.b.get(), buffer, {});
    REQUIRE_FALSE(sent);
    CHECK(sent.error().err == EPIPE);
  }
}

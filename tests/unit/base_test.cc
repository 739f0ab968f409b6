#include <sys/wait.h>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include "protocol/base/result.h"
#include "protocol/base/unique_fd.h"
#include "tests/unit/in_child.h"

using postern::Error;
using postern::Op;
using postern::Result;
using postern::UniqueFd;

namespace {

Result<int> half(int n) {
  if (n % 2 != 0) {
    return Error{.err = EINVAL, .op = Op::kStart};
  }
  return n / 2;
}

Result<int> quarter(int n) {
  POSTERN_TRY_ASSIGN(const int h, half(n));
  return half(h);
}

}  // namespace

TEST_SUITE("protocol/base") {
  TEST_CASE("an error travels through POSTERN_TRY_ASSIGN") {
    REQUIRE(quarter(8));
    CHECK(*quarter(8) == 2);
    const auto failed = quarter(6);
    REQUIRE_FALSE(failed);
    CHECK(failed.error().err == EINVAL);
    CHECK(failed.error().op == Op::kStart);
  }

  TEST_CASE("taking the value of an error ends the process") {
    CHECK(in_child([] { return *half(3); }) == W_EXITCODE(postern::kExitBug, 0));
  }

  TEST_CASE("a descriptor is closed exactly once, and a foreign close is noticed") {
    int raw = -1;
    {
      UniqueFd fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
      raw = fd.get();
      UniqueFd other = std::move(fd);
      CHECK_FALSE(fd.valid());
      CHECK(::fcntl(raw, F_GETFD) >= 0);
    }
    CHECK(::fcntl(raw, F_GETFD) == -1);
    CHECK(in_child([] {
            UniqueFd fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
            ::close(fd.get());
            fd.reset();
            return 0;
          }) == W_EXITCODE(postern::kExitBug, 0));
  }
}

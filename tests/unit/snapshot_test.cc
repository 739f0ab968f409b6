// Each byte of an image is read once, whatever is asked for and in whichever order.
#include "policy/snapshot/snapshot.h"

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include <doctest/doctest.h>

using postern::Extent;
using postern::Snapshot;

namespace {

// A file that has other bytes at each read: 'a' at the first, 'b' at the second, …
struct Changing {
  std::uint64_t bytes = 1000;
  int reads = 0;
  std::map<std::uint64_t, int> times = {};  // that a byte was read

  Snapshot snapshot(std::size_t max_kept = 1 << 20) {
    return Snapshot(
        bytes,
        [this](std::span<std::uint8_t> out, std::uint64_t offset) -> ssize_t {
          const std::size_t size = std::min<std::size_t>({out.size(), bytes - offset, 64});
          for (std::size_t i = 0; i < size; ++i) {
            ++times[offset + i];
            out[i] = static_cast<std::uint8_t>('a' + reads % 26);
          }
          ++reads;
          return static_cast<ssize_t>(size);
        },
        max_kept);
  }

  [[nodiscard]] int most() const {
    int out = 0;
    for (const auto& [offset, count] : times) {
      out = std::max(out, count);
    }
    return out;
  }
};

std::string text(const postern::Outcome<std::span<const std::uint8_t>>& bytes) {
  REQUIRE(bytes);
  return {bytes->begin(), bytes->end()};
}

}  // namespace

TEST_SUITE("snapshot") {
  TEST_CASE("what was fetched stays, and requests that overlap read only what is missing") {
    Changing file;
    Snapshot bytes = file.snapshot();
    const auto first = bytes.fetch({100, 50}, "one");
    const std::string was = text(first);
    CHECK(text(bytes.fetch({100, 50}, "again")) == was);
    CHECK(text(bytes.fetch({110, 20}, "inside")) == was.substr(10, 20));
    const std::string around = text(bytes.fetch({80, 100}, "around"));
    CHECK(around.substr(20, 50) == was);
    CHECK(text(bytes.fetch({140, 300}, "behind")).substr(0, 40) == around.substr(60));
    CHECK(text(bytes.fetch({0, 1000}, "all")).substr(80, 100) == around);
    CHECK(text(first) == was);
    CHECK(file.most() == 1);
  }

  TEST_CASE("a stream takes what is in memory from there, and nothing of it can be read again") {
    Changing file;
    Snapshot bytes = file.snapshot();
    const std::string held = text(bytes.fetch({300, 100}, "held"));
    const auto pieces = bytes.stream({200, 400}, "stream");
    REQUIRE(pieces);
    std::string streamed;
    for (const Snapshot::Piece& piece : *pieces) {
      if (!piece.held.empty()) {
        streamed.append(piece.held.begin(), piece.held.end());
        continue;
      }
      std::vector<std::uint8_t> buffer(piece.extent.bytes);
      for (std::size_t done = 0; done < buffer.size();) {
        const auto got =
            bytes.read(piece.extent.offset + done, std::span(buffer).subspan(done), "stream");
        REQUIRE(got);
        done += *got;
      }
      streamed.append(buffer.begin(), buffer.end());
    }
    CHECK(streamed.size() == 400);
    CHECK(streamed.substr(100, 100) == held);
    CHECK(file.most() == 1);
    for (const Extent again : {Extent{200, 1}, Extent{599, 1}, Extent{300, 100}, Extent{0, 1000}}) {
      CHECK_FALSE(bytes.fetch(again, "again"));
      CHECK_FALSE(bytes.stream(again, "again"));
    }
    CHECK(bytes.fetch({600, 400}, "behind"));
    CHECK(bytes.fetch({0, 200}, "before"));
    CHECK(bytes.stream({700, 0}, "nothing"));
  }

  TEST_CASE("bounds: the file's end, a file that shrinks, too much to keep") {
    Changing file;
    Snapshot bytes = file.snapshot(500);
    CHECK_FALSE(bytes.fetch({990, 11}, "beyond"));
    CHECK_FALSE(bytes.fetch({UINT64_MAX, 2}, "beyond"));
    CHECK_FALSE(bytes.stream({1, UINT64_MAX}, "beyond"));
    CHECK(bytes.fetch({1000, 0}, "the end"));
    CHECK_FALSE(bytes.fetch({0, 501}, "too much"));
    CHECK(bytes.fetch({0, 500}, "as much as may be"));
    CHECK_FALSE(bytes.fetch({600, 1}, "and one more"));
    CHECK(bytes.fetch({100, 100}, "which is there already"));
    Changing shrinking;
    Snapshot other = shrinking.snapshot();
    shrinking.bytes = 500;
    const auto cut = other.fetch({450, 100}, "reading the header");
    REQUIRE_FALSE(cut);
    CHECK(cut.error().what == "reading the header: the file ends too early");
  }

  TEST_CASE("a read that fails is an error in words") {
    Snapshot bytes(100, [](std::span<std::uint8_t> /*out*/, std::uint64_t /*offset*/) -> ssize_t {
      return -EIO;
    });
    const auto got = bytes.fetch({0, 10}, "reading the header");
    REQUIRE_FALSE(got);
    CHECK(got.error().what == "reading the header: Input/output error");
  }
}

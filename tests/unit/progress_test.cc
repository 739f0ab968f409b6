#include "frontend/message/progress.h"

#include <chrono>
#include <string>

#include <doctest/doctest.h>

using postern::message::human_bytes;
using postern::message::progress_line;
using std::chrono::milliseconds;

TEST_SUITE("frontend/message") {
  TEST_CASE("sizes are shown with three digits and a binary unit") {
    CHECK(human_bytes(0) == "0 B");
    CHECK(human_bytes(1023) == "1023 B");
    CHECK(human_bytes(1024) == "1.00 KiB");
    CHECK(human_bytes(15ULL << 20) == "15.0 MiB");
    CHECK(human_bytes(300ULL << 30) == "300 GiB");
    CHECK(human_bytes(~0ULL) == "16.0 EiB");
  }

  TEST_CASE("a bar shows the part done, the rate and the time left") {
    const std::string line =
        progress_line("Squashing", 50 << 20, 100 << 20, milliseconds(5000), 100);
    CHECK(line.find("Squashing [") == 0);
    CHECK(line.find(" 50%") != std::string::npos);
    CHECK(line.find("50.0 MiB / 100 MiB") != std::string::npos);
    CHECK(line.find("10.0 MiB/s") != std::string::npos);
    CHECK(line.find("00:06 left") != std::string::npos);
  }

  TEST_CASE("a bar is never wider than the terminal") {
    for (const unsigned columns : {2U, 10U, 40U, 60U, 80U, 200U, 5000U}) {
      for (const std::uint64_t done : {0ULL, 1ULL, 999ULL, 1000ULL, 5000ULL}) {
        CAPTURE(columns);
        CAPTURE(done);
        CHECK(progress_line("Hashing", done, 1000, milliseconds(0), columns).size() < columns);
      }
    }
  }

  TEST_CASE("work of unknown or exceeded size shows what was done") {
    CHECK(progress_line("Reading", 1024, 0, milliseconds(1000), 80) ==
          "Reading  1.00 KiB  1.00 KiB/s  00:01");
    CHECK(progress_line("Reading", 2000, 1000, milliseconds(1000), 80).find("100%") !=
          std::string::npos);
  }
}

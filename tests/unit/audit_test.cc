#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <doctest/doctest.h>
#include <unistd.h>

#include "policy/audit/job.h"
#include "policy/audit/log.h"
#include "policy/audit/record.h"

using postern::UniqueFd;

namespace postern::audit {
namespace {

// Everything that a value may try: a line of its own, a field, a quote, a terminal's commands.
constexpr std::string_view kHostile =
    "a\nNov  1 00:00:00 host postern-judge[1]: uid=0 decision=allow\" uid=0 "
    "\x1b[2J\x7f\\\xc3\xa9\r\t\x01";

// A daemon's socket.
struct Socket {
  explicit Socket(const std::string& name) : path(name), fd(::socket(AF_UNIX, SOCK_DGRAM, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, path.c_str());
    REQUIRE(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  }

  ~Socket() { ::unlink(path.c_str()); }

  std::string next() const {
    std::array<char, 65536> buffer;
    const ssize_t got = ::recv(fd.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    return got < 0 ? "" : std::string(buffer.data(), static_cast<std::size_t>(got));
  }

  std::string path;
  UniqueFd fd;
};

std::string directory() {
  std::string name = "/tmp/postern-unit-audit-XXXXXX";
  REQUIRE(::mkdtemp(name.data()) != nullptr);
  return name;
}

bool is_printable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c <= '~'; });
}

}  // namespace

TEST_SUITE("policy/audit") {
  TEST_CASE("quoted text is printable and of bounded length") {
    CHECK(quote_for_log("plain", 100) == "\"plain\"");
    CHECK(quote_for_log("a\nb\x7f\xc3\xa9\"\\", 100) == "\"a\\x0ab\\x7f\\xc3\\xa9\\x22\\x5c\"");
    const std::string cut = quote_for_log(std::string(1000, 'a'), 50);
    CHECK(cut.size() <= 50);
    CHECK(cut.ends_with("a...\""));
    CHECK(quote_for_log(std::string(100, '\n'), 50).size() <= 50);
  }

  TEST_CASE("no value ends a line, forges a field or makes it longer than daemons take") {
    for (const std::string& value : {std::string(kHostile), std::string(4096, 'x'),
                                     std::string(4096, '\n'), std::string("\0z", 2)}) {
      Record record;
      record.add("uid", 1000);
      record.add_text("user", value, kNameBytes);
      record.add_text("path", value, kPathBytes);
      record.add_text("detail", value, kDetailBytes);
      record.add_text("ecl", value, kDetailBytes);
      record.add("last", "word");
      const std::string line = record.line();
      CAPTURE(line);
      CHECK(line.starts_with("uid=1000 user=\""));
      CHECK(is_printable(line));
      CHECK(line.size() <= kMaxLineBytes - 64);
      // Quotes come in pairs: what is not in quotes is ours.
      std::string outside;
      bool inside = false;
      for (const char c : line) {
        inside = c == '"' ? !inside : inside;
        outside += inside || c == '"' ? "" : std::string(1, c);
      }
      CHECK_FALSE(inside);
      CHECK(outside.find("uid=0") == std::string::npos);
      CHECK(outside.find("decision") == std::string::npos);
    }
  }

  TEST_CASE("the journal gets each field whole, one line each") {
    Record record;
    record.add("uid", 1000);
    record.add_text("root-path", kHostile, 40);
    record.add_text("long", std::string(4096, '\n'), 40);
    const std::string entry = record.journal_entry("postern-judge", 5);
    CHECK(entry.starts_with("MESSAGE=uid=1000 root-path=\"a\\x0aNov"));
    CHECK(entry.find("\nPRIORITY=5\nSYSLOG_FACILITY=10\nSYSLOG_IDENTIFIER=postern-judge\n") !=
          std::string::npos);
    CHECK(entry.find("\nPOSTERN_UID=1000\nPOSTERN_ROOT_PATH=a\\x0aNov") != std::string::npos);
    CHECK(entry.find("\\x01\nPOSTERN_LONG=\\x0a") != std::string::npos);
    CHECK(std::count(entry.begin(), entry.end(), '\n') == 7);
    CHECK(entry.ends_with("\\x0a\n"));
    CHECK(entry.size() > 4096 * 4);
  }

  TEST_CASE("the job is that of the group which root made, and of no other") {
    const auto job = [](const std::string& text) {
      const auto found = find_slurm_job(text);
      return found ? found->job + "/" + found->step : "";
    };
    CHECK(job("0::/system.slice/slurmstepd.scope/job_17/step_0/user/task_0\n") == "17/0");
    CHECK(job("0::/system.slice/node7_slurmstepd.scope/job_17/step_batch/user/task_0\n") ==
          "17/batch");
    CHECK(job("0::/system.slice/slurmstepd.scope/job_5\n") == "5/");
    CHECK(job("9:cpu:/\n8:memory:/slurm/uid_1000/job_99/step_extern/task_1\n1:name=systemd:/\n") ==
          "99/extern");
    CHECK(job("4:freezer:/slurm_n1/uid_0/job_3/step_interactive\n") == "3/interactive");
    // Below a group that was delegated, users name groups as they like.
    for (const char* text :
         {"", "0::/", "garbage", "0::/job_5",
          "0::/user.slice/user-1000.slice/slurm/uid_1000/job_5/step_0\n",
          "0::/user.slice/system.slice/slurmstepd.scope/job_5\n", "0::/slurm/job_5/step_0\n",
          "0::/system.slice/evil.scope/job_5\n", "0::/system.slice/slurmstepd.scope/job_5x\n",
          "0::/system.slice/slurmstepd.scope/job_\n", "0::/system.slice/slurmstepd.scope/x/job_5\n",
          "0::/system.slice/slurmstepd.scope/job_123456789012345678901\n", ":::::\n::\n0:\n"}) {
      CAPTURE(text);
      CHECK(job(text) == "");
    }
    CHECK(job("0::/system.slice/slurmstepd.scope/job_5/step_\x1b[2J\n") == "5/");
  }

  TEST_CASE("an entry goes to the syslog daemon and to the journal, and to one of both once") {
    const std::string top = directory();
    REQUIRE(::mkdir((top + "/journal").c_str(), 0700) == 0);
    Record record;
    record.add("uid", 7);
    {
      CHECK_FALSE(Log::open("p", (top + "/none").c_str(), (top + "/none").c_str()).is_present());
      const Socket syslog(top + "/log");
      const Log alone = Log::open("program", syslog.path.c_str(), (top + "/none").c_str());
      REQUIRE(alone.is_present());
      CHECK(alone.write(record, true));
      const std::string line = syslog.next();
      CHECK(line.starts_with("<84>"));
      CHECK(line.ends_with(" program[" + std::to_string(::getpid()) + "]: uid=7"));

      const Socket journal(top + "/journal/socket");
      const Log both = Log::open("program", syslog.path.c_str(), journal.path.c_str());
      CHECK(both.write(record, false));
      CHECK(syslog.next().starts_with("<85>"));
      CHECK(journal.next().starts_with("MESSAGE=uid=7\nPRIORITY=5\n"));
    }
    {
      const Socket journal(top + "/journal/socket");
      const Socket own(top + "/journal/dev-log");
      REQUIRE(::symlink(own.path.c_str(), (top + "/log").c_str()) == 0);
      const Log once = Log::open("program", (top + "/log").c_str(), journal.path.c_str());
      CHECK(once.write(record, false));
      CHECK(journal.next() != "");
      CHECK(own.next() == "");
    }
    std::filesystem::remove_all(top);
  }
}

}  // namespace postern::audit

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "frontend/start/cgroup/place.h"
#include "frontend/start/cgroup/resources.h"

using postern::Outcome;
using postern::plan::ResourceWish;
namespace cgroup = postern::start::cgroup;

namespace {

// "memory.max=1024 pids.max=5", or the error's text.
std::string text_of(const Outcome<std::vector<cgroup::Setting>>& settings) {
  if (!settings) {
    return "! " + settings.error().what;
  }
  std::string text;
  for (const cgroup::Setting& setting : *settings) {
    for (const auto& [file, value] : setting.ways) {
      text += (text.empty() ? "" : " ") + file + "=" + value;
    }
  }
  return text;
}

std::string of_options(const ResourceWish& wish) {
  std::vector<std::string> warnings;
  return text_of(cgroup::read_settings(wish, warnings));
}

std::string of_file(std::string_view toml) {
  std::vector<std::string> warnings;
  const auto resources = cgroup::parse_resources(toml, "F", warnings);
  std::string text =
      resources ? text_of(cgroup::settings_of(*resources)) : "! " + resources.error().what;
  for (const std::string& warning : warnings) {
    text += " ~ " + warning;
  }
  return text;
}

bool is_error(const std::string& text, std::string_view word) {
  return text.starts_with("! ") && text.find(word) != std::string::npos;
}

constexpr std::string_view kUnified =
    "24 1 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";

}  // namespace

TEST_SUITE("frontend/start/cgroup") {
  TEST_CASE("sizes have the units of the peer, and nothing else is one") {
    for (const auto& [text, bytes] : std::vector<std::pair<const char*, std::int64_t>>{
             {"0", 0},
             {"4096", 4096},
             {"10b", 10},
             {"1k", 1024},
             {"512m", 512 << 20},
             {"2G", 2LL << 30},
             {"1.5G", 3LL << 29},
             {"100 MiB", 100 << 20},
             {"1GB", 1 << 30},
             {"3t", 3LL << 40},
             {"9223372036854774784", 9223372036854774784}}) {
      CAPTURE(text);
      CHECK(cgroup::parse_size(text) == bytes);
    }
    for (const char* text : {"", "m", "-1", "1e3", "0x10", "1.2.3", "5 potatoes", "1gg", "1  g",
                             ".", "inf", "nan", "9223372036854775808", "9999999999999p", "1g "}) {
      CAPTURE(text);
      CHECK_FALSE(cgroup::parse_size(text));
    }
  }

  TEST_CASE("lists of processors are numbers and ranges") {
    CHECK(cgroup::parse_cpu_list("0-3,8") == std::vector<unsigned>{0, 1, 2, 3, 8});
    CHECK(cgroup::parse_cpu_list("5,1-2,2") == std::vector<unsigned>{1, 2, 5});
    for (const char* text :
         {"", ",", "1,", "3-1", "a", "1-", "-1", "1--2", "0-4294967295", "1 2", "99999"}) {
      CAPTURE(text);
      CHECK_FALSE(cgroup::parse_cpu_list(text));
    }
  }

  TEST_CASE(
      "weights of version 1 become weights of version 2, ends and defaults to ends and defaults") {
    CHECK(cgroup::cpu_weight(2) == 1);
    CHECK(cgroup::cpu_weight(1024) == 100);
    CHECK(cgroup::cpu_weight(262144) == 10000);
    CHECK(cgroup::cpu_weight(512) < 100);
    CHECK(cgroup::cpu_weight(2048) > 100);
    CHECK(cgroup::io_weight(10) == 1);
    CHECK(cgroup::io_weight(500) == 4950);
    CHECK(cgroup::io_weight(1000) == 10000);
    for (std::uint64_t shares = 2; shares < 262144; shares += 97) {
      CAPTURE(shares);
      REQUIRE(cgroup::cpu_weight(shares) <= cgroup::cpu_weight(shares + 97));
    }
  }

  TEST_CASE("the weight of any number of shares is the one that runc and crun write") {
    for (std::uint64_t shares = 2; shares <= 262144; ++shares) {
      const double log = std::log2(static_cast<double>(shares));
      const double exponent = (log * log + 125 * log) / 612.0 - 7.0 / 34.0;
      constexpr double kRounding = 1e-6;
      const auto weight =
          static_cast<std::uint64_t>(std::ceil(std::pow(10.0, exponent) - kRounding));
      CAPTURE(shares);
      REQUIRE(cgroup::cpu_weight(shares) == weight);
    }
  }

  TEST_CASE("each option becomes the file of version 2") {
    CHECK(of_options({}) == "");
    CHECK(of_options({.memory = "1G"}) == "memory.max=1073741824");
    CHECK(of_options({.memory = "-1"}) == "memory.max=max memory.swap.max=max");
    CHECK(of_options({.memory_reservation = "512m"}) == "memory.low=536870912");
    CHECK(of_options({.cpus = "1.25"}) == "cpu.max=125000 100000");
    CHECK(of_options({.cpu_shares = "1024"}) == "cpu.weight=100");
    CHECK(of_options({.cpu_shares = "-1"}) == "");
    CHECK(of_options({.cpuset_cpus = "0-1", .cpuset_mems = "0"}) ==
          "cpuset.cpus=0-1 cpuset.mems=0");
    CHECK(of_options({.pids_limit = "7"}) == "pids.max=7");
    CHECK(of_options({.pids_limit = "-1"}) == "pids.max=max");
    CHECK(of_options({.blkio_weight = "100"}) == "io.bfq.weight=100 io.weight=910");
    CHECK(of_options({.blkio_weight = "0"}) == "");
  }

  TEST_CASE("memory and swap together become swap alone") {
    CHECK(of_options({.memory = "1g", .memory_swap = "3g"}) ==
          "memory.max=1073741824 memory.swap.max=2147483648");
    CHECK(of_options({.memory = "1g", .memory_swap = "1g"}) ==
          "memory.max=1073741824 memory.swap.max=0");
    CHECK(of_options({.memory = "1g", .memory_swap = "-1"}) ==
          "memory.max=1073741824 memory.swap.max=max");
    CHECK(
        is_error(of_options({.memory = "2g", .memory_swap = "1g"}), "smaller than that of memory"));
    CHECK(is_error(of_options({.memory_swap = "1g"}), "needs one of memory"));
    CHECK(is_error(of_options({.memory = "1g", .memory_reservation = "2g"}), "larger than"));
  }

  TEST_CASE("values that cannot be are refused, and the option is named") {
    for (const auto& [wish, word] : std::vector<std::pair<ResourceWish, const char*>>{
             {{.memory = ""}, "--memory"},
             {{.memory = "0"}, "--memory"},
             {{.memory = "-2"}, "--memory"},
             {{.memory_swap = "lots"}, "--memory-swap"},
             {{.memory_reservation = "-1"}, "--memory-reservation"},
             {{.cpus = "0"}, "--cpus"},
             {{.cpus = "0.001"}, "--cpus"},
             {{.cpus = "100000"}, "--cpus"},
             {{.cpus = "nan"}, "--cpus"},
             {{.cpus = "1e1"}, "--cpus"},
             {{.cpu_shares = "1"}, "--cpu-shares"},
             {{.cpu_shares = "262145"}, "--cpu-shares"},
             {{.cpu_shares = "-5"}, "--cpu-shares"},
             {{.cpuset_cpus = "1-"}, "--cpuset-cpus"},
             {{.cpuset_mems = ""}, "--cpuset-mems"},
             {{.pids_limit = "many"}, "--pids-limit"},
             {{.pids_limit = "-2"}, "--pids-limit"},
             {{.blkio_weight = "9"}, "--blkio-weight"},
             {{.blkio_weight = "1001"}, "--blkio-weight"},
             {{.blkio_weight_devices = {"/dev/null:500"}}, "--blkio-weight-device"},
             {{.blkio_weight_devices = {"/nowhere:500"}}, "--blkio-weight-device"},
             {{.blkio_weight_devices = {"/dev/sda"}}, "--blkio-weight-device"},
             {{.oom_kill_disable = true}, "--oom-kill-disable"},
             {{.memory = "1g", .file = "x"}, "--apply-cgroups"},
             {{.file = "/nowhere"}, "--apply-cgroups"},
         }) {
      CAPTURE(word);
      CAPTURE(of_options(wish));
      CHECK(is_error(of_options(wish), word));
    }
  }

  TEST_CASE("a file has the tables of the runtime specification") {
    CHECK(of_file("") == "");
    CHECK(
        of_file(
            "[memory]\nlimit = 1024\nswap = 4096\nreservation = 512\ndisableOOMKiller = false\n") ==
        "memory.max=1024 memory.low=512 memory.swap.max=3072");
    CHECK(of_file("[cpu]\nshares = 262144\nquota = 5000\nperiod = 10000\ncpus = \"0\"\nmems = "
                  "\"0-1\"\n") ==
          "cpu.max=5000 10000 cpu.weight=10000 cpuset.cpus=0 cpuset.mems=0-1");
    CHECK(of_file("[pids]\nlimit = 12\n") == "pids.max=12");
    CHECK(of_file("[blockIO]\nweight = 10\n[[blockIO.weightDevice]]\nmajor = 8\nminor = 16\nweight "
                  "= 1000\n"
                  "[[blockIO.throttleReadBpsDevice]]\nmajor = 8\nminor = 0\nrate = 77\n"
                  "[[blockIO.throttleWriteIOPSDevice]]\nmajor = 8\nminor = 0\nrate = 9\n") ==
          "io.bfq.weight=10 io.weight=1 io.bfq.weight=8:16 1000 io.weight=8:16 10000 "
          "io.max=8:0 rbps=77 io.max=8:0 wiops=9");
    CHECK(of_file("[[hugepageLimits]]\npageSize = \"2MB\"\nlimit = 4194304\n") ==
          "hugetlb.2MB.max=4194304");
    CHECK(of_file("[rdma.mlx5_0]\nhcaHandles = 3\nhcaObjects = 10000\n") ==
          "rdma.max=mlx5_0 hca_handle=3 hca_object=10000");
    CHECK(of_file("[unified]\n\"memory.high\" = \"1G\"\n") == "memory.high=1G");
    CHECK(of_file("devices = []\n") == "");
    CHECK(of_file("[[devices]]\nallow = true\n").find("~ F:1: rules for devices") !=
          std::string::npos);
  }

  TEST_CASE("what a file says wrongly is an error with its line") {
    for (const auto& [toml, word] : std::vector<std::pair<std::string, const char*>>{
             {"[memory]\nlimit = 0\n", "F:2:1"},
             {"[memory]\nlimit = \"1g\"\n", "F:2:1"},
             {"[memory]\n\nlimt = 5\n", "F:3:1"},
             {"[memory]\nswappiness = 5\n", "only control groups version 1"},
             {"[memory]\ndisableOOMKiller = true\n", "only control groups version 1"},
             {"[cpu]\nquota = 10\n", "below the kernel's least"},
             {"[cpu]\nrealtimePeriod = 10\n", "only control groups version 1"},
             {"[cpu]\ncpus = \"3-\"\n", "list of numbers"},
             {"[memry]\nlimit = 5\n", "no table \"memry\""},
             {"[unified]\n\"cgroup.kill\" = \"1\"\n", "not the file of a limit"},
             {"[unified]\n\"../pids.max\" = \"1\"\n", "not the file of a limit"},
             {"[unified]\n\"memory/x.max\" = \"1\"\n", "not the file of a limit"},
             {"[rdma.\"a b\"]\nhcaHandles = 1\n", "must name a device"},
             {"[[hugepageLimits]]\npageSize = \"../2MB\"\nlimit = 1\n", "pageSize"},
             {"[[blockIO.weightDevice]]\nmajor = 8\n", "missing"},
             {"[[blockIO.throttleReadBpsDevice]]\nmajor = -1\n", "F:2:1"},
             {"limit = 5\n", "F:1:1"},
             {"[network]\nclassID = 5\n", "only control groups version 1"},
             {"memory", "F:1"},
             {"a.b.c.d = 1\n", "F:1"},
         }) {
      CAPTURE(toml);
      CAPTURE(of_file(toml));
      CHECK(is_error(of_file(toml), word));
    }
  }

  TEST_CASE("our own group is found through every kind of mount") {
    const auto directory = [](std::string_view group, std::string_view mounts) {
      const auto place = cgroup::find_place(group, mounts);
      return place ? place->directory : "! " + place.error().what;
    };
    CHECK(directory("0::/\n", kUnified) == "/sys/fs/cgroup");
    CHECK(directory("0::/user.slice/a b\n", kUnified) == "/sys/fs/cgroup/user.slice/a b");
    CHECK(directory("0::/job/step\n", "24 1 0:22 /job /mnt\\040x rw - cgroup2 none rw\n") ==
          "/mnt x/step");
    CHECK(directory("0::/job\n", "24 1 0:22 /job /mnt rw shared:3 - cgroup2 none rw\n") == "/mnt");
    CHECK(is_error(directory("0::/jobs\n", "24 1 0:22 /job /mnt rw - cgroup2 none rw\n"),
                   "no mount"));
    CHECK(is_error(directory("0::/\n", "24 1 0:22 / / rw - ext4 none rw\n"), "not mounted"));
    CHECK(is_error(directory("0::/../x\n", kUnified), "cannot be reached"));
    CHECK(is_error(directory("3:memory:/\n1:name=systemd:/\n", kUnified), "version 1 alone"));
    CHECK(is_error(directory("", kUnified), "no control groups"));
    CHECK(is_error(directory("garbage\n0:\n", "x\n - cgroup2\n"), "version 1 alone"));
  }

  TEST_CASE("controllers that version 1 holds are known") {
    const auto place =
        cgroup::find_place("4:memory:/x\n3:cpu,cpuacct:/\n1:name=systemd:/\n0::/\n", kUnified);
    REQUIRE(place);
    CHECK(place->of_version_1 == std::vector<std::string>{"memory", "cpu", "cpuacct"});
  }
}

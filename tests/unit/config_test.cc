#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <string>

#include <sys/stat.h>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include "policy/config/site.h"
#include "policy/config/trusted_file.h"
#include "protocol/base/unique_fd.h"

namespace postern::config {
namespace {

constexpr const char* kSmall =
    "# The site's settings\n"
    "[suid]\n"
    "enabled = true\n"
    "\n"
    "[limit]\n"
    "paths = [\"/apps\", \"/home/shared\"]\n"
    "[kernel-mount]\n"
    "squashfs = \"any\"\n"
    "[session]\n"
    "max-size-mib = 128\n";

TEST_CASE("settings are read, and know their lines") {
  const auto site = parse_site_config(kSmall, "postern.toml");
  REQUIRE(site);
  CHECK(site->suid_enabled);
  CHECK(site->limit_paths == List{"/apps", "/home/shared"});
  CHECK(site->kernel_mount_squashfs == KernelMount::kAny);
  CHECK(site->session_max_size_mib == 128);
  CHECK(line_of(*site, "suid.enabled") == 3);
  CHECK(line_of(*site, "limit.paths") == 6);
  CHECK(line_of(*site, "limit.owners") == 0);
  CHECK(line_of(*site, "nonsense") == 0);
}

TEST_CASE("an empty file leaves the defaults, and suid mode off") {
  const auto site = parse_site_config("", "postern.toml");
  REQUIRE(site);
  CHECK_FALSE(site->suid_enabled);
  CHECK(site->allow_sif);
  CHECK(site->kernel_mount_squashfs == KernelMount::kTrusted);
  CHECK(site->mount_binds == List{"/etc/localtime", "/etc/hosts"});
}

TEST_CASE("a missing file gives the defaults") {
  const auto site = load_site_config("/nonexistent/postern.toml");
  REQUIRE(site);
  CHECK_FALSE(site->suid_enabled);
}

struct BadFile {
  const char* text;
  const char* message;
};

const BadFile kBadFiles[] = {
    {"[limit]\npath = []\n", "p:2:1: there is no key \"path\" in [limit]"},
    {"enabled = true\n", "p:1:1: there is no key \"enabled\" outside of all tables"},
    {"[limits]\n", "p:1:1: there is no table [limits]"},
    {"[[limit]]\nowners = []\n", "p:1:1: there is no table [limit]"},
    {"[suid]\nenabled = \"yes\"\n", "p:2:1: suid.enabled: the value must be true or false"},
    {"[session]\nmax-size-mib = 0\n",
     "p:2:1: session.max-size-mib: the value must be an integer from 1 to 1048576"},
    {"[session]\nmax-size-mib = -1\n",
     "p:2:1: session.max-size-mib: the value must be an integer from 1 to 1048576"},
    {"[mount]\n dev = \"some\"\n",
     "p:2:2: mount.dev: the value must be one of \"yes\", \"minimal\", \"no\""},
    {"[limit]\npaths = [\"apps\"]\n", "p:2:1: limit.paths: \"apps\" is not an absolute path"},
    {"[limit]\nowners = [\"\"]\n",
     "p:2:1: limit.owners: an entry of the list is empty or holds a NUL character"},
    {"[limit]\nowners = [1]\n",
     "p:2:1: the value of \"owners\" is neither true or false, nor an integer, a string or a list "
     "of strings"},
    {"[session]\nmax-size-mib = 1.5\n",
     "p:2:1: the value of \"max-size-mib\" is neither true or false, nor an integer, a string or a "
     "list of strings"},
    {"[suid.more]\nenabled = true\n", "p:1:1: there is no table [suid.more]"},
};

TEST_CASE("what is not a setting is an error with its place") {
  for (const BadFile& row : kBadFiles) {
    CAPTURE(row.text);
    const auto site = parse_site_config(row.text, "p");
    REQUIRE_FALSE(site);
    CHECK(site.error().what == row.message);
  }
  CHECK_FALSE(parse_site_config("[suid\n", "p"));
  CHECK_FALSE(parse_site_config("[suid]\nenabled = true\nenabled = true\n", "p"));
  CHECK_FALSE(parse_site_config("[suid]\nenabled = \xff\n", "p"));
}

TEST_CASE("a key in the wrong table is told where it belongs") {
  const auto site = parse_site_config("[allow]\npaths = []\n", "p");
  REQUIRE_FALSE(site);
  CHECK(site.error().cure == "the key \"paths\" belongs to [limit]");
}

TEST_CASE("every key can be written and read back") {
  std::string text;
  const SiteConfig defaults;
  for (const Key& key : keys()) {
    text += "[" + std::string(key.table) + "]\n";
    text += std::string(key.name) + " = " + value_text(defaults, key) + "\n";
    const auto site = parse_site_config(text, "p");
    CAPTURE(text);
    REQUIRE(site);
    CHECK(value_text(*site, key) == value_text(defaults, key));
    CHECK(line_of(*site, std::string(key.table) + "." + std::string(key.name)) == 2);
    CHECK(find_key(std::string(key.table) + "." + std::string(key.name)) == &key);
    text.clear();
  }
}

TEST_CASE("strings survive quoting") {
  const std::string nasty = "a\"b\\c\n\t\x1f\x7f\xc3\xa9";
  SiteConfig site;
  site.limit_owners = {nasty};
  const auto read = parse_site_config(
      "[limit]\nowners = " + value_text(site, *find_key("limit.owners")) + "\n", "p");
  REQUIRE(read);
  CHECK(read->limit_owners == List{nasty});
}

// Of this thread alone: a machine that stalls, or has other work, does not count.
std::chrono::nanoseconds processor_time() {
  timespec now{};
  REQUIRE(::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now) == 0);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

TEST_CASE("a small file is parsed in well under a millisecond of a processor") {
  auto best = std::chrono::nanoseconds::max();
  for (int i = 0; i < 20; ++i) {
    const auto start = processor_time();
    const auto site = parse_site_config(kSmall, "p");
    best = std::min(best, processor_time() - start);
    REQUIRE(site);
  }
  MESSAGE("best of 20: ", best.count() / 1000, " us");
  CHECK(best < std::chrono::milliseconds(5));  // generous: debug and sanitizer builds run this too
}

// A directory of root's own with one file, in which nothing else has a say.
class Tree {
 public:
  Tree() {
    std::string name = "/tmp/postern-config-XXXXXX";
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path_ = name;
    REQUIRE(::mkdir((path_ + "/etc").c_str(), 0755) == 0);
    REQUIRE(::chmod(path_.c_str(), 0755) == 0);
    std::ofstream(file()) << kSmall;
    REQUIRE(::chmod(file().c_str(), 0644) == 0);
    root_ = UniqueFd(::open(path_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  }

  Tree(const Tree&) = delete;
  Tree& operator=(const Tree&) = delete;

  ~Tree() { std::filesystem::remove_all(path_); }

  std::string file() const { return path_ + "/etc/postern.toml"; }

  std::string dir() const { return path_ + "/etc"; }

  Trusted<SiteConfig> load(const char* path = "/etc/postern.toml") const {
    return load_trusted(root_.get(), path);
  }

 private:
  std::string path_;
  UniqueFd root_;
};

TEST_CASE("a trusted file is root's alone, and so is every directory above it" *
          doctest::skip(::geteuid() != 0)) {
  const Tree tree;
  REQUIRE(tree.load());
  CHECK(tree.load()->suid_enabled);
  const auto refused = [&](const char* path = "/etc/postern.toml") {
    const auto site = tree.load(path);
    return site ? RefusalCode::kNone : site.error().code;
  };
  SUBCASE("missing") {
    CHECK(refused("/etc/other.toml") == RefusalCode::kConfigMissing);
    CHECK(refused("/none/postern.toml") == RefusalCode::kConfigMissing);
  }
  SUBCASE("a file that its group can write") {
    REQUIRE(::chmod(tree.file().c_str(), 0664) == 0);
    CHECK(refused() == RefusalCode::kConfigInsecure);
  }
  SUBCASE("a file that all can write") {
    REQUIRE(::chmod(tree.file().c_str(), 0646) == 0);
    CHECK(refused() == RefusalCode::kConfigInsecure);
  }
  SUBCASE("a file of somebody else") {
    REQUIRE(::chown(tree.file().c_str(), 1000, 0) == 0);
    CHECK(refused() == RefusalCode::kConfigInsecure);
  }
  SUBCASE("a directory that its group can write") {
    REQUIRE(::chmod(tree.dir().c_str(), 0775) == 0);
    CHECK(refused() == RefusalCode::kConfigInsecure);
  }
  SUBCASE("a directory of somebody else") {
    REQUIRE(::chown(tree.dir().c_str(), 1000, 0) == 0);
    CHECK(refused() == RefusalCode::kConfigInsecure);
  }
  SUBCASE("a sticky directory for all") {
    REQUIRE(::chmod(tree.dir().c_str(), 01777) == 0);
    CHECK(refused() == RefusalCode::kConfigInsecure);
  }
  SUBCASE("a symbolic link to a good file, and one to its directory") {
    REQUIRE(::symlink("postern.toml", (tree.dir() + "/link.toml").c_str()) == 0);
    REQUIRE(::symlink("etc", (tree.dir() + "/../link").c_str()) == 0);
    CHECK(refused("/etc/link.toml") == RefusalCode::kConfigInsecure);
    CHECK(refused("/link/postern.toml") == RefusalCode::kConfigInsecure);
  }
  SUBCASE("a way back") {
    CHECK(refused("/etc/../etc/postern.toml") == RefusalCode::kConfigInsecure);
    CHECK(refused("/") == RefusalCode::kConfigInsecure);
  }
  SUBCASE("a directory in its place") {
    REQUIRE(::mkdir((tree.dir() + "/d").c_str(), 0755) == 0);
    CHECK(refused("/etc/d") == RefusalCode::kConfigMalformed);
  }
  SUBCASE("malformed") {
    std::ofstream(tree.file()) << "[suid]\nenabled = maybe\n";
    CHECK(refused() == RefusalCode::kConfigMalformed);
  }
}

}  // namespace
}  // namespace postern::config

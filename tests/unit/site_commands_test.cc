#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <unistd.h>

#include "frontend/config/commands.h"
#include "frontend/config/edit.h"
#include "frontend/config/import.h"
#include "frontend/message/message.h"
#include "policy/ecl/ecl.h"

namespace postern::config {
namespace {

const std::string kFile =
    "# Ours\n"
    "[limit]  # who may\n"
    "paths = [ # where\n"
    "  \"/apps\",\n"
    "]\n"
    "owners = [\"root\"] # and who\n"
    "\n"
    "[suid]\n"
    "enabled = false\n";

const Key& key(std::string_view path) {
  return *find_key(path);
}

TEST_CASE("a setting is changed in its place, and everything else stays") {
  const auto changed = with_key(kFile, "f", key("suid.enabled"), "true");
  REQUIRE(changed);
  CHECK(*changed == kFile.substr(0, kFile.size() - 6) + "true\n");
  const auto list = with_key(kFile, "f", key("limit.paths"), "[\"/x\"]");
  REQUIRE(list);
  CHECK(*list ==
        "# Ours\n[limit]  # who may\npaths = [\"/x\"]\nowners = [\"root\"] # and "
        "who\n\n[suid]\nenabled = false\n");
  const auto last = with_key(*list, "f", key("limit.owners"), "[\"é\", \"b\"]");
  REQUIRE(last);
  const auto again = with_key(*last, "f", key("limit.owners"), "[]");
  REQUIRE(again);
  CHECK(again->find("owners = [] # and who\n") != std::string::npos);
}

TEST_CASE("a new setting goes into its table, or into a new one") {
  const auto there = with_key(kFile, "f", key("limit.groups"), "[\"g\"]");
  REQUIRE(there);
  CHECK(there->find("[limit]  # who may\ngroups = [\"g\"]\npaths") != std::string::npos);
  const auto fresh = with_key("", "f", key("mount.proc"), "false");
  REQUIRE(fresh);
  CHECK(*fresh == "[mount]\nproc = false\n");
  const auto end = with_key("[suid]", "f", key("suid.enabled"), "true");
  REQUIRE(end);
  CHECK(*end == "[suid]\nenabled = true\n");
  CHECK_FALSE(with_key("[suid", "f", key("suid.enabled"), "true"));
  CHECK_FALSE(with_key(kFile, "f", key("suid.enabled"), "maybe"));
}

TEST_CASE("a setting is taken out with all of its lines") {
  const auto without = without_key(kFile, "f", key("limit.paths"));
  REQUIRE(without);
  CHECK(*without ==
        "# Ours\n[limit]  # who may\nowners = [\"root\"] # and who\n\n[suid]\nenabled = false\n");
  CHECK(*without_key(kFile, "f", key("mount.proc")) == kFile);
  CHECK(*without_key("[suid]\nenabled = true", "f", key("suid.enabled")) == "[suid]\n");
}

TEST_CASE("the whole file says every setting and parses") {
  SiteConfig site;
  site.limit_paths = {"/a b", "/c\"d"};
  const auto again = parse_site_config(site_text(site), "f");
  REQUIRE(again);
  CHECK(again->limit_paths == site.limit_paths);
  for (const Key& row : keys()) {
    CHECK(value_text(*again, row) == value_text(site, row));
  }
}

TEST_CASE("apptainer.conf becomes our settings") {
  const auto imported = import_site(
      "# comment = yes\n"
      "allow setuid = yes\n"
      "limit container paths = /apps, /home/shared\n"
      "limit container paths = /third\n"
      "allow pid ns = no\n"
      "mount dev = minimal\n"
      "mount dev = no\n"
      "bind path = /etc/localtime\n"
      "bind path = /scratch:/work\n"
      "sessiondir max size = 0x80\n"
      "enable overlay = try\n"
      "allow setuid-mount squashfs = iflimited\n"
      "user bind control = no\n"
      "limit container owners =\n"
      "max loop devices = 256\n"
      "alow setuid = no\n",
      "apptainer.conf");
  REQUIRE_MESSAGE(imported, imported.error().what);
  const SiteConfig& site = imported->site;
  CHECK(site.suid_enabled);
  CHECK(site.limit_paths == List{"/apps", "/home/shared", "/third"});
  CHECK_FALSE(site.allow_pid_namespace);
  CHECK(site.mount_dev == DevMount::kMinimal);
  CHECK(site.mount_binds == List{"/etc/localtime", "/scratch:/work"});
  CHECK(site.session_max_size_mib == 128);
  CHECK(site.allow_overlay);
  CHECK(site.kernel_mount_squashfs == KernelMount::kLimited);
  CHECK_FALSE(site.allow_user_binds);
  CHECK(site.limit_owners.empty());
  REQUIRE(imported->notes.size() == 3);
  CHECK(imported->notes[0] == "line 16: unknown directive \"alow setuid\"");
  CHECK(imported->notes[1] == "max loop devices: the kernel's own limit applies");
  CHECK(imported->notes[2].starts_with("kernel-mount.squashfs = \"limited\""));
}

TEST_CASE("NULL stands for what is not set") {
  const auto imported = import_site(
      "limit container owners = NULL\nlimit container paths = NULL\nbind path = NULL, /opt\n", "a");
  REQUIRE(imported);
  CHECK(imported->site.limit_owners.empty());
  CHECK(imported->site.limit_paths.empty());
  CHECK(imported->site.mount_binds == List{"/opt"});
}

TEST_CASE("values that apptainer.conf could not hold either are errors with their line") {
  const auto bad = import_site("allow setuid = yes\nallow pid ns = maybe\n", "a.conf");
  REQUIRE_FALSE(bad);
  CHECK(bad.error().what == "a.conf:2: allow pid ns: the value must be true or false");
  CHECK(import_site("limit container paths = apps\n", "a").error().what ==
        "a:1: limit container paths: \"apps\" is not an absolute path");
  CHECK_FALSE(import_site("sessiondir max size = much\n", "a"));
  CHECK_FALSE(import_site("mount dev = most\n", "a"));
}

TEST_CASE("an empty apptainer.conf binds nothing") {
  const auto imported = import_site("", "a.conf");
  REQUIRE(imported);
  CHECK(imported->site.mount_binds.empty());
  CHECK(imported->site.suid_enabled);
  CHECK(imported->notes.size() == 1);
  CHECK(imported->site.kernel_mount_squashfs == KernelMount::kLimited);
}

TEST_CASE("capability.json becomes capability.toml") {
  const auto grants = import_capabilities(
      "{\"users\":{\"alice\":[\"CAP_NET_RAW\",\"CAP_CHOWN\"]},\"groups\":{\"hpc\":[\"CAP_SYS_"
      "NICE\"]}}",
      "c");
  REQUIRE(grants);
  REQUIRE(grants->users.size() == 1);
  CHECK(grants->users[0].name == "alice");
  CHECK(grants->users[0].bits == (1ULL << 13 | 1));
  CHECK(grants->groups[0].bits == 1ULL << 23);
  CHECK(import_capabilities("", "c")->users.empty());
  CHECK(import_capabilities(" \n", "c")->users.empty());
  CHECK(import_capabilities("{}", "c")->users.empty());
  CHECK_FALSE(import_capabilities("{\"users\":{\"alice\":[\"CAP_FLY\"]}}", "c"));
  CHECK_FALSE(import_capabilities("{\"users\":[]}", "c"));
  CHECK_FALSE(import_capabilities("{", "c"));
}

std::string read_whole(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST_CASE("the files that are installed say what the defaults are, and parse") {
  const auto site = parse_site_config(read_whole(POSTERN_SITE_FILE), "f");
  REQUIRE_MESSAGE(site, site.error().what);
  SiteConfig defaults;
  defaults.suid_enabled = site->suid_enabled;
  CHECK(read_whole(POSTERN_SITE_FILE) == site_text(defaults));
  const std::string directory = POSTERN_CONFIG_INSTALL;
  const auto list = ecl::parse_ecl(read_whole(directory + "/ecl.toml"), "f");
  REQUIRE(list);
  CHECK_FALSE(list->activated);
  const auto grants = parse_capability_config(read_whole(directory + "/capability.toml"), "f");
  REQUIRE(grants);
  CHECK(grants->users.empty());
}

// A directory with the site's files, for the commands as a whole.
class Site {
 public:
  Site() {
    std::string name = "/tmp/postern-site-XXXXXX";
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    directory_ = name;
    message::configure(message::Level::kFatal, false);
  }

  Site(const Site&) = delete;
  Site& operator=(const Site&) = delete;

  ~Site() { std::filesystem::remove_all(directory_); }

  std::string path(const std::string& name) const { return directory_ + "/" + name; }

  std::string read(const std::string& name) const {
    std::ifstream in(path(name));
    return {std::istreambuf_iterator<char>(in), {}};
  }

  void write(const std::string& name, const std::string& text) const {
    std::ofstream(path(name)) << text;
  }

  int config(const std::vector<std::string>& words) const {
    return config_command(words, path("postern.toml"));
  }

  int capability(const std::vector<std::string>& words) const {
    return capability_command(words, path("postern.toml"));
  }

 private:
  std::string directory_;
};

TEST_CASE("config global changes the file") {
  const Site site;
  CHECK(site.config({"global", "--set", "limit.paths", "/b,/c"}) == 0);
  CHECK(site.config({"global", "--set", "limit container paths", "/a", "/c"}) == 0);
  CHECK(site.read("postern.toml") == "[limit]\npaths = [\"/a\", \"/c\", \"/b\"]\n");
  CHECK(site.config({"global", "-u", "limit.paths", "/c"}) == 0);
  CHECK(site.read("postern.toml") == "[limit]\npaths = [\"/a\", \"/b\"]\n");
  CHECK(site.config({"global", "-u", "limit.paths", "/z"}) == 255);
  CHECK(site.config({"global", "set", "suid.enabled", "yes"}) == 0);
  CHECK(site.config({"global", "--dry-run", "--set", "suid.enabled", "no"}) == 0);
  CHECK(site.read("postern.toml") ==
        "[limit]\npaths = [\"/a\", \"/b\"]\n\n[suid]\nenabled = true\n");
  CHECK(site.config({"global", "--reset", "limit.paths"}) == 0);
  CHECK(site.read("postern.toml") == "[limit]\n\n[suid]\nenabled = true\n");
  CHECK(site.config({"global", "--set", "mount.dev", "some"}) == 255);
  CHECK(site.config({"global", "--get", "mount.dev"}) == 0);
  CHECK(site.config({"global", "--get", "no such"}) == 255);
  CHECK(site.config({"global", "--get", "--set", "mount.dev"}) == 1);
  CHECK(site.config({"global"}) == 1);
  CHECK(site.config({"other"}) == 1);
  CHECK(site.config({"global", "list"}) == 0);
}

TEST_CASE("config import writes our three files") {
  const Site site;
  std::filesystem::create_directory(site.path("from"));
  site.write("from/apptainer.conf", "allow setuid = yes\nlimit container owners = root\n");
  site.write("from/ecl.toml", "activated = false\n");
  site.write("from/capability.json", "{\"users\":{\"alice\":[\"CAP_NET_RAW\"]}}");
  CHECK(site.config({"import", site.path("from")}) == 0);
  const auto read = parse_site_config(site.read("postern.toml"), "f");
  REQUIRE(read);
  CHECK(read->suid_enabled);
  CHECK(read->limit_owners == List{"root"});
  CHECK(site.read("ecl.toml") == "activated = false\n");
  CHECK(site.read("capability.toml").find("alice = [\"CAP_NET_RAW\"]") != std::string::npos);
  CHECK_FALSE(std::filesystem::exists(site.path("postern.toml.old")));
  // Again with another file: what was there stays beside it.
  const std::string first = site.read("postern.toml");
  site.write("from/apptainer.conf", "allow setuid = no\n");
  CHECK(site.config({"import", "--dry-run", site.path("from")}) == 0);
  CHECK(site.read("postern.toml") == first);
  CHECK(site.config({"import", site.path("from")}) == 0);
  CHECK(site.read("postern.toml") != first);
  CHECK(site.read("postern.toml.old") == first);
  CHECK_FALSE(std::filesystem::exists(site.path("ecl.toml.old")));  // unchanged
  CHECK(site.config({"import"}) == 1);
  CHECK(site.config({"import", site.path("none")}) == 255);
  site.write("from/ecl.toml", "activated = maybe\n");
  CHECK(site.config({"import", site.path("from/ecl.toml")}) == 255);
}

TEST_CASE("capability grants and takes" * doctest::skip(::geteuid() != 0)) {
  const Site site;
  CHECK(site.capability({"list"}) == 255);
  CHECK(site.capability({"add", "--user", "root", "net_raw,CAP_CHOWN"}) == 0);
  CHECK(site.capability({"add", "--group", "root", "sys_nice"}) == 0);
  CHECK(site.read("capability.toml").find("root = [\"CAP_CHOWN\", \"CAP_NET_RAW\"]") !=
        std::string::npos);
  CHECK(site.capability({"list", "root"}) == 0);
  CHECK(site.capability({"list", "nobody"}) == 255);
  CHECK(site.capability({"drop", "--user", "root", "CAP_CHOWN"}) == 0);
  CHECK(site.read("capability.toml").find("root = [\"CAP_NET_RAW\"]") != std::string::npos);
  CHECK(site.capability({"drop", "-u", "root", "all"}) == 0);
  CHECK(site.read("capability.toml").find("CAP_NET_RAW") == std::string::npos);
  CHECK(site.capability({"add", "chown"}) == 255);
  CHECK(site.capability({"add", "--user", "no such user", "chown"}) == 255);
  CHECK(site.capability({"add", "--user", "root", "fly"}) == 255);
  CHECK(site.capability({"add", "--user", "root"}) == 1);
  CHECK(site.capability({"avail", "chown"}) == 0);
  CHECK(site.capability({"avail", "fly"}) == 255);
  CHECK(site.capability({"steal"}) == 1);
  CHECK(site.capability({}) == 1);
}

}  // namespace
}  // namespace postern::config

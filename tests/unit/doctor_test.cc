#include <algorithm>
#include <cerrno>
#include <fstream>
#include <iterator>

#include <sys/resource.h>

#include <doctest/doctest.h>
#include <unistd.h>

#include "frontend/doctor/report.h"
#include "tests/unit/in_child.h"

namespace postern::doctor {
namespace {

// A host where everything works but suid mode, which is not installed.
Facts good_host() {
  Facts f;
  f.release = "6.1.0";
  f.kernel_major = 6;
  f.kernel_minor = 1;
  f.uid = 1000;
  f.user = "alice";
  f.subuids = f.subgids = 65536;
  f.newuidmap = f.newgidmap = true;
  f.cgroup_v2 = f.cgroup_delegated = true;
  f.device_mapper = f.loop_devices = true;
  f.interpreters = {"arm64"};
  return f;
}

// And suid mode too.
Facts suid_host() {
  Facts f = good_host();
  f.helper = {.path = "/h",
              .present = true,
              .owned_by_root = true,
              .setuid = true,
              .nosuid_mount = false,
              .writable_by_others = false,
              .judge_present = true};
  f.judge_user = "postern";
  f.judge_user_exists = true;
  f.config_path = "/etc/postern/postern.toml";
  f.config_present = true;
  f.suid_enabled = true;
  return f;
}

const Check& check(const Report& report, std::string_view name) {
  const auto it = std::find_if(report.checks.begin(), report.checks.end(),
                               [&](const Check& c) { return c.name == name; });
  REQUIRE(it != report.checks.end());
  return *it;
}

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

std::string own_mounts() {
  std::ifstream in("/proc/self/mountinfo");
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

TEST_SUITE("frontend/doctor") {
  TEST_CASE("a good host runs images in user namespaces, and has no cure to offer for what works") {
    const Report r = examine(good_host());
    CHECK(r.user_namespace_mode);
    CHECK_FALSE(r.suid_mode);
    for (const Check& c : r.checks) {
      CAPTURE(c.name);
      CHECK_FALSE(c.detail.empty());
      CHECK(c.works == c.cure.empty());
      CHECK(c.detail.find('\n') == std::string::npos);
    }
    CHECK(contains(to_text(r), "Images can run here, in user namespaces.\n"));
  }

  TEST_CASE("each thing that is needed, when missing, says so with its own cure") {
    struct Row {
      const char* name;
      void (*spoil)(Facts&);
      const char* cure;
    };

    const Row rows[] = {
        {"kernel",
         [](Facts& f) {
           f.kernel_major = 5;
           f.kernel_minor = 13;
         },
         "5.14"},
        {"user-namespaces",
         [](Facts& f) {
           f.user_namespace = {"x", ENOSPC};
           f.max_user_namespaces = 0;
         },
         "user.max_user_namespaces=15000"},
        {"user-namespaces",
         [](Facts& f) {
           f.user_namespace = {"x", EPERM};
           f.unprivileged_userns_clone = 0;
         },
         "unprivileged_userns_clone=1"},
        {"user-namespaces",
         [](Facts& f) {
           f.user_namespace = {"x", EACCES};
           f.apparmor_restricts_userns = 1;
         },
         "AppArmor"},
        {"user-namespaces", [](Facts& f) { f.user_namespace = {"x", ENOSPC}; }, "limit"},
        {"user-namespaces", [](Facts& f) { f.user_namespace = {"x", EINVAL}; }, "CONFIG_USER_NS"},
        {"user-namespaces", [](Facts& f) { f.user_namespace = {"x", EPERM}; }, "seccomp"},
        {"fuse", [](Facts& f) { f.fuse = {kOpeningFuse, ENOENT}; }, "modprobe fuse"},
        {"fuse", [](Facts& f) { f.fuse = {kOpeningFuse, EACCES}; }, "chmod 666"},
        {"fuse", [](Facts& f) { f.fuse = {"mounting", EPERM}; }, "directories can"},
        {"fuse", [](Facts& f) { f.user_namespace = f.fuse = {"x", EPERM}; }, "see user-namespaces"},
    };
    for (const Row& row : rows) {
      CAPTURE(row.cure);
      Facts f = good_host();
      row.spoil(f);
      const Report r = examine(f);
      CHECK_FALSE(r.can_run());
      CHECK_FALSE(check(r, row.name).works);
      CHECK(contains(check(r, row.name).cure, row.cure));
      CHECK(contains(to_text(r), "Images cannot run here.\n"));
    }
  }

  TEST_CASE("what is not needed, when missing, does not keep images from running") {
    struct Row {
      const char* name;
      void (*spoil)(Facts&);
      const char* cure;
    };

    const Row rows[] = {
        {"overlay", [](Facts& f) { f.overlay = {"x", ENODEV}; }, "modprobe overlay"},
        {"overlay", [](Facts& f) { f.overlay = {"x", EPERM}; }, "5.11"},
        {"subordinate-ids", [](Facts& f) { f.subuids = 0; }, "usermod"},
        {"subordinate-ids", [](Facts& f) { f.newuidmap = false; }, "uidmap"},
        {"cgroup-v2", [](Facts& f) { f.cgroup_v2 = false; }, "unified_cgroup_hierarchy"},
        {"cgroup-v2", [](Facts& f) { f.cgroup_delegated = false; }, "systemd-run"},
        {"device-mapper", [](Facts& f) { f.device_mapper = false; }, "modprobe"},
        {"emulation", [](Facts& f) { f.interpreters.clear(); }, "qemu-user-static"},
    };
    for (const Row& row : rows) {
      CAPTURE(row.cure);
      Facts f = good_host();
      row.spoil(f);
      const Report r = examine(f);
      CHECK(r.can_run());
      CHECK_FALSE(check(r, row.name).works);
      CHECK(contains(check(r, row.name).cure, row.cure));
    }
  }

  TEST_CASE("suid mode names the first obstacle") {
    CHECK(examine(suid_host()).suid_mode);

    struct Row {
      void (*spoil)(Facts&);
      const char* words;
    };

    const Row rows[] = {
        {[](Facts& f) { f.helper.present = false; }, "not installed"},
        {[](Facts& f) { f.helper.owned_by_root = false; }, "not setuid root"},
        {[](Facts& f) { f.helper.setuid = false; }, "not setuid root"},
        {[](Facts& f) { f.helper.writable_by_others = true; }, "writable"},
        {[](Facts& f) { f.helper.nosuid_mount = true; }, "nosuid"},
        {[](Facts& f) { f.helper.judge_present = false; }, "postern-judge"},
        {[](Facts& f) { f.judge_user_exists = false; }, "no user postern"},
        {[](Facts& f) { f.config_fault = "writable by group"; }, "writable by group"},
        {[](Facts& f) { f.config_present = false; }, "no /etc/postern/postern.toml"},
        {[](Facts& f) { f.suid_enabled = false; }, "not enabled"},
        {[](Facts& f) { f.audit_required = true; }, "audit.required"},
        {[](Facts& f) {
           f.list_active = true;
           f.loop_devices = false;
         },
         "no loop devices"},
        {[](Facts& f) {
           f.list_active = f.list_asks_for_seals = true;
           f.device_mapper = false;
         },
         "no device-mapper"},
        {[](Facts& f) { f.root_is_initramfs = true; }, "initramfs"},
    };
    for (const Row& row : rows) {
      CAPTURE(row.words);
      Facts f = suid_host();
      row.spoil(f);
      const Report r = examine(f);
      CHECK_FALSE(r.suid_mode);
      CHECK(contains(check(r, "setuid-helper").detail, row.words));
      CHECK_FALSE(check(r, "setuid-helper").cure.empty());
    }
  }

  TEST_CASE("suid mode is ready if what it asks for is there") {
    Facts f = suid_host();
    f.audit_required = f.log_daemon = true;
    CHECK(examine(f).suid_mode);
    f.list_active = f.list_asks_for_seals = true;
    CHECK(examine(f).suid_mode);
    f.device_mapper = f.list_asks_for_seals = false;
    CHECK(examine(f).suid_mode);
    f.loop_devices = f.list_active = false;
    CHECK(examine(f).suid_mode);
  }

  TEST_CASE("mountinfo says what / and /proc are") {
    struct Row {
      const char* text;
      bool initramfs;
      bool hides;
      bool only_pids;
    };

    const std::string disk = "25 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n";
    const std::string proc = "26 25 0:20 / /proc rw,nosuid shared:5 - proc proc rw";
    const Row rows[] = {
        {"", false, false, false},
        {"1 1 0:2 / / rw - rootfs rootfs rw,size=1k\n", true, false, false},
        // Mounted over it, but this process still stands below.
        {"1 1 0:2 / / rw - rootfs rootfs rw\n2 1 0:3 / / rw - tmpfs tmpfs rw\n", true, false,
         false},
        {"2 1 0:3 / / rw - tmpfs tmpfs rw\n3 2 0:2 / /old rw - rootfs rootfs rw\n", false, false,
         false},
        {"2 1 0:3 / / rw - tmpfs tmpfs rw\n3 2 0:2 /usr /usr rw - rootfs rootfs rw\n", false, false,
         false},
        {"\n", false, false, false},
        {",hidepid=0\n", false, false, false},
        {",hidepid=off\n", false, false, false},
        {",hidepid=2\n", false, true, false},
        {",gid=4,hidepid=invisible\n", false, true, false},
        {",subset=pid\n", false, false, true},
        {"\n27 25 0:21 / /srv/proc rw - proc proc rw,subset=pid\n", false, false, false},
    };
    for (const Row& row : rows) {
      CAPTURE(row.text);
      const bool whole = *row.text >= '0' && *row.text <= '9';
      Facts f;
      mount_facts(whole ? row.text : disk + proc + row.text, f);
      CHECK(f.root_is_initramfs == row.initramfs);
      CHECK(f.proc_hides_others == row.hides);
      CHECK(f.proc_has_only_pids == row.only_pids);
    }
    Facts f = good_host();
    f.proc_hides_others = true;
    CHECK(contains(check(examine(f), "proc").detail, "hidepid"));
    f.proc_has_only_pids = true;
    CHECK(contains(check(examine(f), "proc").detail, "subset=pid"));
  }

  TEST_CASE("a site's policy is enforced only where users have no other way") {
    Facts f = suid_host();
    CHECK_FALSE(check(examine(f), "site-policy").works);
    CHECK(contains(check(examine(f), "site-policy").detail, "bring another runtime"));
    f.user_namespace_of_users = {"x", EPERM};
    CHECK(check(examine(f), "site-policy").works);  // what root may do does not matter
    f.user_namespace = {"x", ENOSPC};
    const Report r = examine(f);
    CHECK(check(r, "site-policy").works);
    CHECK(r.can_run());
    CHECK(contains(to_text(r), "through the setuid helper.\n"));
  }

  TEST_CASE("JSON is whole and escaped") {
    Report r = examine(suid_host());
    r.checks.resize(1);
    r.checks[0].detail = "a \"b\"\\\n";
    CHECK(
        to_json(r) ==
        "{\"can_run\":true,\"user_namespace_mode\":true,\"suid_mode\":true,\"checks\":["
        "{\"name\":\"kernel\",\"works\":true,\"needed\":true,\"detail\":\"a \\\"b\\\"\\\\\\u000a\","
        "\"cure\":\"\"}]}\n");
  }

  TEST_CASE("kernel versions") {
    CHECK(kernel_version("6.1.0-18-amd64") == std::pair(6U, 1U));
    CHECK(kernel_version("5.14") == std::pair(5U, 14U));
    CHECK(kernel_version("linux") == std::pair(0U, 0U));
    CHECK(kernel_version("6") == std::pair(0U, 0U));
  }

  TEST_CASE("metrics have a sample for each check, and no text ends a label") {
    Facts f = good_host();
    f.release = "6.1\"} 9\n# x\\";
    const Report r = examine(f);
    const std::string text = to_metrics(r, f, 17);
    CHECK(contains(text, "kernel=\"6.1\\\"} 9\\n# x\\\\\"} 1\n"));
    CHECK(contains(text, "\npostern_image_servers 17\n"));
    for (const Check& c : r.checks) {
      CHECK(contains(text, "postern_check_works{check=\"" + c.name + "\""));
    }
  }

  TEST_CASE("the tries leave no mount and no process behind") {
    const std::string before = own_mounts();
    (void)try_user_namespace();
    (void)try_user_namespace_of_users();
    (void)try_fuse();
    (void)try_overlay();
    CHECK(own_mounts() == before);
    CHECK(::waitpid(-1, nullptr, WNOHANG) == -1);
    CHECK(errno == ECHILD);
  }

  TEST_CASE("a try that cannot even start a process says so") {
    const auto status = in_child([] {
      const struct rlimit none{.rlim_cur = 0, .rlim_max = 0};
      ::setrlimit(RLIMIT_NOFILE, &none);
      const Attempt attempt = try_user_namespace();
      return attempt.err == EMFILE ? 0 : 1;
    });
    CHECK(status == 0);
  }
}
}  // namespace postern::doctor

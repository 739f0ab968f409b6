#include "frontend/doctor/report.h"

#include <cerrno>
#include <cstring>

#include "frontend/system/initramfs.h"

namespace postern::doctor {
namespace {

std::string words_of(const Attempt& attempt) {
  const char* words = strerrordesc_np(attempt.err);
  return attempt.step + ": " + (words != nullptr ? words : "unknown error");
}

std::string count_of(std::uint64_t count, const char* what) {
  return std::to_string(count) + " " + what;
}

Check kernel(const Facts& f) {
  Check c{.name = "kernel", .needed = true, .detail = "Linux " + f.release};
  // mount_setattr(2) is of 5.12; 5.14 is what is tested (RHEL 9).
  c.works = f.kernel_major > 5 || (f.kernel_major == 5 && f.kernel_minor >= 14);
  if (!c.works) {
    c.cure = "5.14 or newer is needed: update the kernel";
  }
  return c;
}

// The first setting that explains the failure; what is left is a seccomp filter or the like.
std::string user_namespace_cure(const Facts& f) {
  if (f.max_user_namespaces && *f.max_user_namespaces == 0) {
    return "as root: sysctl -w user.max_user_namespaces=15000, and the same in /etc/sysctl.d/";
  }
  if (f.unprivileged_userns_clone && *f.unprivileged_userns_clone == 0) {
    return "as root: sysctl -w kernel.unprivileged_userns_clone=1, and the same in /etc/sysctl.d/";
  }
  if (f.apparmor_restricts_userns && *f.apparmor_restricts_userns != 0) {
    return "as root: allow it to postern in an AppArmor profile (`profile postern PATH flags="
           "(unconfined) { userns, }`), or sysctl -w "
           "kernel.apparmor_restrict_unprivileged_userns=0";
  }
  if (f.user_namespace.err == ENOSPC) {
    return "the limit of nested or simultaneous namespaces is reached: raise "
           "user.max_user_namespaces, or leave some of the namespaces around this process";
  }
  if (f.user_namespace.err == EINVAL || f.user_namespace.err == ENOSYS) {
    return "the kernel was built without user namespaces: use one with CONFIG_USER_NS";
  }
  return "a seccomp filter, a chroot or another container around this process forbids it: run "
         "outside of it, or have the administrator install the setuid helper";
}

Check user_namespaces(const Facts& f) {
  Check c{.name = "user-namespaces", .works = f.user_namespace.err == 0, .needed = true};
  if (c.works) {
    c.detail = "created one and mounted in it, as uid " + std::to_string(f.uid);
  } else {
    c.detail = words_of(f.user_namespace);
    c.cure = user_namespace_cure(f);
  }
  return c;
}

// A try that failed before its own subject failed for want of a user namespace.
bool blocked_by_namespace(const Facts& f) {
  return f.user_namespace.err != 0;
}

Check fuse(const Facts& f) {
  Check c{.name = "fuse", .works = f.fuse.err == 0, .needed = true};
  if (c.works) {
    c.detail = "opened /dev/fuse and mounted it in a user namespace";
  } else if (blocked_by_namespace(f)) {
    c.detail = "not tried: there are no user namespaces";
    c.cure = "see user-namespaces";
  } else {
    c.detail = words_of(f.fuse);
    const bool opening = f.fuse.step == kOpeningFuse;
    c.cure =
        f.fuse.err == ENODEV || (opening && (f.fuse.err == ENOENT || f.fuse.err == ENXIO))
            ? "as root: modprobe fuse, and `fuse` in a file in /etc/modules-load.d/"
        : opening && f.fuse.err == EACCES
            ? "as root: chmod 666 /dev/fuse (the mode that udev gives it)"
            : "the kernel or a container around this process forbids it; images cannot be run, "
              "directories can";
  }
  return c;
}

Check overlay(const Facts& f) {
  Check c{.name = "overlay", .works = f.overlay.err == 0};
  if (c.works) {
    c.detail = "mounted one in a user namespace";
  } else if (blocked_by_namespace(f)) {
    c.detail = "not tried: there are no user namespaces";
    c.cure = "see user-namespaces";
  } else {
    c.detail = words_of(f.overlay);
    c.cure = f.overlay.err == ENODEV
                 ? "as root: modprobe overlay; until then mount points must exist in the image"
                 : "a kernel of 5.11 or newer allows it; until then mount points must exist in the "
                   "image";
  }
  return c;
}

Check subordinate(const Facts& f) {
  const std::string who = f.user.empty() ? std::to_string(f.uid) : f.user;
  Check c{.name = "subordinate-ids",
          .works = f.subuids > 0 && f.subgids > 0 && f.newuidmap && f.newgidmap};
  c.detail = count_of(f.subuids, "uids and ") + count_of(f.subgids, "gids for ") + who +
             (f.newuidmap && f.newgidmap ? "" : ", newuidmap or newgidmap missing or not setuid");
  if (!c.works) {
    c.cure =
        f.newuidmap && f.newgidmap
            ? "for --fakeroot with more than one id, as root: usermod --add-subuids "
              "100000-165535 --add-subgids 100000-165535 " +
                  who
            : "for --fakeroot with more than one id, as root: install newuidmap (package uidmap "
              "or shadow-utils)";
  }
  return c;
}

Check cgroups(const Facts& f) {
  Check c{.name = "cgroup-v2", .works = f.cgroup_v2 && (f.cgroup_delegated || f.uid == 0)};
  if (!f.cgroup_v2) {
    c.detail = "/sys/fs/cgroup is not the unified hierarchy";
    c.cure = "for resource limits: boot with systemd.unified_cgroup_hierarchy=1";
  } else if (c.works) {
    c.detail = "the caller may make groups below its own";
  } else {
    c.detail = "present, but the caller's group is not delegated to it";
    c.cure = "for resource limits: start from a systemd user session (systemd-run --user --scope)";
  }
  return c;
}

// What is installed and enabled as it must be, and yet no start would be admitted, or none would
// come up.
std::pair<std::string, std::string> start_obstacle(const Facts& f) {
  if (f.audit_required && !f.log_daemon) {
    return {
        "the site requires an audit line (audit.required), and no syslog daemon listens on "
        "/dev/log",
        "start one (systemd-journald, rsyslog), or in " + f.config_path +
            ": [audit] required = false"};
  }
  // An active list admits no server of the user's: the kernel must mount the image.
  if (f.list_active && !f.loop_devices) {
    return {
        "the site's execution control list is active, and there are no loop devices to mount "
        "images with",
        "as root: modprobe loop, and `loop` in a file in /etc/modules-load.d/"};
  }
  if (f.list_active && f.list_asks_for_seals && !f.device_mapper) {
    return {
        "the site's execution control list admits sealed images, and there is no device-mapper "
        "to check their blocks with",
        "as root: modprobe -a dm-mod dm-verity, and both in a file in /etc/modules-load.d/"};
  }
  if (f.root_is_initramfs) {
    return {std::string(system::kInitramfsRoot), std::string(system::kInitramfsCure)};
  }
  return {};
}

// What keeps suid mode from working, the first reason; empty = nothing.
std::pair<std::string, std::string> suid_obstacle(const Facts& f) {
  const HelperFacts& h = f.helper;
  if (!h.present) {
    return {"not installed",
            "only needed where user namespaces are not allowed, as root: install the package "
            "postern-suid, or build with -Dsuid=enabled and install that"};
  }
  if (!h.owned_by_root || !h.setuid) {
    return {h.path + " is not setuid root",
            "as root: chown root:root " + h.path + " && chmod 4711 " + h.path};
  }
  if (h.writable_by_others) {
    return {h.path + " is writable by others than root", "as root: chmod 4711 " + h.path};
  }
  if (h.nosuid_mount) {
    return {h.path + " is on a file system mounted nosuid", "install to another file system"};
  }
  if (!h.judge_present) {
    return {"postern-judge is missing beside it", "install postern again"};
  }
  if (!f.judge_user_exists) {
    return {"there is no user " + f.judge_user,
            "as root: useradd --system --no-create-home --shell /usr/sbin/nologin " + f.judge_user};
  }
  if (!f.config_fault.empty()) {
    return {"the site's policy cannot be relied on: " + f.config_fault,
            "mend the file; it must belong to root and not be writable by others"};
  }
  if (!f.config_present) {
    return {"there is no " + f.config_path, "as root: write it (postern.toml(5))"};
  }
  if (!f.suid_enabled) {
    return {"the site has not enabled it", "in " + f.config_path + ": [suid] enabled = true"};
  }
  return start_obstacle(f);
}

Check helper(const Facts& f) {
  const auto [obstacle, cure] = suid_obstacle(f);
  return {.name = "setuid-helper",
          .works = obstacle.empty(),
          .detail = obstacle.empty() ? f.helper.path + " is ready" : obstacle,
          .cure = cure};
}

Check device_mapper(const Facts& f) {
  Check c{.name = "device-mapper", .works = f.device_mapper && f.loop_devices};
  c.detail = c.works ? "loop devices and device-mapper are there"
                     : std::string(f.device_mapper ? "device-mapper" : "no device-mapper") +
                           (f.loop_devices ? ", loop devices" : ", no loop devices");
  if (!c.works) {
    c.cure =
        "only for sealed and encrypted images that the kernel mounts in suid mode, as root: "
        "modprobe -a loop dm-mod dm-verity dm-crypt";
  }
  return c;
}

// Containers run with each of these; what they see of other processes is less.
Check proc(const Facts& f) {
  Check c{.name = "proc", .works = true, .detail = "/proc shows every process"};
  if (f.proc_has_only_pids) {
    c.detail =
        "/proc shows processes only (subset=pid): containers run, and find no /proc/cpuinfo, "
        "/proc/meminfo and /proc/sys";
  } else if (f.proc_hides_others) {
    c.detail =
        "/proc hides the processes of other users (hidepid): containers run, each with a mount of "
        "its "
        "image of its own";
  }
  return c;
}

Check emulation(const Facts& f) {
  Check c{.name = "emulation", .works = !f.interpreters.empty()};
  for (const std::string& architecture : f.interpreters) {
    c.detail += (c.detail.empty() ? "images for " : ", ") + architecture;
  }
  if (!c.works) {
    c.detail = "images for other architectures cannot run";
    c.cure = "as root: install qemu-user-static with its persistent binfmt_misc entries (flag F)";
  }
  return c;
}

// A policy is only as good as the host: who may create user namespaces can bring another runtime.
Check site_policy(const Facts& f, bool suid_works) {
  Check c{.name = "site-policy", .works = suid_works && f.user_namespace_of_users.err != 0};
  if (c.works) {
    c.detail = "enforced: containers start through the setuid helper only";
  } else if (suid_works) {
    c.detail = "advisory: users may create user namespaces and bring another runtime";
    c.cure = "a site that wants its limits enforced sets user.max_user_namespaces=0";
  } else {
    c.detail = "advisory: suid mode does not work";
    c.cure =
        "a site that wants limits on images enforced needs suid mode, and no user namespaces "
        "for users";
  }
  return c;
}

void append_json(std::string& out, const std::string& text) {
  constexpr char kHex[] = "0123456789abcdef";
  out += '"';
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20) {
      out += "\\u00";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    } else {
      out += c;
    }
  }
  out += '"';
}

const char* truth(bool value) {
  return value ? "true" : "false";
}

}  // namespace

Report examine(const Facts& f) {
  Report r;
  const Check suid = helper(f);
  r.checks = {kernel(f),
              user_namespaces(f),
              fuse(f),
              overlay(f),
              subordinate(f),
              cgroups(f),
              suid,
              device_mapper(f),
              proc(f),
              emulation(f),
              site_policy(f, suid.works)};
  r.user_namespace_mode = true;
  for (const Check& c : r.checks) {
    r.user_namespace_mode = r.user_namespace_mode && (c.works || !c.needed);
  }
  r.suid_mode = suid.works && r.checks.front().works;
  return r;
}

std::string to_text(const Report& report) {
  std::string text;
  for (const Check& c : report.checks) {
    text += (c.works ? "works    " : "doesn't  ") + c.name + ": " + c.detail;
    if (!c.cure.empty()) {
      text += "; " + c.cure;
    }
    text += '\n';
  }
  if (!report.can_run()) {
    return text + "Images cannot run here.\n";
  }
  return text + "Images can run here, " +
         (report.user_namespace_mode ? report.suid_mode
                                           ? "in user namespaces and through the setuid helper.\n"
                                           : "in user namespaces.\n"
                                     : "through the setuid helper.\n");
}

std::string to_json(const Report& report) {
  std::string json = std::string("{\"can_run\":") + truth(report.can_run()) +
                     ",\"user_namespace_mode\":" + truth(report.user_namespace_mode) +
                     ",\"suid_mode\":" + truth(report.suid_mode) + ",\"checks\":[";
  for (const Check& c : report.checks) {
    json += json.back() == '[' ? "{\"name\":" : ",{\"name\":";
    append_json(json, c.name);
    json += std::string(",\"works\":") + truth(c.works) + ",\"needed\":" + truth(c.needed) +
            ",\"detail\":";
    append_json(json, c.detail);
    json += ",\"cure\":";
    append_json(json, c.cure);
    json += '}';
  }
  return json + "]}\n";
}

namespace {

// label="…": backslash, quote and line feed are escaped (exposition_formats.md).
std::string label(std::string_view name, std::string_view value) {
  std::string out = std::string(name) + "=\"";
  for (const char c : value) {
    out += c == '\n' ? "\\n" : c == '"' || c == '\\' ? std::string{'\\', c} : std::string(1, c);
  }
  return out + '"';
}

void family(std::string& out, std::string_view name, std::string_view help) {
  out += "# HELP " + std::string(name) + ' ' + std::string(help) + "\n# TYPE " + std::string(name) +
         " gauge\n";
}

void sample(std::string& out, std::string_view name, const std::string& labels, unsigned value) {
  out += std::string(name) + (labels.empty() ? "" : '{' + labels + '}') + ' ' +
         std::to_string(value) + '\n';
}

}  // namespace

std::string to_metrics(const Report& report, const Facts& facts, unsigned image_servers) {
  std::string out;
  family(out, "postern_info", "The program and the kernel.");
  sample(out, "postern_info",
         label("version", POSTERN_VERSION) + ',' + label("kernel", facts.release), 1);
  family(out, "postern_can_run", "Whether images can run in this mode.");
  sample(out, "postern_can_run", label("mode", "user-namespace"), report.user_namespace_mode);
  sample(out, "postern_can_run", label("mode", "suid"), report.suid_mode);
  family(out, "postern_check_works", "Whether the check of `postern doctor` succeeds.");
  for (const Check& check : report.checks) {
    sample(out, "postern_check_works",
           label("check", check.name) + ',' + label("needed", check.needed ? "yes" : "no"),
           check.works);
  }
  family(out, "postern_image_servers", "Processes that serve images in user space.");
  sample(out, "postern_image_servers", "", image_servers);
  family(out, "postern_list_active", "Whether the execution control list is active.");
  sample(out, "postern_list_active", "", facts.list_active);
  return out;
}

}  // namespace postern::doctor

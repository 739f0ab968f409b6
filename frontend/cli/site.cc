#include "frontend/cli/site.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include <sys/stat.h>

#include <grp.h>
#include <pwd.h>

#include "frontend/plan/bind.h"
#include "policy/config/site.h"

namespace postern::cli {

plan::Site site_of(const config::SiteConfig& config) {
  plan::Site site;
  site.proc = config.mount_proc;
  site.sys = config.mount_sys;
  switch (config.mount_dev) {
    case config::DevMount::kNo:
      site.dev = plan::Dev::kNo;
      break;
    case config::DevMount::kMinimal:
      site.dev = plan::Dev::kMinimal;
      break;
    case config::DevMount::kYes:
      site.dev = plan::Dev::kHost;
      break;
  }
  site.devpts = config.mount_devpts;
  site.home = config.mount_home;
  site.tmp = config.mount_tmp;
  site.hostfs = config.mount_hostfs;
  site.binds = config.mount_binds;
  site.passwd = config.config_passwd;
  site.group = config.config_group;
  site.resolv_conf = config.config_resolv_conf;
  site.user_binds = config.allow_user_binds;
  site.overlay = config.allow_overlay;
  site.pid_namespace = config.allow_pid_namespace;
  site.ipc_namespace = config.allow_ipc_namespace;
  site.uts_namespace = config.allow_uts_namespace;
  site.session_bytes = config.session_max_size_mib * 1024 * 1024;
  return site;
}

namespace {

// Ids of the names (or numbers) that a list of postern.toml holds; unknown names have none.
template <class Lookup>
std::vector<std::uint32_t> ids_of(const std::vector<std::string>& names, Lookup lookup) {
  std::vector<std::uint32_t> ids;
  for (const std::string& name : names) {
    std::uint32_t number = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
    if (error == std::errc{} && end == name.data() + name.size()) {
      ids.push_back(number);
    } else if (const auto found = lookup(name)) {
      ids.push_back(*found);
    }
  }
  return ids;
}

std::optional<std::uint32_t> user_id(const std::string& name) {
  const struct passwd* entry =
      ::getpwnam(name.c_str());  // NOLINT(concurrency-mt-unsafe): one thread
  return entry != nullptr ? std::optional<std::uint32_t>(entry->pw_uid) : std::nullopt;
}

std::optional<std::uint32_t> group_id(const std::string& name) {
  const struct group* entry =
      ::getgrnam(name.c_str());  // NOLINT(concurrency-mt-unsafe): one thread
  return entry != nullptr ? std::optional<std::uint32_t>(entry->gr_gid) : std::nullopt;
}

bool contains(const std::vector<std::uint32_t>& list, std::uint32_t id) {
  return std::find(list.begin(), list.end(), id) != list.end();
}

// limit.paths, limit.groups, limit.owners, in Apptainer's order and words.
Outcome<> check_limits(const config::SiteConfig& config, const plan::OpenImage& image) {
  if (!config.limit_paths.empty()) {
    char* real = ::realpath(image.path.c_str(), nullptr);
    const std::string path = real != nullptr ? real : image.path;
    ::free(real);  // NOLINT(cppcoreguidelines-no-malloc): realpath(3) allocates
    if (std::none_of(
            config.limit_paths.begin(), config.limit_paths.end(),
            [&](const std::string& directory) { return plan::is_within(path, directory); })) {
      return Problem{.what = image.path + " is not in an allowed configured path (limit.paths)"};
    }
  }
  if (config.limit_groups.empty() && config.limit_owners.empty()) {
    return Ok{};
  }
  struct stat status = {};
  if (::stat(image.path.c_str(), &status) != 0) {
    return system_problem("looking at " + image.path, errno);
  }
  if (!config.limit_groups.empty() &&
      !contains(ids_of(config.limit_groups, group_id), status.st_gid)) {
    return Problem{.what = image.path + " is not owned by required group(s) (limit.groups)"};
  }
  if (!config.limit_owners.empty() &&
      !contains(ids_of(config.limit_owners, user_id), status.st_uid)) {
    return Problem{.what = image.path + " is not owned by required user(s) (limit.owners)"};
  }
  return Ok{};
}

}  // namespace

Outcome<> check_site(const config::SiteConfig& config, const plan::OpenImage& image) {
  POSTERN_TRY(check_limits(config, image));
  const auto denied = [&image](const char* kind, const char* key) {
    return Problem{.what = image.path + ": the site's configuration allows no " + kind + " (" +
                           key + ')'};
  };
  if (image.directory) {
    return config.allow_directory ? Outcome<>(Ok{})
                                  : Outcome<>(denied("directory images", "allow.directory"));
  }
  if (image.encrypted && !config.allow_encrypted) {
    return denied("encrypted images", "allow.encrypted");
  }
  if (image.sif && !image.encrypted && !config.allow_sif) {
    return denied("SIF images", "allow.sif");
  }
  if (!image.sif && !config.allow_squashfs) {
    return denied("bare squashfs images", "allow.squashfs");
  }
  return Ok{};
}

}  // namespace postern::cli

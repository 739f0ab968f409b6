#include "frontend/cli/site.h"

#include <cerrno>
#include <optional>
#include <string>
#include <vector>

#include <sys/stat.h>

#include "frontend/message/message.h"
#include "frontend/plan/bind.h"
#include "policy/admit/admit.h"
#include "policy/config/capabilities.h"
#include "policy/config/read_file.h"
#include "policy/config/site.h"
#include "policy/judge/gather.h"
#include "policy/path/place.h"

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
  site.fusemount = config.allow_fusemount;
  site.pid_namespace = config.allow_pid_namespace;
  site.ipc_namespace = config.allow_ipc_namespace;
  site.uts_namespace = config.allow_uts_namespace;
  site.net_namespace = config.allow_net_namespace;
  site.session_bytes = config.session_max_size_mib * 1024 * 1024;
  return site;
}

namespace {

admit::Kind kind_of(const plan::OpenImage& image) {
  if (image.directory) {
    return admit::Kind::kDirectory;
  }
  return image.sif ? admit::Kind::kSif : admit::Kind::kSquashfs;
}

// In Apptainer's words where it has them.
std::string words_of(RefusalCode code, admit::Kind kind) {
  if (code == RefusalCode::kPathLimit) {
    return " is not in an allowed configured path";
  }
  if (code == RefusalCode::kGroupLimit) {
    return " is not owned by required group(s)";
  }
  if (code == RefusalCode::kOwnerLimit) {
    return " is not owned by required user(s)";
  }
  if (code == RefusalCode::kCryptForbidden) {
    return ": the site's configuration allows no encrypted images";
  }
  switch (kind) {
    case admit::Kind::kDirectory:
      return ": the site's configuration allows no directory images";
    case admit::Kind::kSif:
      return ": the site's configuration allows no SIF images";
    case admit::Kind::kSquashfs:
      return ": the site's configuration allows no bare squashfs images";
  }
  return ": not allowed";
}

}  // namespace

Outcome<> check_site(const config::SiteConfig& config, const plan::OpenImage& image) {
  struct stat status = {};
  if (admit::has_limits(config) && ::stat(image.path.c_str(), &status) != 0) {
    return system_problem("looking at " + image.path, errno);
  }
  const std::vector<std::string> place = path::places_of({image.path});
  const admit::Candidate candidate{
      .kind = kind_of(image),
      .encrypted = image.encrypted,
      .uid = status.st_uid,
      .gid = status.st_gid,
      .path = place.empty() ? std::nullopt : std::optional(place.front())};
  const auto admitted = admit::check(candidate, admit::resolve(config), config);
  if (admitted) {
    return Ok{};
  }
  return Problem{.what = image.path + words_of(admitted.error(), candidate.kind) + " (" +
                         std::string(admit::key_of(admitted.error(), candidate.kind)) + ")"};
}

void leave_out_ungranted(const plan::Identity& caller, LaunchRequest& request) {
  if (request.capabilities == 0) {
    return;
  }
  static const std::string kFile = POSTERN_CONFDIR "/capability.toml";
  const auto text = config::read_file(kFile);
  auto grants = text && *text ? config::parse_capability_config(**text, kFile)
                              : Outcome<config::CapabilityConfig>(config::CapabilityConfig{});
  if (!text || !grants) {
    return;  // the judge reads the file too, and says what is wrong with it
  }
  std::vector<std::uint32_t> groups;
  for (const auto& [id, name] : caller.groups) {
    groups.push_back(id);
  }
  const std::uint64_t granted = judge::granted_capabilities(*grants, caller.uid, groups);
  for (const std::string& name : config::capability_names(request.capabilities & ~granted)) {
    message::warning("not authorized to add capability: " + name +
                     " (the site grants it with `postern capability add`)");
  }
  request.capabilities &= granted;
}

}  // namespace postern::cli

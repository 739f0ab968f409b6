#include "frontend/cli/site.h"

#include "policy/config/site.h"

namespace postern::cli {

run::Site site_of(const config::SiteConfig& config) {
  run::Site site;
  site.proc = config.mount_proc;
  site.sys = config.mount_sys;
  switch (config.mount_dev) {
    case config::DevMount::kNo:
      site.dev = run::Dev::kNo;
      break;
    case config::DevMount::kMinimal:
      site.dev = run::Dev::kMinimal;
      break;
    case config::DevMount::kYes:
      site.dev = run::Dev::kHost;
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

Outcome<> check_site(const config::SiteConfig& config, const run::OpenImage& image) {
  const auto denied = [&image](const char* kind, const char* key) {
    return Problem{.what = image.path + ": the site's configuration allows no " + kind + " (" + key + ')'};
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

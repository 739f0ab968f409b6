#include "policy/config/trusted_file.h"

#include <cerrno>
#include <string_view>
#include <utility>

#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>

#include "policy/config/read_file.h"
#include "protocol/base/unique_fd.h"

namespace postern::config {
namespace {

ConfigFault insecure(const std::string& what, const std::string& cure) {
  return ConfigFault{RefusalCode::kConfigInsecure, Problem{.what = what, .cure = cure}};
}

// A POSIX ACL needs no look of its own: where one grants write to a named user or group, its mask
// shows as the group's write bit of st_mode (acl(5), "correspondence between ACL entries and file
// permission bits").
Trusted<> check_owner(int file, const std::string& name) {
  struct stat status{};
  if (::fstat(file, &status) != 0) {
    return ConfigFault{RefusalCode::kConfigInsecure, system_problem("looking at " + name, errno)};
  }
  if (status.st_uid != 0) {
    return insecure(name + " does not belong to root", "chown root " + name);
  }
  if ((status.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    return insecure(name + " can be written by others than root", "chmod go-w " + name);
  }
  return Ok{};
}

ConfigFault open_fault(const std::string& name, int error) {
  if (error == ENOENT) {
    return ConfigFault{RefusalCode::kConfigMissing, Problem{.what = name + " does not exist"}};
  }
  // open(2): O_NOFOLLOW gives ELOOP for a link, with O_DIRECTORY ENOTDIR.
  if (error == ELOOP || error == ENOTDIR) {
    return insecure(name + " is a symbolic link, or not a directory",
                    "configure the path without the link");
  }
  return ConfigFault{RefusalCode::kConfigMissing, system_problem("opening " + name, error)};
}

}  // namespace

Trusted<std::string> read_trusted(int root, const std::string& path) {
  // An invalid `root` gives EBADF, which is said.
  // NOLINTNEXTLINE(clang-analyzer-unix.StdCLibraryFunctions)
  UniqueFd here(::openat(root, ".", O_PATH | O_DIRECTORY | O_CLOEXEC));
  std::string name = "/";
  if (!here.valid()) {
    return open_fault(name, errno);
  }
  std::string_view rest = path;
  for (;;) {
    POSTERN_TRY(check_owner(here.get(), name));
    rest.remove_prefix(std::min(rest.find_first_not_of('/'), rest.size()));
    const std::string component(rest.substr(0, rest.find('/')));
    rest.remove_prefix(component.size());
    if (component.empty() || component == "..") {
      return insecure(path + " does not name a file without going back", "");
    }
    const bool is_last = rest.find_first_not_of('/') == std::string_view::npos;
    name += (name.size() > 1 ? "/" : "") + component;
    constexpr int kCommon = O_CLOEXEC | O_NOFOLLOW;
    const int flags = is_last ? O_RDONLY | O_NOCTTY | O_NONBLOCK : O_PATH | O_DIRECTORY;
    UniqueFd next(::openat(here.get(), component.c_str(), kCommon | flags));
    if (!next.valid()) {
      return open_fault(name, errno);
    }
    here = std::move(next);
    if (is_last) {
      break;
    }
  }
  POSTERN_TRY(check_owner(here.get(), name));
  Outcome<std::string> text = read_all(here.get(), name);
  if (!text) {
    return ConfigFault{RefusalCode::kConfigMalformed, std::move(text).error()};
  }
  return *std::move(text);
}

Trusted<SiteConfig> load_trusted(int root, const std::string& path) {
  POSTERN_TRY_ASSIGN(const std::string text, read_trusted(root, path));
  Outcome<SiteConfig> site = parse_site_config(text, path);
  if (!site) {
    return ConfigFault{RefusalCode::kConfigMalformed, std::move(site).error()};
  }
  return *std::move(site);
}

Trusted<SiteConfig> load_trusted(const std::string& path) {
  const UniqueFd root(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
  return load_trusted(root.get(), path);
}

}  // namespace postern::config

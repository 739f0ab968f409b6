#include "policy/config/trusted_file.h"

#include <cerrno>
#include <string_view>
#include <utility>

#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>

#include "policy/config/read_file.h"
#include "policy/text/split.h"

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

constexpr int kDirectory = O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW;

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

Trusted<TrustedDirectory> TrustedDirectory::open(int root, const std::string& path) {
  TrustedDirectory out;
  out.name_ = "/";
  // An invalid `root` gives EBADF, which is said.
  // NOLINTNEXTLINE(clang-analyzer-unix.StdCLibraryFunctions)
  out.here_ = UniqueFd(::openat(root, ".", kDirectory));
  if (!out.here_.valid()) {
    return open_fault(out.name_, errno);
  }
  POSTERN_TRY(check_owner(out.here_.get(), out.name_));
  for (const std::string_view component : text::split(path, '/')) {
    if (component.empty()) {
      continue;
    }
    if (component == "..") {
      return insecure(path + " does not name a file without going back", "");
    }
    out.name_ = out.path(std::string(component));
    UniqueFd next(::openat(out.here_.get(), std::string(component).c_str(), kDirectory));
    if (!next.valid()) {
      return open_fault(out.name_, errno);
    }
    out.here_ = std::move(next);
    POSTERN_TRY(check_owner(out.here_.get(), out.name_));
  }
  return out;
}

std::string TrustedDirectory::path(const std::string& file) const {
  return name_ + (name_.size() > 1 ? "/" : "") + file;
}

Trusted<std::string> TrustedDirectory::read(const std::string& file) const {
  const std::string name = path(file);
  if (file.empty() || file == "..") {
    return insecure(name + " does not name a file without going back", "");
  }
  const UniqueFd found(::openat(here_.get(), file.c_str(),
                                O_RDONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW));
  if (!found.valid()) {
    return open_fault(name, errno);
  }
  POSTERN_TRY(check_owner(found.get(), name));
  Outcome<std::string> text = read_all(found.get(), name);
  if (!text) {
    return ConfigFault{RefusalCode::kConfigMalformed, std::move(text).error()};
  }
  return *std::move(text);
}

Trusted<std::string> read_trusted(int root, const std::string& path) {
  const std::size_t last = path.rfind('/') + 1;  // 0 where there is none
  POSTERN_TRY_ASSIGN(const TrustedDirectory directory,
                     TrustedDirectory::open(root, path.substr(0, last)));
  return directory.read(path.substr(last));
}

Trusted<SiteConfig> load_trusted(const TrustedDirectory& directory, const std::string& file) {
  POSTERN_TRY_ASSIGN(const std::string text, directory.read(file));
  Outcome<SiteConfig> site = parse_site_config(text, directory.path(file));
  if (!site) {
    return ConfigFault{RefusalCode::kConfigMalformed, std::move(site).error()};
  }
  return *std::move(site);
}

Trusted<SiteConfig> load_trusted(int root, const std::string& path) {
  const std::size_t last = path.rfind('/') + 1;  // 0 where there is none
  POSTERN_TRY_ASSIGN(const TrustedDirectory directory,
                     TrustedDirectory::open(root, path.substr(0, last)));
  return load_trusted(directory, path.substr(last));
}

Trusted<SiteConfig> load_trusted(const std::string& path) {
  const UniqueFd root(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
  return load_trusted(root.get(), path);
}

}  // namespace postern::config

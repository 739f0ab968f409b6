#include "frontend/plan/devices.h"

#include <cerrno>
#include <optional>
#include <string_view>
#include <utility>

#include <sys/stat.h>

#include "frontend/plan/bind.h"
#include "frontend/plan/cdi.h"
#include "frontend/plan/gpu.h"
#include "frontend/plan/host_path.h"
#include "frontend/system/elf.h"

namespace postern::plan {
namespace {

constexpr std::string_view kLibraries = "/.singularity.d/libs";
constexpr std::string_view kLibraries32 = "/.singularity.d/libs32";

std::string base_name(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}

// Libraries of the host that a CDI specification mounts, under the names that programs ask for: the
// hooks that would tell the image's loader about them are not run.
void add_cdi_libraries(const CdiEdits& cdi, std::vector<HostLibrary>& out) {
  for (const CdiMount& mount : cdi.mounts) {
    const auto library = base_name(mount.host_path).find(".so") == std::string::npos
                             ? std::nullopt
                             : system::read_library(mount.host_path);
    if (library && !library->soname.empty() && library->soname.find('/') == std::string::npos &&
        kind_of_library(library->bits, library->machine) == LibraryKind::kOwn) {
      out.push_back({.path = mount.host_path, .name = library->soname});
    }
  }
}

// --containlibs
Outcome<> add_named_libraries(const Builder& builder, std::vector<HostLibrary>& out) {
  for (const std::string& word : builder.action().libraries) {
    std::string path = absolute_path(word, builder.caller().directory);
    if (!exists(path)) {
      return path_problem("--containlibs " + path, errno, "name a file of the host");
    }
    std::string name = base_name(path);
    out.push_back({.path = std::move(path), .name = std::move(name)});
  }
  return Ok{};
}

// What the host's libraries need of the image's C library: compared inside.
void need_glibc(Builder& builder, const std::vector<HostLibrary>& libraries) {
  init::LaunchRecord& record = builder.plan().record;
  for (const HostLibrary& library : libraries) {
    const auto read = system::read_library(library.path);
    if (read && read->glibc > record.glibc_needed) {
      record.glibc_needed = read->glibc;
      record.glibc_needed_by = library.name;
    }
  }
}

Outcome<> add_library_directory(Builder& builder,
                                std::string_view directory,
                                const std::vector<HostLibrary>& libraries) {
  if (libraries.empty()) {
    return Ok{};
  }
  POSTERN_TRY(builder.add_tmpfs(std::string(directory), 0755));
  for (const HostLibrary& library : libraries) {
    POSTERN_TRY(builder.add_bind(library.path, std::string(directory) + '/' + library.name,
                                 kReadOnly | kOptional));
  }
  return Ok{};
}

Outcome<> add_libraries(Builder& builder, const CdiEdits& cdi) {
  GpuFiles gpu = find_gpu_files(gpu_wish(builder.action()), builder.input().settings);
  for (std::string& warning : gpu.warnings) {
    builder.warn(std::move(warning));
  }
  add_cdi_libraries(cdi, gpu.libraries);
  POSTERN_TRY(add_named_libraries(builder, gpu.libraries));
  const bool any = !gpu.libraries.empty() || !gpu.binaries.empty() || !gpu.files.empty();
  if (any && !builder.site().user_binds) {
    builder.warn(
        "libraries and files of the host are left out: the site's configuration allows no binds of "
        "users (allow.user-binds)");
    return Ok{};
  }
  need_glibc(builder, gpu.libraries);
  POSTERN_TRY(add_library_directory(builder, kLibraries, gpu.libraries));
  POSTERN_TRY(add_library_directory(builder, kLibraries32, gpu.libraries32));
  builder.plan().record.libs32 = !gpu.libraries32.empty();
  for (const std::string& path : gpu.binaries) {
    POSTERN_TRY(builder.add_bind(path, "/usr/bin/" + base_name(path), kReadOnly | kOptional));
  }
  for (const std::string& path : gpu.files) {
    POSTERN_TRY(builder.add_bind(path, path, kReadOnly | kOptional));
  }
  return Ok{};
}

Outcome<> add_node(Builder& builder, const CdiNode& node) {
  struct stat status = {};
  if (::stat(node.host_path.c_str(), &status) != 0 || !S_ISCHR(status.st_mode)) {
    return Problem{.what = "--device: " + node.host_path + " is no character device of this host",
                   .cure = "the CDI specification is out of date: make it again"};
  }
  const bool host_dev =
      builder.site().dev == Dev::kHost && !builder.has_minimal_dev() && builder.is_wanted("dev");
  if (host_dev && node.path == node.host_path) {
    return Ok{};
  }
  if (host_dev && is_within(node.path, "/dev") && !exists(node.path)) {
    return Problem{.what = "--device: " + node.path + " cannot be made in the host's /dev",
                   .cure = "add --contain, whose /dev is the container's own"};
  }
  return builder.add({.operation = Operation::kDevice, .target = absolute_path(node.path, "/")},
                     Source{.kind = Source::Kind::kPath, .path = node.host_path}, Rank::kNamed);
}

Outcome<> add_mount(Builder& builder, const CdiMount& mount) {
  const std::string target = absolute_path(mount.path, "/");
  if (!exists(mount.host_path)) {
    return system_problem("--device: " + mount.host_path, errno,
                          "the CDI specification is out of date: make it again");
  }
  if (target == "/") {
    return Problem{.what = "--device: a CDI specification mounts " + mount.host_path +
                           " over the root of the container"};
  }
  return builder.add_bind(mount.host_path, target, mount.read_only ? unsigned{kReadOnly} : 0U,
                          Rank::kNamed);
}

Outcome<> add_cdi(Builder& builder, const CdiEdits& cdi) {
  for (const std::string& sentence : cdi.ignored) {
    builder.warn("--device: " + sentence);
  }
  for (const CdiNode& node : cdi.nodes) {
    POSTERN_TRY(add_node(builder, node));
  }
  if (!cdi.mounts.empty() && !builder.site().user_binds) {
    builder.warn(
        "--device: mounts are left out: the site's configuration allows no binds of users "
        "(allow.user-binds)");
    return Ok{};
  }
  for (const CdiMount& mount : cdi.mounts) {
    POSTERN_TRY(add_mount(builder, mount));
  }
  return Ok{};
}

// Values of LaunchRecord::forwarded are evaluated as between double quotes, unless --no-eval is
// given.
std::string literal(const std::string& setting, bool no_eval) {
  std::string text;
  for (const char c : setting) {
    if (!no_eval && (c == '$' || c == '`' || c == '\\')) {
      text += '\\';
    }
    text += c;
  }
  return text;
}

}  // namespace

Outcome<std::vector<std::string>> add_host_devices(Builder& builder) {
  const Action& action = builder.action();
  POSTERN_TRY_ASSIGN(const CdiEdits cdi, cdi_edits(action.devices, action.cdi_directories));
  POSTERN_TRY(add_libraries(builder, cdi));
  POSTERN_TRY(add_cdi(builder, cdi));
  std::vector<std::string> variables;
  for (const std::string& setting : cdi.environment) {
    variables.push_back(literal(setting, action.no_eval));
  }
  return variables;
}

}  // namespace postern::plan

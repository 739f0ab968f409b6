#include "frontend/plan/files.h"

#include <cerrno>

#include "frontend/plan/bind.h"
#include "frontend/plan/gpu.h"
#include "frontend/plan/host_path.h"

namespace postern::plan {
namespace {

constexpr std::string_view kLibraries = "/.singularity.d/libs";

Outcome<> add_account_file(Builder& builder, Source::Merge merge, const char* path) {
  Source source{.kind = Source::Kind::kContent, .merge = merge, .path = path};
  return builder.add({.operation = Operation::kFile,
                      .flags = kReadOnly | kOptional | kNeedsTarget,
                      .target = path},
                     std::move(source));
}

Outcome<> add_resolv_conf(Builder& builder) {
  const Action& action = builder.action();
  static constexpr const char* kPath = "/etc/resolv.conf";
  if (!builder.site().resolv_conf || !builder.is_wanted(kPath)) {
    return Ok{};
  }
  if (!action.dns.empty()) {
    std::string content;
    for (const std::string& address : action.dns) {
      content += "nameserver " + address + '\n';
    }
    return builder.add_file(std::move(content), kPath, kReadOnly);
  }
  return exists(kPath) ? builder.add_bind(kPath, kPath, kOptional) : Outcome<>(Ok{});
}

}  // namespace

Outcome<> add_files(Builder& builder) {
  const Action& action = builder.action();
  const Site& site = builder.site();
  LaunchRequest& request = builder.plan().request;
  // Root, real or fake, in a container that it can change keeps the image's own accounts: package
  // managers add to them.
  const bool keep = (builder.is_root() || action.fakeroot) &&
                    (action.writable || action.writable_tmpfs || !action.overlays.empty());
  if (site.passwd && !keep) {
    POSTERN_TRY(add_account_file(builder, Source::Merge::kPasswd, "/etc/passwd"));
  }
  if (site.group && !keep) {
    POSTERN_TRY(add_account_file(builder, Source::Merge::kGroup, "/etc/group"));
  }
  POSTERN_TRY(add_resolv_conf(builder));
  if (!request.hostname.empty()) {
    POSTERN_TRY(builder.add_file(request.hostname + '\n', "/etc/hostname", kOptional | kReadOnly));
  }
  return Ok{};
}

Outcome<> add_libraries(Builder& builder) {
  const Action& action = builder.action();
  GpuFiles gpu = find_gpu_files(action.nv, action.rocm);
  for (std::string& warning : gpu.warnings) {
    builder.warn(std::move(warning));
  }
  std::vector<std::string> libraries = std::move(gpu.libraries);
  for (const std::string& path : action.libraries) {
    libraries.push_back(absolute_path(path, builder.caller().directory));
    if (!exists(libraries.back())) {
      return system_problem("--containlibs " + libraries.back(), errno, "name a file of the host");
    }
  }
  if (!libraries.empty()) {
    POSTERN_TRY(builder.add_tmpfs(std::string(kLibraries), 0755));
    builder.plan().record.libs_bound = true;
  }
  for (const std::string& path : libraries) {
    const std::string name = path.substr(path.rfind('/'));
    POSTERN_TRY(builder.add_bind(path, std::string(kLibraries) + name, kReadOnly | kOptional));
  }
  for (const std::string& path : gpu.binaries) {
    POSTERN_TRY(
        builder.add_bind(path, "/usr/bin" + path.substr(path.rfind('/')), kReadOnly | kOptional));
  }
  for (const std::string& path : gpu.files) {
    POSTERN_TRY(builder.add_bind(path, path, kReadOnly | kOptional));
  }
  return Ok{};
}

}  // namespace postern::plan

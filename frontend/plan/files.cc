#include <cerrno>

#include "frontend/plan/gpu.h"
#include "frontend/plan/host_path.h"
#include "frontend/plan/planner.h"

namespace postern::plan {
namespace {

constexpr std::string_view kLibraries = "/.singularity.d/libs";

}  // namespace

Outcome<> Planner::account_file(Source::Merge merge, const char* path) {
  Source source{.kind = Source::Kind::kContent, .merge = merge, .path = path};
  return add({.operation = Operation::kFile,
              .flags = kReadOnly | kOptional | kNeedsTarget,
              .target = path},
             std::move(source));
}

Outcome<> Planner::resolv_conf() {
  static constexpr const char* kPath = "/etc/resolv.conf";
  if (!input_.site.resolv_conf || !is_wanted(kPath)) {
    return Ok{};
  }
  if (!action_.dns.empty()) {
    std::string content;
    for (const std::string& address : action_.dns) {
      content += "nameserver " + address + '\n';
    }
    return add_file(std::move(content), kPath, kReadOnly);
  }
  return exists(kPath) ? add_bind(kPath, kPath, kOptional) : Outcome<>(Ok{});
}

Outcome<> Planner::files() {
  // Root, real or fake, in a container that it can change keeps the image's own accounts: package
  // managers add to them.
  const bool keep = (is_root() || action_.fakeroot) &&
                    (action_.writable || action_.writable_tmpfs || !action_.overlays.empty());
  if (input_.site.passwd && !keep) {
    POSTERN_TRY(account_file(Source::Merge::kPasswd, "/etc/passwd"));
  }
  if (input_.site.group && !keep) {
    POSTERN_TRY(account_file(Source::Merge::kGroup, "/etc/group"));
  }
  POSTERN_TRY(resolv_conf());
  if (!plan_.request.hostname.empty()) {
    POSTERN_TRY(add_file(plan_.request.hostname + '\n', "/etc/hostname", kOptional | kReadOnly));
  }
  return Ok{};
}

// ------------------------------------------------------------------------- libraries, user binds

Outcome<> Planner::libraries() {
  GpuFiles gpu = find_gpu_files(action_.nv, action_.rocm);
  for (std::string& warning : gpu.warnings) {
    warn(std::move(warning));
  }
  std::vector<std::string> libraries = std::move(gpu.libraries);
  for (const std::string& path : action_.libraries) {
    libraries.push_back(absolute_path(path, input_.caller.directory));
    if (!exists(libraries.back())) {
      return system_problem("--containlibs " + libraries.back(), errno, "name a file of the host");
    }
  }
  if (!libraries.empty()) {
    POSTERN_TRY(add_tmpfs(std::string(kLibraries), 0755));
    plan_.record.libs_bound = true;
  }
  for (const std::string& path : libraries) {
    const std::string name = path.substr(path.rfind('/'));
    POSTERN_TRY(add_bind(path, std::string(kLibraries) + name, kReadOnly | kOptional));
  }
  for (const std::string& path : gpu.binaries) {
    POSTERN_TRY(add_bind(path, "/usr/bin" + path.substr(path.rfind('/')), kReadOnly | kOptional));
  }
  for (const std::string& path : gpu.files) {
    POSTERN_TRY(add_bind(path, path, kReadOnly | kOptional));
  }
  return Ok{};
}

}  // namespace postern::plan

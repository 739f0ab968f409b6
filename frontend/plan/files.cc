#include "frontend/plan/files.h"

#include "frontend/plan/host_path.h"

namespace postern::plan {
namespace {

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
  const auto& network = builder.plan().network;
  if (network && network->resolv_conf) {
    return builder.add_file(*network->resolv_conf, kPath, kReadOnly);
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

}  // namespace postern::plan

#include "policy/judge/audit.h"

#include <array>
#include <string_view>
#include <utility>

#include <sys/sysmacros.h>

#include "policy/text/hex.h"
#include "protocol/refusal_table.h"

namespace postern::judge {
namespace {

std::string_view name_of(RootKind root) {
  switch (root) {
    case RootKind::kImage:
      return "image";
    case RootKind::kFuse:
      return "fuse";
    case RootKind::kDirectory:
      return "directory";
  }
  return "?";
}

std::string namespaces(std::uint32_t flags) {
  constexpr std::array<std::pair<std::uint32_t, std::string_view>, 6> kNames = {
      {{CLONE_NEWUSER, "user"},
       {CLONE_NEWPID, "pid"},
       {CLONE_NEWIPC, "ipc"},
       {CLONE_NEWUTS, "uts"},
       {CLONE_NEWNET, "net"},
       {CLONE_NEWCGROUP, "cgroup"}}};
  std::string text;
  for (const auto& [flag, name] : kNames) {
    if ((flags & flag) != 0) {
      text += text.empty() ? "" : ",";
      text += name;
    }
  }
  return text;
}

// "bind:3,proc:1": how often each operation is asked for.
std::string operations(const LaunchRequest& request) {
  constexpr std::array<std::string_view, 1 + kOperationCount> kNames = {
      "?", "bind", "file", "tmpfs", "proc", "sysfs", "dev", "device", "devpts", "mqueue"};
  std::array<unsigned, kNames.size()> counts{};
  for (const MountRequest& mount : request.mounts) {
    ++counts[static_cast<std::size_t>(mount.operation) % kNames.size()];
  }
  std::string text;
  for (std::size_t i = 1; i < kNames.size(); ++i) {
    if (counts[i] != 0) {
      text += text.empty() ? "" : ",";
      text += std::string(kNames[i]) + ":" + std::to_string(counts[i]);
    }
  }
  return text;
}

void add_decision(audit::Record& out, const AuditFacts& from) {
  if (from.verdict->decision == Decision::kAllow) {
    out.add("decision", "allow");
    return;
  }
  const RefusalRow* row = find_refusal(static_cast<RefusalCode>(from.verdict->refusal));
  out.add("decision", "refuse");
  out.add("rule", row == nullptr ? "?" : row->rule);
  out.add("item", from.verdict->refusal_item);
}

void add_job(audit::Record& out, const audit::SlurmJob& job) {
  out.add("slurm-job", job.job);
  if (!job.step.empty()) {
    out.add("slurm-step", job.step);
  }
}

void add_root(audit::Record& out, const AuditFacts& from) {
  const bool proven = from.facts != nullptr && from.facts->image && from.facts->image->path;
  out.add_text(proven ? "path" : "path-unproven", from.root_path, audit::kPathBytes);
  out.add("device",
          std::to_string(major(from.root_device)) + ":" + std::to_string(minor(from.root_device)));
  out.add("inode", from.root_inode);
}

void add_request(audit::Record& out, const LaunchRequest& request) {
  out.add("root", name_of(request.root));
  if (request.namespaces != 0) {
    out.add("namespaces", namespaces(request.namespaces));
  }
  if (request.join_net) {
    out.add("netns", "joined");
  }
  if (request.capabilities != 0) {
    out.add("capabilities", request.capabilities);
  }
  if (!request.layers.empty()) {
    out.add("layers", request.layers.size());
  }
  if (const std::string counts = operations(request); !counts.empty()) {
    out.add("operations", counts);
  }
}

void add_verdict(audit::Record& out, const Verdict& verdict) {
  if (verdict.decision != Decision::kAllow) {
    return;
  }
  out.add("kernel-mount", verdict.layers[0].kind == RootKind::kImage ? 1 : 0);
  if (verdict.verity.data_blocks != 0) {
    out.add("root-hash", text::to_hex(verdict.verity.root_hash));
  }
  if (verdict.crypt.data_bytes != 0) {
    out.add("encrypted", 1);
  }
}

}  // namespace

// In the order of what must not be left out of a line that is too short for all.
audit::Record audit_record(const AuditFacts& from) {
  audit::Record out;
  out.add("uid", from.uid);
  out.add("gid", from.gid);
  out.add("mode", "suid");
  add_decision(out, from);
  if (from.job) {
    add_job(out, *from.job);
  }
  if (!from.user.empty()) {
    out.add_text("user", from.user, audit::kNameBytes);
  }
  if (from.request != nullptr) {
    add_request(out, *from.request);
  }
  add_verdict(out, *from.verdict);
  add_root(out, from);
  if (!from.detail.empty()) {
    out.add_text("detail", from.detail, audit::kDetailBytes);
  }
  if (from.facts != nullptr && from.facts->ecl) {
    out.add("ecl-line", from.facts->ecl->line);
    out.add_text("ecl", from.facts->ecl->why, audit::kDetailBytes);
  }
  return out;
}

}  // namespace postern::judge

// postern-judge: may this start run, and how? Started by postern-helper as a system user of its
// own; what it is handed is described in protocol/judge_input.h. Everything that fails is a
// refusal.
#include <algorithm>
#include <cerrno>
#include <optional>
#include <span>
#include <string>

#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>

#include "policy/admit/ids.h"
#include "policy/audit/job.h"
#include "policy/audit/log.h"
#include "policy/config/capabilities.h"
#include "policy/config/trusted_file.h"
#include "policy/ecl/ecl.h"
#include "policy/judge/audit.h"
#include "policy/judge/decide.h"
#include "policy/judge/examine.h"
#include "policy/judge/gather.h"
#include "policy/judge/input.h"
#include "policy/judge/sandbox.h"
#include "policy/judge/signatures.h"
#include "policy/judge/verdict_from_request.h"
#include "protocol/judge_input.h"
#include "protocol/launch_codec.h"
#include "protocol/refusal.h"

namespace postern::judge {
namespace {

const std::string kSiteDirectory = POSTERN_CONFDIR;
const std::string kKeyring = POSTERN_CONFDIR "/keyring";
constexpr const char* kEclFile = "ecl.toml";
constexpr const char* kCapabilityFile = "capability.toml";

// Large, and mostly never touched.
Verdict g_verdict;

constexpr int kRootFd = kJudgeDescriptorBase;

// Of an image, for all that is not streamed: tables, seals, signatures, a LUKS2 header. Real images
// have some hundred KiB.
constexpr std::size_t kMaxImageMetadata = std::size_t{16} << 20;

int descriptor_of(std::uint16_t index) {
  return kJudgeDescriptorBase + index;
}

// The site's files, and what of them needs name services: all that is read before the sandbox.
struct Policy {
  config::SiteConfig site;
  ecl::EclConfig ecl;
  Facts facts;
  std::vector<FileId> networks;
  MountTable mounts;
  bool open_for_writing = false;  // the root's file
  std::optional<Signatures> signatures;
};

using config::ConfigFault;
using config::Trusted;
using config::TrustedDirectory;

Trusted<> read_ecl(const TrustedDirectory& directory, Policy& policy) {
  POSTERN_TRY_ASSIGN(const std::string text, directory.read(kEclFile));
  Outcome<ecl::EclConfig> parsed = ecl::parse_ecl(text, directory.path(kEclFile));
  if (!parsed) {
    return ConfigFault{RefusalCode::kConfigMalformed, std::move(parsed).error()};
  }
  policy.ecl = *std::move(parsed);
  policy.facts.ecl_active = policy.ecl.activated;
  return Ok{};
}

// A missing file grants nothing.
Trusted<> read_grants(const TrustedDirectory& directory, Policy& policy) {
  const Trusted<std::string> text = directory.read(kCapabilityFile);
  if (!text) {
    return text.error().code == RefusalCode::kConfigMissing ? Trusted<>(Ok{}) : text.error();
  }
  Outcome<config::CapabilityConfig> grants =
      config::parse_capability_config(*text, directory.path(kCapabilityFile));
  if (!grants) {
    return ConfigFault{RefusalCode::kConfigMalformed, std::move(grants).error()};
  }
  policy.facts.granted_capabilities =
      granted_capabilities(*grants, policy.facts.uid, policy.facts.groups);
  return Ok{};
}

bool contains(const std::vector<std::uint32_t>& list, std::uint32_t id) {
  return std::find(list.begin(), list.end(), id) != list.end();
}

// Joining a network takes a listed user, or a member of a listed group, and a listed namespace.
void resolve_networks(Policy& policy) {
  const config::SiteConfig& site = policy.site;
  if (site.allow_netns_paths.empty()) {
    return;
  }
  const std::vector<std::uint32_t> groups = admit::group_ids(site.allow_netns_groups);
  const bool is_listed = contains(admit::user_ids(site.allow_netns_users), policy.facts.uid) ||
                         std::any_of(groups.begin(), groups.end(), [&](std::uint32_t id) {
                           return contains(policy.facts.groups, id);
                         });
  if (is_listed) {
    policy.networks = listed_networks(site.allow_netns_paths);
  }
}

bool rules_need_sources(const Policy& policy) {
  return !policy.site.allow_user_binds || !policy.ecl.profiles.empty();
}

// Signatures decide only about image files, and only where a list is active or a valid one would
// let the kernel mount the image.
bool signatures_matter(const Policy& policy) {
  struct stat root{};
  const auto has = [](const char* name) { return ::access((kKeyring + name).c_str(), F_OK) == 0; };
  if (::fstat(kRootFd, &root) != 0 || !S_ISREG(root.st_mode)) {
    return false;
  }
  return policy.ecl.activated ||
         ((policy.site.kernel_mount_squashfs == config::KernelMount::kTrusted ||
           policy.site.kernel_mount_squashfs == config::KernelMount::kLimited) &&
          (has("/pubring.gpg") || has("/pubring.kbx") || has("/pem")));
}

Trusted<> read_policy(Policy& policy) {
  const UniqueFd root(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
  POSTERN_TRY_ASSIGN(const TrustedDirectory directory,
                     TrustedDirectory::open(root.get(), kSiteDirectory));
  POSTERN_TRY_ASSIGN(policy.site, config::load_trusted(directory, "postern.toml"));
  POSTERN_TRY(read_ecl(directory, policy));
  POSTERN_TRY(read_grants(directory, policy));
  const config::SiteConfig& site = policy.site;
  policy.facts.limits = admit::resolve(site);
  resolve_networks(policy);
  if (rules_need_sources(policy)) {
    policy.facts.site_binds =
        site_binds(site, site.mount_home ? admit::home_of(policy.facts.uid) : std::string());
  }
  policy.mounts = MountTable::read();
  if (policy.open_for_writing) {
    policy.mounts.note_writer();
  }
  if (signatures_matter(policy)) {
    POSTERN_TRY_ASSIGN(Signatures signatures, Signatures::prepare(kKeyring, policy.ecl, kRootFd));
    policy.signatures.emplace(std::move(signatures));
  }
  return Ok{};
}

// What the list says of a root that carries no signature, and the profile of any root.
void judge_root(Policy& policy, RootKind root) {
  Facts& facts = policy.facts;
  if (root != RootKind::kImage && policy.ecl.activated) {
    facts.ecl = ecl::decide_ecl(policy.ecl,
                                {.kind = root == RootKind::kFuse ? ecl::ContainerKind::kFuse
                                                                 : ecl::ContainerKind::kDirectory});
  }
  if (facts.ecl && facts.ecl->profile) {
    facts.profile = policy.ecl.profiles[*facts.ecl->profile];
  }
}

// Step 2, inside the sandbox: what is known about the caller's descriptors.
void look_at_descriptors(const LaunchRequest& request, std::size_t descriptors, Policy& policy) {
  Facts& facts = policy.facts;
  if (request.root == RootKind::kImage) {
    Snapshot image(kRootFd, kMaxImageMetadata);
    examine(kRootFd, image,
            {.mounts = policy.mounts,
             .list = policy.ecl,
             .signatures = policy.signatures ? &*policy.signatures : nullptr,
             .key = request.volume_key ? descriptor_of(*request.volume_key) : -1},
            facts);
  }
  judge_root(policy, request.root);
  if (request.join_net) {
    facts.may_join_network = is_listed_network(descriptor_of(*request.join_net), policy.networks);
  }
  if (rules_need_sources(policy)) {
    facts.sources.resize(descriptors);
    for (const MountRequest& mount : request.mounts) {
      if (mount.descriptor) {
        facts.sources[*mount.descriptor] =
            source_facts(descriptor_of(*mount.descriptor), policy.mounts);
      }
    }
  }
}

bool write_verdict() {
  for (std::span<const std::byte> bytes : wire_form(g_verdict)) {
    while (!bytes.empty()) {
      const ssize_t written = ::write(kJudgeFd, bytes.data(), bytes.size());
      if (written < 0 && errno != EINTR) {
        return false;
      }
      bytes = bytes.subspan(written > 0 ? static_cast<std::size_t>(written) : 0);
    }
  }
  return true;
}

void describe_root(AuditFacts& record) {
  struct stat status{};
  if (::fstat(kRootFd, &status) == 0) {
    record.root_device = status.st_dev;
    record.root_inode = status.st_ino;
  }
  record.root_path = shown_path(kRootFd);
}

// A line that the daemon did not take, or that the site requires and nobody takes, is a refusal.
void log_and_maybe_refuse(const audit::Log& log, const AuditFacts& record, bool required) {
  const bool is_refusal = g_verdict.decision != Decision::kAllow;
  const bool logged = log.is_present() ? log.write(audit_record(record), is_refusal) : !required;
  if (!logged && !is_refusal) {
    refuse({RefusalCode::kAuditLog}, g_verdict);
  }
}

bool judge(Input input) {
  const audit::Log log = audit::Log::open("postern-judge");
  Policy policy;
  policy.facts.uid = input.uid;
  policy.facts.gid = input.gid;
  policy.facts.groups = std::move(input.groups);
  policy.facts.groups.push_back(input.gid);
  policy.open_for_writing = input.open_for_writing;

  AuditFacts record{.uid = input.uid,
                    .gid = input.gid,
                    .user = admit::name_of(input.uid),
                    .job = audit::slurm_job(),
                    .verdict = &g_verdict};
  const Trusted<> read = read_policy(policy);
  const bool log_required = read && policy.site.audit_required;

  // ORDER: after the last file and name is looked up, before the caller's first byte.
  if (!enter_sandbox({.verdict = kJudgeFd, .logs = {log.syslog_socket(), log.journal_socket()}})) {
    return false;
  }
  describe_root(record);
  if (!read) {
    refuse({read.error().code}, g_verdict);
    record.detail = read.error().problem.what;
    log_and_maybe_refuse(log, record, false);
    return write_verdict();
  }
  const std::size_t descriptors = input.descriptors;
  const Result<LaunchRequest, Refusal> request = decode(read_request(kJudgeRequestFd), descriptors);
  if (!request) {
    refuse(request.error(), g_verdict);
    log_and_maybe_refuse(log, record, false);
    return write_verdict();
  }
  look_at_descriptors(*request, descriptors, policy);
  (void)decide(policy.facts, *request, descriptors, policy.site,
               g_verdict);  // the answer is in the verdict
  record.request = &*request;
  record.facts = &policy.facts;
  log_and_maybe_refuse(log, record, log_required);
  return write_verdict();
}

}  // namespace
}  // namespace postern::judge

int main() {
  namespace judge = postern::judge;
  // As root its word would be worth more than it is trusted with.
  if (::getuid() == 0 || ::geteuid() == 0 || !judge::cleanse()) {
    return 1;
  }
  auto input = judge::read_input(postern::kJudgeFd);
  return input && judge::judge(*std::move(input)) ? 0 : 1;
}

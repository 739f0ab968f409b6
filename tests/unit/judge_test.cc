#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>

#include <sys/stat.h>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include "policy/admit/ids.h"
#include "policy/config/capabilities.h"
#include "policy/judge/decide.h"
#include "policy/judge/gather.h"
#include "policy/path/path_prefix.h"
#include "policy/path/place.h"
#include "protocol/base/unique_fd.h"
#include "protocol/refusal_table.h"
#include "tests/unit/fresh.h"
#include "tests/unit/launch_samples.h"

namespace postern::judge {
namespace {

using config::SiteConfig;

struct World {
  Facts facts;
  LaunchRequest request = sample_request();
  SiteConfig site;
  std::size_t descriptors = 4;

  World() {
    site.suid_enabled = true;
    facts.uid = 1000;
    facts.gid = 1000;
    facts.groups = {1000};
    facts.sources.resize(4);
    facts.sources[3] = {.id = {7, 77}, .path = "/scratch/alice"};
  }

  // A trusted SIF image of root's below /apps, mounted by the kernel.
  void use_image() {
    request.root = RootKind::kImage;
    facts.image =
        ImageFacts{.offset = 4096, .bytes = 8192, .unwritable = true, .path = "/apps/x.sif"};
    site.kernel_mount_trusted_paths = {"/apps"};
    facts.limits.trusted_paths = {"/apps"};
  }

  void use_directory() {
    request.root = RootKind::kDirectory;
    request.scratch = Scratch::kNone;
  }

  // An active list that does not admit the root, and a profile for that.
  void box() {
    facts.ecl_active = true;
    facts.ecl.emplace();
    facts.ecl->decision = Decision::kAllow;
    facts.ecl->boxed = true;
    facts.profile =
        ecl::Profile{.name = "boxed",
                     .is_for_unsigned = true,
                     .require = CLONE_NEWPID | CLONE_NEWNET,
                     .deny = ecl::kDenyOverlay | ecl::kDenyDevices | ecl::kDenyCapabilities,
                     .binds = {"/scratch"}};
    request.namespaces = CLONE_NEWPID | CLONE_NEWNET;
  }

  Result<Ok, Refusal> ask() {
    static Verdict verdict;
    return decide(facts, request, descriptors, site, verdict);
  }
};

ecl::EclDecision ecl_says(Decision decision, RefusalCode reason, bool trusted) {
  ecl::EclDecision answer;
  answer.decision = decision;
  answer.reason = reason;
  answer.trusted = trusted;
  return answer;
}

struct Case {
  const char* what;
  std::function<void(World&)> change;
  RefusalCode code;
  std::uint32_t item = 0;
};

constexpr RefusalCode kYes = RefusalCode::kNone;

// clang-format off
const Case kCases[] = {
  {"boxed in, with what its profile requires", [](World& w) { w.box(); }, kYes},
  {"boxed in, a directory", [](World& w) { w.box(); w.use_directory(); }, kYes},
  {"boxed in, under a limit", [](World& w) { w.box(); w.site.limit_paths = {"/"}; }, RefusalCode::kUnboundRoot},
  {"boxed in, without its namespace", [](World& w) { w.box(); w.request.namespaces = CLONE_NEWNET; }, RefusalCode::kProfile},
  {"boxed in, joining a network", [](World& w) { w.box(); w.request.namespaces = CLONE_NEWPID; w.request.join_net = 4; w.descriptors = 5; w.facts.may_join_network = true; }, RefusalCode::kProfile},
  {"boxed in, with a capability", [](World& w) { w.box(); w.request.capabilities = w.facts.granted_capabilities = 1 << 10; }, RefusalCode::kProfile},
  {"boxed in, with an overlay", [](World& w) { w.box(); w.request.scratch = Scratch::kWritable; }, RefusalCode::kProfile},
  {"boxed in, with a bind that is not listed", [](World& w) { w.box(); w.facts.sources[3].path = "/scratch2/alice"; }, RefusalCode::kProfile, 1},
  {"boxed in, with a bind from nowhere", [](World& w) { w.box(); w.facts.sources[3].path.reset(); }, RefusalCode::kProfile, 1},
  {"a profile without lists of binds", [](World& w) { w.box(); w.facts.profile->binds.clear(); w.facts.sources[3].path.reset(); }, kYes},
  {"no binds at all", [](World& w) { w.box(); w.facts.profile->deny |= ecl::kDenyUserBinds; }, RefusalCode::kProfile, 1},
  {"\"limited\" lets no kernel mount what nobody vouches for", [](World& w) { w.use_image(); w.site.kernel_mount_trusted_paths.clear(); w.facts.limits.trusted_paths.clear(); w.site.kernel_mount_squashfs = config::KernelMount::kLimited; w.box(); }, RefusalCode::kKernelMount},
  {"a FUSE root with nothing special", [](World&) {}, kYes},
  {"suid mode off", [](World& w) { w.site.suid_enabled = false; }, RefusalCode::kSuidDisabled},
  {"a directory root", [](World& w) { w.use_directory(); }, kYes},
  {"directories not allowed", [](World& w) { w.use_directory(); w.site.allow_directory = false; }, RefusalCode::kContainerKind},
  {"a FUSE root may hold a directory", [](World& w) { w.site.allow_directory = false; }, RefusalCode::kUnboundRoot},
  {"a FUSE root may hold a SIF", [](World& w) { w.site.allow_sif = false; }, RefusalCode::kUnboundRoot},
  {"a FUSE root may hold a squashfs", [](World& w) { w.site.allow_squashfs = false; }, RefusalCode::kUnboundRoot},
  {"a FUSE root may be decrypted", [](World& w) { w.site.allow_encrypted = false; }, RefusalCode::kUnboundRoot},
  {"a directory is no SIF", [](World& w) { w.use_directory(); w.site.allow_sif = false; }, kYes},
  {"FUSE under a path limit", [](World& w) { w.site.limit_paths = {"/"}; }, RefusalCode::kUnboundRoot},
  {"FUSE under an owner limit", [](World& w) { w.site.limit_owners = {"root"}; }, RefusalCode::kUnboundRoot},
  {"FUSE under a group limit", [](World& w) { w.site.limit_groups = {"root"}; }, RefusalCode::kUnboundRoot},
  {"FUSE under an ECL", [](World& w) { w.facts.ecl_active = true; }, RefusalCode::kUnboundRoot},
  {"a directory under a path limit", [](World& w) { w.use_directory(); w.site.limit_paths = {"/"}; }, RefusalCode::kUnboundRoot},
  {"a directory under an ECL", [](World& w) { w.use_directory(); w.facts.ecl_active = true; }, RefusalCode::kUnboundRoot},

  {"a trusted image", [](World& w) { w.use_image(); }, kYes},
  {"an image without facts", [](World& w) { w.use_image(); w.facts.image.reset(); }, RefusalCode::kImageDescriptor},
  {"a damaged image", [](World& w) { w.use_image(); w.facts.image->problem = RefusalCode::kImageMalformed; }, RefusalCode::kImageMalformed},
  {"SIF not allowed", [](World& w) { w.use_image(); w.site.allow_sif = false; }, RefusalCode::kContainerKind},
  {"squashfs not allowed", [](World& w) { w.use_image(); w.facts.image->kind = ImageKind::kSquashfs; w.site.allow_squashfs = false; }, RefusalCode::kContainerKind},
  {"squashfs allowed where SIF is not", [](World& w) { w.use_image(); w.facts.image->kind = ImageKind::kSquashfs; w.site.allow_sif = false; }, kYes},
  {"encrypted not allowed", [](World& w) { w.use_image(); w.facts.image->encrypted = true; w.site.allow_encrypted = false; }, RefusalCode::kCryptForbidden},
  {"encrypted and the key fits", [](World& w) { w.use_image(); w.facts.image->encrypted = true; w.facts.image->crypt.emplace(); w.request.volume_key = 4; w.descriptors = 5; w.site.allow_sif = false; }, kYes},
  {"encrypted without a key", [](World& w) { w.use_image(); w.facts.image->encrypted = true; w.facts.image->crypt.emplace(); }, RefusalCode::kCryptKey},
  {"encrypted and the key does not fit", [](World& w) { w.use_image(); w.facts.image->encrypted = true; w.request.volume_key = 4; w.descriptors = 5; }, RefusalCode::kCryptKey},
  {"a key for a plain image", [](World& w) { w.use_image(); w.request.volume_key = 4; w.descriptors = 5; }, RefusalCode::kCryptKey},
  {"no dm-crypt", [](World& w) { w.use_image(); w.facts.image->encrypted = true; w.facts.image->crypt.emplace(); w.request.volume_key = 4; w.descriptors = 5; w.site.kernel_mount_encrypted = false; }, RefusalCode::kKernelMount},

  {"within the path limit", [](World& w) { w.use_image(); w.site.limit_paths = {"/opt", "/apps/"}; w.facts.limits.paths = {"/opt", "/apps"}; }, kYes},
  {"a directory with the same start", [](World& w) { w.use_image(); w.facts.image->path = "/apps-of-mine/x.sif"; w.site.kernel_mount_squashfs = config::KernelMount::kAny; w.site.limit_paths = {"/apps"}; }, RefusalCode::kPathLimit},
  {"a path that nobody knows", [](World& w) { w.use_image(); w.facts.image->path.reset(); w.site.limit_paths = {"/"}; }, RefusalCode::kPathLimit},
  {"the right owner", [](World& w) { w.use_image(); w.site.limit_owners = {"x"}; w.facts.limits.owners = {5, 0}; }, kYes},
  {"the wrong owner", [](World& w) { w.use_image(); w.site.limit_owners = {"x"}; w.facts.limits.owners = {5}; }, RefusalCode::kOwnerLimit},
  {"an owner that does not exist", [](World& w) { w.use_image(); w.site.limit_owners = {"x"}; }, RefusalCode::kOwnerLimit},
  {"the right group", [](World& w) { w.use_image(); w.site.limit_groups = {"x"}; w.facts.limits.groups = {0}; }, kYes},
  {"the wrong group", [](World& w) { w.use_image(); w.site.limit_groups = {"x"}; w.facts.limits.groups = {5}; }, RefusalCode::kGroupLimit},

  {"an unsigned image of root's that meets a limit", [](World& w) { w.use_image(); w.facts.limits.trusted_paths.clear(); w.site.limit_paths = {"/apps"}; w.facts.limits.paths = {"/apps"}; }, kYes},
  {"an unsigned image of the user's that meets a limit", [](World& w) { w.use_image(); w.facts.image->unwritable = false; w.site.limit_paths = {"/apps"}; w.facts.limits.paths = {"/apps"}; }, RefusalCode::kKernelMount},
  {"… and the kernel may mount any", [](World& w) { w.use_image(); w.facts.image->unwritable = false; w.site.kernel_mount_squashfs = config::KernelMount::kAny; w.site.limit_paths = {"/apps"}; w.facts.limits.paths = {"/apps"}; }, kYes},

  {"never by the kernel", [](World& w) { w.use_image(); w.site.kernel_mount_squashfs = config::KernelMount::kNever; }, RefusalCode::kKernelMount},
  {"any by the kernel", [](World& w) { w.use_image(); w.site.kernel_mount_squashfs = config::KernelMount::kAny; w.facts.image->path.reset(); w.facts.image->unwritable = false; }, kYes},
  {"trusted place, but writable", [](World& w) { w.use_image(); w.facts.image->unwritable = false; }, RefusalCode::kKernelMount},
  {"unwritable, but elsewhere", [](World& w) { w.use_image(); w.facts.image->path = "/home/alice/x.sif"; }, RefusalCode::kKernelMount},
  {"unwritable, but nobody knows where", [](World& w) { w.use_image(); w.facts.image->path.reset(); }, RefusalCode::kKernelMount},
  {"nothing is trusted by default", [](World& w) { w.use_image(); w.facts.limits.trusted_paths.clear(); }, RefusalCode::kKernelMount},
  {"a root file system at an odd offset", [](World& w) { w.use_image(); w.facts.image->offset = 31; }, RefusalCode::kKernelMount},

  {"the ECL trusts", [](World& w) { w.use_image(); w.facts.limits.trusted_paths.clear(); w.facts.ecl_active = true; w.facts.ecl = ecl_says(Decision::kAllow, kYes, true); }, kYes},
  {"the ECL admits without trust", [](World& w) { w.use_image(); w.facts.limits.trusted_paths.clear(); w.facts.ecl_active = true; w.facts.ecl = ecl_says(Decision::kAllow, kYes, false); }, RefusalCode::kKernelMount},
  {"the ECL refuses", [](World& w) { w.use_image(); w.facts.ecl_active = true; w.facts.ecl = ecl_says(Decision::kRefuse, RefusalCode::kEclUnsigned, false); }, RefusalCode::kEclUnsigned},
  {"the ECL refuses without a word", [](World& w) { w.use_image(); w.facts.ecl_active = true; w.facts.ecl = ecl_says(Decision::kRefuse, kYes, true); }, RefusalCode::kEclSignature},
  {"the ECL was not asked", [](World& w) { w.use_image(); w.facts.ecl_active = true; }, RefusalCode::kEclSignature},

  {"pid namespace", [](World& w) { w.request.namespaces = CLONE_NEWPID; }, kYes},
  {"no pid namespace", [](World& w) { w.request.namespaces = CLONE_NEWPID; w.site.allow_pid_namespace = false; }, RefusalCode::kNamespaceForbidden, 29},
  {"no ipc namespace", [](World& w) { w.request.namespaces = CLONE_NEWIPC; w.site.allow_ipc_namespace = false; }, RefusalCode::kNamespaceForbidden, 27},
  {"no uts namespace", [](World& w) { w.request.namespaces = CLONE_NEWUTS; w.site.allow_uts_namespace = false; }, RefusalCode::kNamespaceForbidden, 26},
  {"no net namespace", [](World& w) { w.request.namespaces = CLONE_NEWNET; w.site.allow_net_namespace = false; }, RefusalCode::kNamespaceForbidden, 30},
  {"no cgroup namespace", [](World& w) { w.request.namespaces = CLONE_NEWCGROUP; w.site.allow_cgroup_namespace = false; }, RefusalCode::kNamespaceForbidden, 25},
  {"a user namespace", [](World& w) { w.request.namespaces = CLONE_NEWUSER; }, RefusalCode::kNamespaceForbidden, 28},
  {"a listed network", [](World& w) { w.request.join_net = 4; w.descriptors = 5; w.facts.may_join_network = true; }, kYes},
  {"another network", [](World& w) { w.request.join_net = 4; w.descriptors = 5; }, RefusalCode::kNetworkNamespace},

  {"a writable tmpfs", [](World& w) { w.request.scratch = Scratch::kWritable; }, kYes},
  {"no overlay", [](World& w) { w.request.scratch = Scratch::kWritable; w.site.allow_overlay = false; }, RefusalCode::kOverlayForbidden},
  {"no overlay, but mount points", [](World& w) { w.site.allow_overlay = false; }, kYes},
  {"no overlay, and a layer", [](World& w) { w.request.layers = {{RootKind::kFuse, 4}}; w.descriptors = 5; w.site.allow_overlay = false; }, RefusalCode::kOverlayForbidden},
  {"an upper layer on the host", [](World& w) { w.request.scratch = Scratch::kDirectory; w.request.upper = 4; w.descriptors = 5; }, RefusalCode::kOverlayDirectory},
  {"a layer", [](World& w) { w.request.layers = {{RootKind::kFuse, 4}}; w.descriptors = 5; }, kYes},
  {"a layer over a limited image", [](World& w) { w.use_image(); w.request.layers = {{RootKind::kFuse, 4}}; w.descriptors = 5; w.site.limit_paths = {"/apps"}; w.facts.limits.paths = {"/apps"}; }, RefusalCode::kUnboundRoot},
  {"a directory layer", [](World& w) { w.use_image(); w.request.layers = {{RootKind::kFuse, 4}, {RootKind::kDirectory, 5}}; w.descriptors = 6; }, RefusalCode::kOverlayDirectory, 1},
  {"a directory root under an overlay", [](World& w) { w.use_directory(); w.request.scratch = Scratch::kMountPoints; }, RefusalCode::kOverlayDirectory},

  {"as large as the site allows", [](World& w) { w.request.scratch_bytes = 64 << 20; }, kYes},
  {"larger than the site allows", [](World& w) { w.request.scratch_bytes = (64 << 20) + 1; }, RefusalCode::kSessionSize},
  {"a tmpfs that is too large", [](World& w) { w.request.mounts.push_back({.operation = Operation::kTmpfs, .target = "/t", .size = 65ULL << 20}); }, RefusalCode::kSessionSize, 2},
  {"17 tmpfs", [](World& w) { for (int i = 0; i < 17; ++i) w.request.mounts.push_back({.operation = Operation::kTmpfs, .target = "/t"}); }, RefusalCode::kSessionSize, 18},

  {"a granted capability", [](World& w) { w.request.capabilities = 1 << 13; w.facts.granted_capabilities = 3 << 13; }, kYes},
  {"another capability", [](World& w) { w.request.capabilities = 3 << 12; w.facts.granted_capabilities = 1 << 13; }, RefusalCode::kCapability, 12},

  {"no proc", [](World& w) { w.site.mount_proc = false; }, RefusalCode::kMountForbidden, 0},
  {"no sys", [](World& w) { w.site.mount_sys = false; w.request.mounts[0].operation = Operation::kSysfs; }, RefusalCode::kMountForbidden, 0},
  {"the host's dev", [](World& w) { w.request.mounts[0].operation = Operation::kDevHost; }, kYes},
  {"minimal dev, the host's asked for", [](World& w) { w.site.mount_dev = config::DevMount::kMinimal; w.request.mounts[0].operation = Operation::kDevHost; }, RefusalCode::kMountForbidden, 0},
  {"no dev, a device asked for", [](World& w) { w.site.mount_dev = config::DevMount::kNo; w.request.mounts[1].operation = Operation::kDevice; }, RefusalCode::kMountForbidden, 1},
  {"no dev, mqueue asked for", [](World& w) { w.site.mount_dev = config::DevMount::kNo; w.request.mounts[0].operation = Operation::kMqueue; }, RefusalCode::kMountForbidden, 0},
  {"no devpts", [](World& w) { w.site.mount_devpts = false; w.request.mounts[0].operation = Operation::kDevpts; }, RefusalCode::kMountForbidden, 0},

  {"no binds of users", [](World& w) { w.site.allow_user_binds = false; }, RefusalCode::kBindForbidden, 1},
  {"the site's own bind", [](World& w) { w.site.allow_user_binds = false; w.facts.site_binds = {{{7, 77}, "/data"}}; }, kYes},
  {"the site's source at another place", [](World& w) { w.site.allow_user_binds = false; w.facts.site_binds = {{{7, 77}, "/other"}}; }, RefusalCode::kBindForbidden, 1},
  {"another source at the site's place", [](World& w) { w.site.allow_user_binds = false; w.facts.site_binds = {{{7, 78}, "/data"}}; }, RefusalCode::kBindForbidden, 1},
  {"hostfs", [](World& w) { w.site.allow_user_binds = false; w.site.mount_hostfs = true; w.facts.sources[3] = {.id = {7, 77}, .path = "/data", .is_mount_root = true}; }, kYes},
  {"hostfs, but not a mount", [](World& w) { w.site.allow_user_binds = false; w.site.mount_hostfs = true; w.facts.sources[3] = {.id = {7, 77}, .path = "/data"}; }, RefusalCode::kBindForbidden, 1},
  {"a generated passwd", [](World& w) { w.site.allow_user_binds = false; w.request.mounts[1] = {.operation = Operation::kFile, .descriptor = 3, .target = "/etc/passwd"}; }, kYes},
  {"a generated program", [](World& w) { w.site.allow_user_binds = false; w.request.mounts[1] = {.operation = Operation::kFile, .descriptor = 3, .target = "/bin/sh"}; }, RefusalCode::kBindForbidden, 1},
};
// clang-format on

TEST_CASE("every rule of setuid mode says no where it should, and only there") {
  for (const Case& row : kCases) {
    CAPTURE(row.what);
    World world;
    row.change(world);
    const auto answer = world.ask();
    CHECK(answer.has_value() == (row.code == RefusalCode::kNone));
    if (!answer) {
      CHECK(find_refusal(answer.error().code)->rule == find_refusal(row.code)->rule);
      CHECK(answer.error().item == row.item);
    }
  }
}

TEST_CASE("the table reaches every refusal that decide can give") {
  std::set<RefusalCode> seen;
  for (const Case& row : kCases) {
    seen.insert(row.code);
  }
  for (const RefusalCode code : {RefusalCode::kSuidDisabled,       RefusalCode::kContainerKind,
                                 RefusalCode::kOwnerLimit,         RefusalCode::kGroupLimit,
                                 RefusalCode::kPathLimit,          RefusalCode::kUnboundRoot,
                                 RefusalCode::kNamespaceForbidden, RefusalCode::kBindForbidden,
                                 RefusalCode::kOverlayForbidden,   RefusalCode::kOverlayDirectory,
                                 RefusalCode::kCapability,         RefusalCode::kKernelMount,
                                 RefusalCode::kNetworkNamespace,   RefusalCode::kSessionSize,
                                 RefusalCode::kMountForbidden,     RefusalCode::kImageMalformed,
                                 RefusalCode::kImageDescriptor,    RefusalCode::kEclUnsigned,
                                 RefusalCode::kEclSignature,       RefusalCode::kCryptKey,
                                 RefusalCode::kCryptForbidden}) {
    CAPTURE(static_cast<int>(code));
    CHECK(seen.count(code) == 1);
  }
}

TEST_CASE("the verdict carries what only the judge knows") {
  World world;
  world.use_image();
  world.site.session_max_size_mib = 8;
  world.facts.image->encrypted = true;
  world.facts.image->crypt =
      CryptGeometry{.data_bytes = 4096, .sector_bytes = 4096, .key_descriptor = kNoDescriptor};
  world.request.volume_key = 4;
  static Verdict verdict;
  REQUIRE(decide(world.facts, world.request, 5, world.site, verdict));
  CHECK(verdict.decision == Decision::kAllow);
  CHECK(verdict.layers[0].kind == RootKind::kImage);
  CHECK(verdict.image_offset == 4096);
  CHECK(verdict.image_bytes == 8192);
  CHECK(verdict.crypt.key_descriptor == 4);
  CHECK(verdict.crypt.sector_bytes == 4096);
  CHECK(verdict.scratch_bytes == 8 << 20);
}

TEST_CASE("a refusal carries nothing else") {
  World world;
  world.site.suid_enabled = false;
  static Verdict verdict;
  std::memset(&verdict, 0xff, sizeof verdict);
  REQUIRE_FALSE(decide(world.facts, world.request, 4, world.site, verdict));
  CHECK(verdict.magic == kVerdictMagic);
  CHECK(verdict.decision == Decision::kRefuse);
  CHECK(verdict.refusal == static_cast<std::uint16_t>(RefusalCode::kSuidDisabled));
  CHECK(verdict.operation_count == 0);
  CHECK(verdict.arena_bytes == 0);
}

TEST_CASE("configured directories are places, not texts") {
  const std::string base = std::filesystem::temp_directory_path() / "postern-places-XXXXXX";
  std::string path = base;
  REQUIRE(::mkdtemp(path.data()) != nullptr);
  path = std::filesystem::canonical(path);
  std::filesystem::create_directories(path + "/real/images");
  std::filesystem::create_symlink("real", path + "/link");
  const std::vector<std::string> wanted = {path + "/real/images"};
  for (const std::string& text :
       {path + "/real/images", path + "//real///images", path + "/real/images/",
        path + "/link/images", path + "/link/./images//", path + "/real/../link/images"}) {
    CAPTURE(text);
    CHECK(path::places_of({text}) == wanted);
    CHECK(admit::is_below_any(path + "/real/images/x.sif", path::places_of({text})));
    CHECK_FALSE(admit::is_below_any(path + "/real/images2/x.sif", path::places_of({text})));
  }
  CHECK(path::places_of({path + "/missing"}).empty());
  std::filesystem::remove_all(path);
}

TEST_CASE("paths compare by whole components") {
  CHECK(path::is_within("/apps/x", "/apps"));
  CHECK(path::is_within("/apps/x", "/apps/"));
  CHECK(path::is_within("/apps//x", "//apps"));
  CHECK(path::is_within("/apps", "/apps"));
  CHECK(path::is_within("/apps", "/"));
  CHECK_FALSE(path::is_within("/apps-of-mine/x", "/apps"));
  CHECK_FALSE(path::is_within("/app", "/apps"));
  CHECK_FALSE(path::is_within("/", "/apps"));
  CHECK_FALSE(path::is_within("/apps/../etc", "/apps"));
  CHECK_FALSE(path::is_within("/apps/x", "/apps/.."));
  CHECK_FALSE(path::is_within("apps/x", "/"));
  CHECK_FALSE(path::is_within("/apps/x", "apps"));
}

TEST_CASE("capabilities are known by name") {
  CHECK(*config::parse_capabilities("net_raw") == 1ULL << 13);
  CHECK(*config::parse_capabilities("CAP_NET_RAW, cap_chown") == (1ULL << 13 | 1));
  CHECK(*config::parse_capabilities("ALL") == (1ULL << 41) - 1);
  CHECK_FALSE(config::parse_capabilities("CAP_FLY"));
  CHECK_FALSE(config::parse_capabilities(""));
  CHECK_FALSE(config::parse_capabilities("chown,"));
  CHECK(config::capability_names(1ULL << 13 | 1) ==
        std::vector<std::string>{"CAP_CHOWN", "CAP_NET_RAW"});
}

TEST_CASE("capability.toml is read and written") {
  const auto grants = config::parse_capability_config(
      "[users]\nalice = [\"CAP_NET_RAW\"]\n\"o.neill\" = [\"chown\"]\n[groups]\n0 = [\"ALL\"]\n",
      "c");
  REQUIRE(grants);
  const std::string text = config::capability_config_text(*grants);
  const auto again = config::parse_capability_config(text, "c");
  REQUIRE(again);
  CHECK(config::capability_config_text(*again) == text);
  CHECK(again->users.size() == 2);
  CHECK(granted_capabilities(*again, 12345, {12345}) == 0);
  CHECK(granted_capabilities(*again, 12345, {0}) == (1ULL << 41) - 1);
  CHECK(granted_capabilities({{{"12345", 8}}, {}}, 12345, {}) == 8);
  CHECK(granted_capabilities({{{"no such user", 8}}, {}}, 0, {}) == 0);
  CHECK(config::parse_capability_config("[users]\nalice = [\"CAP_FLY\"]\n", "c").error().what ==
        "c:2:1: unknown capability \"CAP_FLY\"");
  CHECK_FALSE(config::parse_capability_config("[people]\n", "c"));
  CHECK_FALSE(config::parse_capability_config("alice = [\"CAP_CHOWN\"]\n", "c"));
  CHECK_FALSE(config::parse_capability_config("[users]\nalice = true\n", "c"));
}

// A file of our own, and the mounts of this process.
struct Place {
  Place() {
    std::string name = "/tmp/postern-judge-XXXXXX";
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    dir = std::filesystem::canonical(name).string();
    std::ofstream(dir + "/image") << "not an image";
    fd = UniqueFd(::open((dir + "/image").c_str(), O_RDONLY | O_CLOEXEC));
  }

  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;

  ~Place() { std::filesystem::remove_all(dir); }

  std::string dir;
  UniqueFd fd;
  MountTable mounts = MountTable::read();
};

TEST_CASE("an open file's path is the kernel's, and only where it can be relied on") {
  const Place place;
  CHECK(path_of(place.fd.get(), place.mounts) == place.dir + "/image");
  SUBCASE("moved") {
    std::filesystem::rename(place.dir + "/image", place.dir + "/moved");
    CHECK(path_of(place.fd.get(), place.mounts) == place.dir + "/moved");
  }
  SUBCASE("deleted") {
    std::filesystem::remove(place.dir + "/image");
    CHECK_FALSE(path_of(place.fd.get(), place.mounts));
  }
  SUBCASE("deleted, but linked elsewhere") {
    std::filesystem::create_hard_link(place.dir + "/image", place.dir + "/other");
    std::filesystem::remove(place.dir + "/image");
    CHECK_FALSE(path_of(place.fd.get(), place.mounts));
  }
  SUBCASE("through a mount of another namespace") {
    CHECK_FALSE(path_of(place.fd.get(), MountTable::parse("1 0 0:1 / / rw - tmpfs x rw\n")));
    CHECK_FALSE(path_of(place.fd.get(), MountTable()));
  }
}

TEST_CASE("what is not an image says why") {
  const Place place;
  CHECK(image_facts(place.fd.get(), Fresh(place.fd.get()), place.mounts).problem ==
        RefusalCode::kImageMalformed);
  const std::string path = place.dir + "/image";
  const auto problem = [&](int flags, const std::string& file) {
    const UniqueFd fd(::open(file.c_str(), flags | O_CLOEXEC));
    REQUIRE(fd.valid());
    return image_facts(fd.get(), Fresh(fd.get()), place.mounts).problem;
  };
  CHECK(problem(O_WRONLY, path) == RefusalCode::kImageDescriptor);
  CHECK(problem(O_PATH, path) == RefusalCode::kImageDescriptor);
  CHECK(problem(O_RDONLY, place.dir) == RefusalCode::kImageDescriptor);
  CHECK(problem(O_RDONLY, "/proc/version") == RefusalCode::kImageDescriptor);
  CHECK(problem(O_RDONLY, "/dev/null") == RefusalCode::kImageDescriptor);
  CHECK(image_facts(-1, Fresh(-1), place.mounts).problem == RefusalCode::kImageDescriptor);
}

TEST_CASE("only root's file that nobody else may write is unwritable" *
          doctest::skip(::geteuid() != 0)) {
  const Place place;
  const auto unwritable = [&](mode_t mode, uid_t owner) {
    REQUIRE(::fchown(place.fd.get(), owner, 0) == 0);
    REQUIRE(::fchmod(place.fd.get(), mode) == 0);
    return image_facts(place.fd.get(), Fresh(place.fd.get()), place.mounts).unwritable;
  };
  CHECK(unwritable(0644, 0));
  CHECK_FALSE(unwritable(0664, 0));
  CHECK_FALSE(unwritable(0646, 0));
  CHECK_FALSE(unwritable(0444, 1000));
}

TEST_CASE("a network namespace is known by what it is, not by its name") {
  const UniqueFd net(::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
  const UniqueFd uts(::open("/proc/self/ns/uts", O_RDONLY | O_CLOEXEC));
  REQUIRE(net.valid());
  CHECK(is_listed_network(net.get(), listed_networks({"/proc/self/ns/net"})));
  CHECK_FALSE(is_listed_network(net.get(), listed_networks({"/nonexistent"})));
  CHECK_FALSE(is_listed_network(uts.get(), listed_networks({"/proc/self/ns/uts"})));
  const Place place;
  CHECK_FALSE(is_listed_network(place.fd.get(), listed_networks({place.dir + "/image"})));
}

TEST_CASE("the site's binds are known by their source") {
  const Place place;
  SiteConfig site;
  site.mount_binds = {place.dir + "/image", place.dir + ":/opt/data:ro", "/nonexistent"};
  site.mount_tmp = false;
  site.config_resolv_conf = false;
  const auto binds = site_binds(site, place.dir);
  REQUIRE(binds.size() == 3);
  CHECK(binds[0].source == source_facts(place.fd.get(), place.mounts).id);
  CHECK(binds[0].target == place.dir + "/image");
  CHECK(binds[1].target == "/opt/data");
  CHECK(binds[2].target == place.dir);
}

TEST_CASE("names of users and groups become ids") {
  CHECK(admit::user_ids({"root", "no such user", "4711"}) == std::vector<std::uint32_t>{0, 4711});
  CHECK(admit::group_ids({"root", "-1"}) == std::vector<std::uint32_t>{0});
}

}  // namespace
}  // namespace postern::judge

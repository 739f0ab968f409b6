#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <elf.h>
#include <unistd.h>

#include "frontend/plan/gpu.h"
#include "frontend/plan/host_mounts.h"
#include "frontend/plan/make_plan.h"
#include "frontend/plan/mounts.h"
#include "protocol/limits.h"
#include "tests/unit/temporary_directory.h"

using postern::LaunchRequest;
using postern::MountRequest;
using postern::Operation;
using postern::Scratch;
using postern::TemporaryDirectory;
using postern::plan::Action;
using postern::plan::Fakeroot;
using postern::plan::is_system_directory;
using postern::plan::kind_of_library;
using postern::plan::LaunchPlan;
using postern::plan::libraries_in_cache;
using postern::plan::LibraryKind;
using postern::plan::make_plan;
using postern::plan::parse_gpu_list;
using postern::plan::parse_host_mounts;
using postern::plan::PlanInput;

namespace {

PlanInput input_in(const TemporaryDirectory& directory) {
  PlanInput input;
  input.caller.identity = {.uid = 1001,
                           .gid = 1001,
                           .name = "alice",
                           .home = directory.path + "/home",
                           .groups = {{1001, "alice"}}};
  input.caller.directory = "/usr";  // a system directory: no bind of it
  std::filesystem::create_directories(input.caller.identity.home);
  input.image = {.path = directory.path + "/image", .directory = true};
  input.init_program = "/libexec/postern-init";
  return input;
}

struct Planned {
  postern::Outcome<LaunchPlan> plan;
  std::vector<std::string> warnings;

  const MountRequest* mount(const std::string& target) const {
    const auto& mounts = plan->request.mounts;
    const auto found = std::find_if(mounts.begin(), mounts.end(),
                                    [&](const MountRequest& one) { return one.target == target; });
    return found == mounts.end() ? nullptr : &*found;
  }

  std::string source(const std::string& target) const {
    const MountRequest* found = mount(target);
    return found == nullptr || !found->descriptor ? "" : plan->sources[*found->descriptor].path;
  }

  bool has_variable(const std::string& assignment) const {
    const auto& fixed = plan->record.fixed;
    return std::find(fixed.begin(), fixed.end(), assignment) != fixed.end();
  }
};

Planned planned(PlanInput input) {
  std::vector<std::string> warnings;
  auto plan = make_plan(std::move(input), warnings);
  return {std::move(plan), std::move(warnings)};
}

}  // namespace

TEST_SUITE("frontend/plan plan") {
  TEST_CASE("the default mounts, in order, each descriptor used exactly once, the root first") {
    const TemporaryDirectory directory;
    const Planned result = planned(input_in(directory));
    REQUIRE(result.plan);
    const LaunchRequest& request = result.plan->request;
    std::vector<std::string> targets;
    std::vector<unsigned> uses(result.plan->sources.size());
    ++uses[0];
    ++uses[request.init];
    ++uses[request.record];
    for (const MountRequest& mount : request.mounts) {
      targets.push_back(mount.target);
      if (mount.descriptor) {
        ++uses[*mount.descriptor];
      }
    }
    CHECK(std::all_of(uses.begin(), uses.end(), [](unsigned count) { return count == 1; }));
    CHECK(result.plan->sources[0].path == directory.path + "/image");
    const auto position = [&](const std::string& target) {
      return std::find(targets.begin(), targets.end(), target) - targets.begin();
    };
    CHECK(position("/dev") < position("/proc"));
    CHECK(position("/proc") < position("/var/tmp"));
    CHECK(position("/var/tmp") < position("/tmp"));
    CHECK(position("/tmp") < position(directory.path + "/home"));
    CHECK(position(directory.path + "/home") < position("/etc/passwd"));
    CHECK(request.scratch == Scratch::kMountPoints);
    CHECK(result.mount("/etc/passwd")->flags ==
          (postern::kReadOnly | postern::kOptional | postern::kNeedsTarget));
    CHECK(result.has_variable("HOME=" + directory.path + "/home"));
    CHECK(result.has_variable("APPTAINER_NAME=image"));
    CHECK(result.plan->record.cwd == "/usr");
  }

  TEST_CASE("the caller's directory is bound unless it is a system directory or already visible") {
    const TemporaryDirectory directory;
    std::filesystem::create_directories(directory.path + "/work");

    struct Row {
      std::string cwd;
      bool bound;
    };

    for (const Row& row : {Row{"/usr", false}, Row{"/usr/share", true}, Row{"/proc/self", false},
                           Row{"/", false}, Row{directory.path + "/home/sub", false},
                           Row{directory.path + "/work", false}}) {  // below /tmp, which is bound
      CAPTURE(row.cwd);
      PlanInput input = input_in(directory);
      input.caller.directory = row.cwd;
      const Planned result = planned(std::move(input));
      REQUIRE(result.plan);
      CHECK((result.mount(row.cwd) != nullptr) == row.bound);
    }
    PlanInput input = input_in(directory);
    input.caller.directory = directory.path + "/work";
    input.action.no_mount = {"tmp"};
    CHECK(planned(std::move(input)).source(directory.path + "/work") == directory.path + "/work");
    input = input_in(directory);
    input.caller.directory = directory.path + "/work";
    input.action.no_mount = {"tmp", "cwd"};
    CHECK(planned(std::move(input)).mount(directory.path + "/work") == nullptr);
  }

  TEST_CASE("is_system_directory names exact directories and whole trees") {
    for (const char* path : {"/", "/etc", "/bin", "/mnt", "/usr", "/var", "/opt", "/sbin", "/lib",
                             "/lib64", "/sys", "/sys/x", "/proc", "/proc/1", "/dev", "/dev/shm"}) {
      CAPTURE(path);
      CHECK(is_system_directory(path));
    }
    for (const char* path : {"/home", "/usr/share", "/etc/x", "/device", "/scratch", "/tmp"}) {
      CAPTURE(path);
      CHECK_FALSE(is_system_directory(path));
    }
  }

  TEST_CASE(
      "--contain: minimal /dev, empty home and /tmp, no caller's directory, start in the home") {
    const TemporaryDirectory directory;
    PlanInput input = input_in(directory);
    input.caller.directory = "/usr/share";
    input.action.contain = true;
    const std::string home = input.caller.identity.home;
    const Planned result = planned(std::move(input));
    REQUIRE(result.plan);
    CHECK(result.mount("/dev")->operation == Operation::kTmpfs);
    CHECK(result.mount("/dev/null")->operation == Operation::kDevice);
    CHECK(result.plan->record.links.front() == "/dev/ptmx=pts/ptmx");
    CHECK(result.mount(home)->operation == Operation::kTmpfs);
    CHECK(result.mount("/tmp")->mode == 01777);
    CHECK(result.mount("/usr/share") == nullptr);
    CHECK(result.plan->record.cwd == home);
    CHECK_FALSE(result.plan->record.cwd_required);
  }

  TEST_CASE("--workdir holds what --contain would keep in memory") {
    const TemporaryDirectory directory;
    PlanInput input = input_in(directory);
    input.action.contain = true;
    input.action.workdir = directory.path + "/w";
    input.action.scratch = {"/data/x"};
    const std::string home = input.caller.identity.home;
    const Planned result = planned(std::move(input));
    REQUIRE(result.plan);
    CHECK(result.source("/tmp") == directory.path + "/w/tmp");
    CHECK(result.source("/var/tmp") == directory.path + "/w/var_tmp");
    CHECK(result.source(home) == directory.path + "/w/home");
    CHECK(result.source("/data/x") == directory.path + "/w/scratch/data/x");
    CHECK((std::filesystem::status(directory.path + "/w/tmp").permissions() ==
           (std::filesystem::perms::all | std::filesystem::perms::sticky_bit)));
  }

  TEST_CASE("--home, --no-home and a missing home") {
    const TemporaryDirectory directory;
    PlanInput input = input_in(directory);
    input.action.home = directory.path + ":/inside";
    Planned result = planned(std::move(input));
    CHECK(result.source("/inside") == directory.path);
    CHECK(result.has_variable("HOME=/inside"));

    input = input_in(directory);
    input.action.no_home = true;
    const std::string home = input.caller.identity.home;
    CHECK(planned(std::move(input)).mount(home) == nullptr);

    input = input_in(directory);
    input.caller.identity.home = "/nonexistent/home";
    result = planned(std::move(input));
    CHECK(result.mount("/nonexistent/home")->operation == Operation::kTmpfs);
    CHECK(result.warnings.size() == 1);

    input = input_in(directory);
    input.action.home = "/nonexistent";
    CHECK_FALSE(planned(std::move(input)).plan);
  }

  TEST_CASE("user binds come last, relative sources count from the caller's directory") {
    const TemporaryDirectory directory;
    PlanInput input = input_in(directory);
    input.caller.directory = directory.path;
    input.action.binds = {"home:/b:ro,/etc/hostname", directory.path + ":/with\\:colon"};
    input.action.mounts = {"type=bind,src=" + directory.path + ",dst=/m,nonested"};
    const Planned result = planned(std::move(input));
    REQUIRE(result.plan);
    CHECK(result.source("/b") == directory.path + "/home");
    CHECK(result.mount("/b")->flags == (postern::kReadOnly | postern::kDirectoryTarget));
    CHECK(result.mount("/etc/hostname")->flags == 0);
    CHECK(result.plan->request.mounts.back().target == "/m");
    CHECK(result.has_variable("POSTERN_BIND=/b,/etc/hostname,/with\\:colon"));
  }

  TEST_CASE("a missing source of a user is fatal and named, a doubled destination only a warning") {
    const TemporaryDirectory directory;
    PlanInput input = input_in(directory);
    input.action.binds = {"/nonexistent:/x"};
    Planned result = planned(std::move(input));
    REQUIRE_FALSE(result.plan);
    CHECK(result.plan.error().what.find("/nonexistent") != std::string::npos);
    CHECK(result.plan.error().exit_code == 255);

    input = input_in(directory);
    input.action.binds = {directory.path + ":/x", "/etc:/x"};
    result = planned(std::move(input));
    REQUIRE(result.plan);
    CHECK(result.source("/x") == directory.path);
    CHECK(result.warnings.size() == 1);
  }

  TEST_CASE("ten thousand binds are a clear error, not a crash") {
    const TemporaryDirectory directory;
    PlanInput input = input_in(directory);
    for (int i = 0; i < 10000; ++i) {
      input.action.binds.push_back("/etc:/many/" + std::to_string(i));
    }
    const Planned result = planned(std::move(input));
    REQUIRE_FALSE(result.plan);
    CHECK(result.plan.error().what.find(std::to_string(postern::kMaxDescriptors)) !=
          std::string::npos);
    CHECK_FALSE(result.plan.error().cure.empty());
  }

  TEST_CASE("writable roots: what excludes what") {
    const TemporaryDirectory directory;
    std::filesystem::create_directories(directory.path + "/o1");
    std::filesystem::create_directories(directory.path + "/o2");
    PlanInput input = input_in(directory);
    input.action.writable_tmpfs = true;
    CHECK(planned(std::move(input)).plan->request.scratch == Scratch::kWritable);

    input = input_in(directory);
    input.action.writable = true;
    Planned result = planned(std::move(input));
    CHECK(result.plan->request.writable_root);
    CHECK(result.plan->request.scratch == Scratch::kNone);

    input = input_in(directory);
    input.action.overlays = {directory.path + "/o1", directory.path + "/o2:ro"};
    result = planned(std::move(input));
    REQUIRE(result.plan);
    CHECK(result.plan->request.scratch == Scratch::kDirectory);
    CHECK(result.plan->request.layers.size() == 1);
    CHECK(std::filesystem::is_directory(directory.path + "/o1/upper"));
    CHECK(std::filesystem::is_directory(directory.path + "/o1/work"));

    const auto refused = [&](auto change) {
      PlanInput wrong = input_in(directory);
      change(wrong.action);
      return !planned(std::move(wrong)).plan;
    };
    CHECK(refused([&](Action& action) {
      action.overlays = {directory.path + "/o1", directory.path + "/o2"};
    }));
    CHECK(refused([&](Action& action) { action.overlays = {"/nonexistent"}; }));
    CHECK(refused([&](Action& action) {
      action.overlays = {directory.path + "/o1"};
      action.writable_tmpfs = true;
    }));
    CHECK(refused([&](Action& action) {
      action.overlays = {directory.path + "/o1"};
      action.writable = true;
    }));
  }

  TEST_CASE("--no-mount leaves out what it names, and warns of what it does not know") {
    const TemporaryDirectory directory;
    for (const char* name : {"proc", "sys", "dev", "tmp"}) {
      PlanInput input = input_in(directory);
      input.action.no_mount = {name};
      CHECK(planned(std::move(input)).mount(std::string("/") + name) == nullptr);
    }
    PlanInput input = input_in(directory);
    input.action.no_mount = {"/etc/hosts", "nonsense"};
    const Planned result = planned(std::move(input));
    CHECK(result.mount("/etc/hosts") == nullptr);
    CHECK(result.warnings.size() == 1);
  }

  TEST_CASE("the site's switches are followed") {
    const TemporaryDirectory directory;
    PlanInput input = input_in(directory);
    input.site.home = false;
    input.site.user_binds = false;
    input.site.pid_namespace = false;
    input.site.passwd = false;
    input.action.pid = true;
    input.action.binds = {"/etc:/x"};
    const std::string home = input.caller.identity.home;
    const Planned result = planned(std::move(input));
    REQUIRE(result.plan);
    CHECK(result.mount(home) == nullptr);
    CHECK(result.mount("/x") == nullptr);
    CHECK(result.mount("/etc/passwd") == nullptr);
    CHECK(result.plan->request.namespaces == 0);
    CHECK_FALSE(result.plan->record.reaper);
    CHECK(result.warnings.size() == 2);
  }

  TEST_CASE("--fakeroot is root inside, with root's home and all capabilities of the namespace") {
    const TemporaryDirectory directory;
    PlanInput input = input_in(directory);
    input.action.fakeroot = true;
    input.caller.identity.uid = 987654;  // in no /etc/subuid
    input.caller.identity.name = "postern-unit-nobody";
    const Planned result = planned(std::move(input));
    REQUIRE(result.plan);
    CHECK(result.plan->fakeroot == Fakeroot::kRootMapped);
    CHECK(result.plan->identity.uid == 0);
    CHECK(result.has_variable("HOME=/root"));
    CHECK(result.plan->request.capabilities != 0);
  }

  TEST_CASE("only root has privileges to keep or to drop") {
    const TemporaryDirectory directory;
    PlanInput input = input_in(directory);
    input.action.keep_privileges = true;
    CHECK_FALSE(planned(std::move(input)).plan);
    const auto capabilities = [&](auto change) {
      PlanInput root = input_in(directory);
      root.caller.identity.uid = 0;
      change(root.action);
      return planned(std::move(root)).plan->request.capabilities;
    };
    CHECK(capabilities([](Action& /*action*/) {}) == (1ULL << 41) - 1);
    CHECK(capabilities([](Action& action) { action.no_privileges = true; }) == 0);
    CHECK(capabilities([](Action& action) { action.drop_capabilities = 1; }) == (1ULL << 41) - 2);
    input = input_in(directory);
    input.action.add_capabilities = 6;
    input.action.drop_capabilities = 4;
    CHECK(planned(std::move(input)).plan->request.capabilities == 2);
  }

  TEST_CASE("--dns makes a resolv.conf of exactly these servers") {
    const TemporaryDirectory directory;
    PlanInput input = input_in(directory);
    input.action.dns = {"10.0.0.1", "10.0.0.2"};
    const Planned result = planned(std::move(input));
    REQUIRE(result.plan);
    const MountRequest* mount = result.mount("/etc/resolv.conf");
    REQUIRE(mount != nullptr);
    CHECK(result.plan->sources[*mount->descriptor].content ==
          "nameserver 10.0.0.1\nnameserver 10.0.0.2\n");
  }

  TEST_CASE("mount hostfs shows the outermost mounts outside the system's trees") {
    CHECK(parse_host_mounts("21 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
                            "22 21 0:5 / /proc rw - proc proc rw\n"
                            "23 21 8:2 / /data/a\\040b rw shared:1 - ext4 /dev/sdb rw\n"
                            "24 23 8:3 / /data/a\\040b/inner rw - ext4 /dev/sdc rw\n"
                            "25 21 8:4 / /variable rw - ext4 /dev/sdd rw\n"
                            "26 21 8:4 / /var/lib rw - ext4 /dev/sdd rw\n") ==
          std::vector<std::string>{"/data/a b", "/variable"});
  }

  TEST_CASE("libraries are found in the loader's cache by name and nothing shorter") {
    static constexpr const char* kCache =
        "3 libs found in cache `/etc/ld.so.cache'\n"
        "\tlibcuda.so.1 (libc6,x86-64) => /usr/lib/libcuda.so.1\n"
        "\tlibcuda.so.1 (libc6) => /usr/lib32/libcuda.so.1\n"
        "\tlibcudadebugger.so.1 (libc6,x86-64) => /usr/lib/libcudadebugger.so.1\n";
    CHECK(libraries_in_cache(kCache, "libcuda") ==
          std::vector<std::string>{"/usr/lib/libcuda.so.1", "/usr/lib32/libcuda.so.1"});
    CHECK(libraries_in_cache(kCache, "libnvidia-ml").empty());
  }

#if defined(__x86_64__)
  TEST_CASE("which programs load a library is told by its class and machine") {
    CHECK(kind_of_library(64, EM_X86_64) == LibraryKind::kOwn);
    CHECK(kind_of_library(32, EM_386) == LibraryKind::k32Bit);
    CHECK(kind_of_library(32, EM_X86_64) == LibraryKind::kOther);  // x32
    CHECK(kind_of_library(64, EM_AARCH64) == LibraryKind::kOther);
  }
#endif

  TEST_CASE("a site's list of libraries has names ending in .so, programs and paths") {
    const auto list = parse_gpu_list(
        "# comment\nlibcuda.so  # the driver\n\n nvidia-smi\n/etc/OpenCL/vendors/nvidia.icd\n"
        "nvidia/odd\n");
    CHECK(list.libraries == std::vector<std::string>{"libcuda"});
    CHECK(list.binaries == std::vector<std::string>{"nvidia-smi"});
    CHECK(list.files == std::vector<std::string>{"/etc/OpenCL/vendors/nvidia.icd"});
  }
}

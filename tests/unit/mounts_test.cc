// The mount library, driven as user-namespace mode drives it: by an ordinary user, in a child.
#include "helper/mounts.h"

#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <linux/capability.h>
#include <linux/fuse.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <dirent.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include "tests/unit/in_child.h"

using postern::Error;
using postern::kNoDescriptor;
using postern::Op;
using postern::Operation;
using postern::OperationEntry;
using postern::Result;
using postern::RootKind;
using postern::UniqueFd;
using postern::Verdict;

namespace {

constexpr uid_t kOrdinaryUser = 65534;

void put(const std::string& path, const std::string& content) {
  std::ofstream(path) << content;
}

std::string get(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

bool exists(const std::string& path) {
  struct stat status{};
  return ::lstat(path.c_str(), &status) == 0;
}

unsigned long flags_of(const std::string& path) {
  struct statvfs status{};
  return ::statvfs(path.c_str(), &status) == 0 ? status.f_flag : 0;
}

std::uint64_t mount_id(const char* path) {
  struct statx status{};
  return ::statx(AT_FDCWD, path, 0, STATX_MNT_ID, &status) == 0 ? status.stx_mnt_id : 0;
}

// A root directory in a place of its own, owned by the ordinary user.
class Tree {
 public:
  Tree() {
    std::string pattern = "/tmp/postern-mounts-XXXXXX";
    path_ = ::mkdtemp(pattern.data());
    REQUIRE(::chmod(path_.c_str(), 0755) == 0);
    for (const char* name : {"/root", "/root/etc", "/root/bin", "/home", "/home/data", "/layer",
                             "/over", "/over/upper", "/over/work"}) {
      REQUIRE(::mkdir((path_ + name).c_str(), 0755) == 0);
    }
    put(path_ + "/root/etc/hostname", "image\n");
    put(path_ + "/home/data/file", "mine\n");
    put(path_ + "/layer/from-layer", "layer\n");
    REQUIRE(::symlink("/etc", (path_ + "/root/link").c_str()) == 0);
    REQUIRE(::symlink("../../../../../../..", (path_ + "/root/up").c_str()) == 0);
    if (::geteuid() == 0) {
      REQUIRE(::chown(path_.c_str(), kOrdinaryUser, kOrdinaryUser) == 0);
      for (const auto& entry : std::filesystem::recursive_directory_iterator(path_)) {
        REQUIRE(::lchown(entry.path().c_str(), kOrdinaryUser, kOrdinaryUser) == 0);
      }
    }
  }

  ~Tree() { std::filesystem::remove_all(path_); }

  Tree(const Tree&) = delete;
  Tree& operator=(const Tree&) = delete;

  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// Builds a verdict and its descriptors side by side.
class Scene {
 public:
  Scene() {
    v_->magic = postern::kVerdictMagic;
    v_->decision = postern::Decision::kAllow;
    v_->layers[0] = {RootKind::kDirectory, 0};
    v_->layer_count = 1;
    v_->namespaces = CLONE_NEWUSER;
    v_->upper_descriptor = kNoDescriptor;
    v_->net_descriptor = kNoDescriptor;
    v_->scratch_bytes = 16 << 20;
    v_->arena_bytes = postern::kArenaBytes;
  }

  Verdict& verdict() { return *v_; }

  std::uint16_t add(UniqueFd fd) {
    fds_.push_back(std::move(fd));
    return static_cast<std::uint16_t>(fds_.size() - 1);
  }

  std::uint8_t add_path(const std::string& path) {
    return add(UniqueFd(::open(path.c_str(), O_PATH | O_CLOEXEC)));
  }

  std::uint8_t add_content(const std::string& text) {
    const int fd = ::memfd_create("content", MFD_CLOEXEC);
    REQUIRE(::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
    return add(UniqueFd(fd));
  }

  OperationEntry& operation(Operation op,
                            const std::string& target,
                            std::uint16_t descriptor = kNoDescriptor,
                            std::uint8_t flags = 0) {
    OperationEntry& e = v_->operations[v_->operation_count++];
    const bool tmpfs = op == Operation::kTmpfs;
    const bool file = op == Operation::kFile || op == Operation::kDevice || op == Operation::kBind;
    flags |= file ? std::uint8_t{0} : std::uint8_t{postern::kDirectoryTarget};
    e = {op, flags, descriptor, text(target), tmpfs ? 0755U : 0U, tmpfs ? 16U << 20 : 0U};
    return e;
  }

  std::uint32_t text(const std::string& value) {
    const auto at = static_cast<std::uint32_t>(used_);
    std::memcpy(&v_->arena[used_], value.c_str(), value.size() + 1);
    used_ += value.size() + 1;
    return at;
  }

  std::span<UniqueFd> fds() { return fds_; }

  // Completes the descriptors that every verdict names, checks, clones and builds.
  Result<std::uint64_t> build() {
    v_->init_descriptor = add_path("/dev/null");
    v_->record_descriptor = add_path("/dev/null");
    POSTERN_TRY_ASSIGN(const auto plan,
                       postern::check_verdict(*v_, fds_.size(), postern::kNamespaces));
    POSTERN_TRY(postern::helper::clone_sources(plan, fds_));
    POSTERN_TRY(postern::helper::furnish_namespaces(plan));
    return postern::helper::build_root(plan, fds_, "");
  }

 private:
  std::unique_ptr<Verdict> v_ = std::make_unique<Verdict>();
  std::vector<UniqueFd> fds_;
  std::size_t used_ = 1;
};

// An ordinary user with a user and mount namespace of its own, as frontend/userns makes them.
void enter_namespaces(int extra = 0) {
  const uid_t uid = ::geteuid() == 0 ? kOrdinaryUser : ::geteuid();
  const gid_t gid = ::geteuid() == 0 ? kOrdinaryUser : ::getegid();
  if (::geteuid() == 0 && (::setresgid(gid, gid, gid) != 0 || ::setresuid(uid, uid, uid) != 0)) {
    ::_exit(90);
  }
  ::prctl(PR_SET_DUMPABLE, 1);
  if (::unshare(CLONE_NEWUSER | CLONE_NEWNS | extra) != 0) {
    ::_exit(91);
  }
  put("/proc/self/setgroups", "deny");
  put("/proc/self/uid_map", std::to_string(uid) + " " + std::to_string(uid) + " 1");
  put("/proc/self/gid_map", std::to_string(gid) + " " + std::to_string(gid) + " 1");
}

// Exit status of a child: the number of the first check that failed, 0 if all passed.
class Checks {
 public:
  void operator()(bool passed) {
    ++number_;
    if (!passed && first_ == 0) {
      first_ = number_;
      std::fprintf(stderr, "check %d failed: errno %d\n", number_, errno);
    }
  }

  int result() const { return first_; }

 private:
  int number_ = 0;
  int first_ = 0;
};

void report(const Result<std::uint64_t>& built) {
  if (!built) {
    std::fprintf(stderr, "op %u, %s, item %u\n", static_cast<unsigned>(built.error().op),
                 std::strerror(built.error().err), built.error().item);
  }
}

// The smallest FUSE server: an empty root directory (inode 1, mode 0755) and nothing else.
void serve_fuse(int device) {
  std::vector<char> buffer(1 << 20);
  while (true) {
    const ssize_t got = ::read(device, buffer.data(), buffer.size());
    if (got < 0 && errno == EPERM) {  // not mounted yet
      ::usleep(1000);
      continue;
    }
    if (got < static_cast<ssize_t>(sizeof(fuse_in_header))) {
      return;
    }
    fuse_in_header in{};
    std::memcpy(&in, buffer.data(), sizeof in);
    fuse_out_header out{.len = sizeof out, .error = 0, .unique = in.unique};
    fuse_init_out init{};
    fuse_attr_out attr{};
    fuse_statfs_out statfs{};
    const void* body = nullptr;
    std::size_t bytes = 0;
    if (in.opcode == FUSE_INIT) {
      init.major = FUSE_KERNEL_VERSION;
      init.minor = 31;
      init.max_write = 4096;
      body = &init;
      bytes = sizeof init;
    } else if (in.opcode == FUSE_GETATTR) {
      attr.attr = {
          .ino = 1, .mode = S_IFDIR | 0755, .nlink = 2, .uid = ::geteuid(), .gid = ::getegid()};
      body = &attr;
      bytes = sizeof attr;
    } else if (in.opcode == FUSE_STATFS) {
      body = &statfs;
      bytes = sizeof statfs;
    } else if (in.opcode == FUSE_FORGET || in.opcode == FUSE_BATCH_FORGET) {
      continue;
    } else {
      out.error = in.opcode == FUSE_LOOKUP ? -ENOENT : -ENOSYS;
    }
    out.len += static_cast<std::uint32_t>(bytes);
    const iovec parts[] = {{&out, sizeof out}, {const_cast<void*>(body), bytes}};
    (void)!::writev(device, parts, body != nullptr ? 2 : 1);
  }
}

int build_fuse_root(int device, bool overlay) {
  Scene scene;
  scene.add(UniqueFd(::fcntl(device, F_DUPFD_CLOEXEC, 3)));
  scene.verdict().layers[0].kind = RootKind::kFuse;
  scene.verdict().overlay = overlay ? 1 : 0;
  if (overlay) {
    scene.operation(Operation::kTmpfs, "/tmp").mode = 01777;
  }
  const auto built = scene.build();
  report(built);
  struct stat root{};
  Checks check;
  check(built.has_value());
  check(::stat("/", &root) == 0 && S_ISDIR(root.st_mode) && root.st_uid == ::getuid());
  check((flags_of("/") & (ST_NOSUID | ST_NODEV | ST_RDONLY)) == (ST_NOSUID | ST_NODEV | ST_RDONLY));
  check(!overlay || ::mkdir("/tmp/x", 0755) == 0);
  return check.result();
}

}  // namespace

TEST_SUITE("helper/mounts") {
  TEST_CASE("a directory becomes a read-only root, and nothing of the old tree is left") {
    const Tree tree;
    CHECK(in_child([&] {
            enter_namespaces();
            Scene scene;
            scene.add_path(tree / "root");
            const auto built = scene.build();
            report(built);
            Checks check;
            check(built.has_value());
            check(get("/etc/hostname") == "image\n");
            check(!exists("/proc/self") && !exists("/tmp"));
            check(!exists((tree / "root")));
            check((flags_of("/") & (ST_NOSUID | ST_NODEV | ST_RDONLY)) ==
                  (ST_NOSUID | ST_NODEV | ST_RDONLY));
            check(::mkdir("/new", 0755) != 0 && errno == EROFS);
            for (const char* way : {"/", ".", "/..", "../.."}) {
              check(built && mount_id(way) == *built);
            }
            return check.result();
          }) == 0);
  }

  TEST_CASE("--writable keeps a directory root writable, and only that") {
    const Tree tree;
    CHECK(in_child([&] {
            enter_namespaces();
            Scene scene;
            scene.add_path(tree / "root");
            scene.verdict().writable = 1;
            const auto built = scene.build();
            report(built);
            Checks check;
            check(built.has_value());
            put("/etc/new", "x");
            check(get("/etc/new") == "x");
            return check.result();
          }) == 0);
    CHECK(get(tree / "root/etc/new") == "x");
  }

  TEST_CASE(
      "missing mount points appear on a scratch overlay that stays read-only; the image is "
      "untouched") {
    const Tree tree;
    CHECK(in_child([&] {
            enter_namespaces();
            Scene scene;
            scene.add_path(tree / "root");
            scene.verdict().overlay = 1;
            scene.operation(Operation::kBind, "/home/user/data", scene.add_path(tree / "home/data"),
                            postern::kDirectoryTarget);
            scene.operation(Operation::kBind, "/deep/er/file",
                            scene.add_path(tree / "home/data/file"), postern::kReadOnly);
            scene.operation(Operation::kBind, "/link/through",
                            scene.add_path(tree / "home/data/file"));
            scene.operation(Operation::kFile, "/etc/passwd", scene.add_content("root:x:0:0\n"));
            scene.operation(Operation::kTmpfs, "/tmp").mode = 01777;
            const auto built = scene.build();
            report(built);
            Checks check;
            check(built.has_value());
            check(get("/home/user/data/file") == "mine\n");
            put("/home/user/data/written", "w");
            check(get("/home/user/data/written") == "w");
            check(get("/deep/er/file") == "mine\n");
            check(::open("/deep/er/file", O_WRONLY | O_CLOEXEC) == -1 && errno == EROFS);
            check(get("/etc/through") == "mine\n");
            check(get("/etc/passwd") == "root:x:0:0\n");
            check(::open("/etc/passwd", O_WRONLY | O_CLOEXEC) == -1 && errno == EROFS);
            check(get("/etc/hostname") == "image\n");
            struct stat status{};
            check(::stat("/tmp", &status) == 0 && (status.st_mode & 07777) == 01777);
            check(::mkdir("/tmp/x", 0755) == 0);
            check(::mkdir("/new", 0755) != 0 && errno == EROFS);
            for (const char* mount :
                 {"/", "/home/user/data", "/deep/er/file", "/etc/passwd", "/tmp"}) {
              check((flags_of(mount) & (ST_NOSUID | ST_NODEV)) == (ST_NOSUID | ST_NODEV));
            }
            return check.result();
          }) == 0);
    CHECK_FALSE(exists(tree / "root/home"));
    CHECK_FALSE(exists(tree / "root/etc/passwd"));
    CHECK(exists(tree / "home/data/written"));
  }

  TEST_CASE("a writable scratch takes the payload's writes, and they vanish with it") {
    const Tree tree;
    CHECK(in_child([&] {
            enter_namespaces();
            Scene scene;
            scene.add_path(tree / "root");
            scene.verdict().overlay = scene.verdict().writable = 1;
            const auto built = scene.build();
            report(built);
            Checks check;
            check(built.has_value());
            put("/etc/hostname", "changed\n");
            check(get("/etc/hostname") == "changed\n");
            check(::mkdir("/new", 0755) == 0);
            check(::unlink("/up") == 0);
            return check.result();
          }) == 0);
    CHECK(get(tree / "root/etc/hostname") == "image\n");
    CHECK(exists(tree / "root/up"));
  }

  TEST_CASE("a persistent overlay keeps the payload's writes; layers lie above the root in order") {
    const Tree tree;
    for (int round = 0; round < 2; ++round) {
      CHECK(in_child([&] {
              enter_namespaces();
              Scene scene;
              scene.add_path(tree / "root");
              scene.verdict().overlay = scene.verdict().writable = 1;
              scene.verdict().upper_descriptor = scene.add_path(tree / "over");
              scene.verdict().layers[1] = {RootKind::kDirectory, scene.add_path(tree / "layer")};
              scene.verdict().layer_count = 2;
              const auto built = scene.build();
              report(built);
              Checks check;
              check(built.has_value());
              check(get("/from-layer") == "layer\n" &&
                    get("/etc/hostname") == (round == 0 ? "image\n" : "kept\n"));
              put("/etc/hostname", "kept\n");
              return check.result();
            }) == 0);
    }
    CHECK(get(tree / "over/upper/etc/hostname") == "kept\n");
    CHECK(get(tree / "root/etc/hostname") == "image\n");
  }

  TEST_CASE("layers give a read-only union") {
    const Tree tree;
    CHECK(in_child([&] {
            enter_namespaces();
            Scene scene;
            scene.add_path(tree / "root");
            scene.verdict().layers[1] = {RootKind::kDirectory, scene.add_path(tree / "layer")};
            scene.verdict().layer_count = 2;
            scene.verdict().overlay = 1;
            const auto built = scene.build();
            report(built);
            Checks check;
            check(built.has_value());
            check(get("/from-layer") == "layer\n" && get("/etc/hostname") == "image\n");
            check(::mkdir("/new", 0755) != 0 && errno == EROFS);
            return check.result();
          }) == 0);
  }

  TEST_CASE(
      "an overlay over a directory with mounts below it is refused: it would show what they hide") {
    const Tree tree;
    // The kernel does: in a new user namespace the host's mounts are locked (mount_namespaces(7)).
    CHECK(in_child([&] {
            if (::unshare(CLONE_NEWNS) != 0 ||
                ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
                ::mount("none", (tree / "root/bin").c_str(), "tmpfs", 0, nullptr) != 0) {
              return 92;
            }
            enter_namespaces();
            Scene scene;
            scene.add_path(tree / "root");
            scene.verdict().overlay = 1;
            const auto built = scene.build();
            return !built && built.error().op == Op::kOverlay ? 0 : 1;
          }) == 0);
  }

  TEST_CASE("a bind brings the mounts below it along and never shows what they hide") {
    const Tree tree;
    CHECK(in_child([&] {
            enter_namespaces();
            put(tree / "home/data/hidden", "secret");
            if (::mount("none", (tree / "home/data").c_str(), "tmpfs", 0, nullptr) != 0) {
              return 92;
            }
            put(tree / "home/data/shown", "x");
            Scene scene;
            scene.add_path(tree / "root");
            scene.verdict().overlay = 1;
            scene.operation(Operation::kBind, "/mnt", scene.add_path(tree / "home"),
                            postern::kDirectoryTarget);
            const auto built = scene.build();
            report(built);
            Checks check;
            check(built.has_value());
            check(exists("/mnt/data/shown") && !exists("/mnt/data/hidden"));
            check((flags_of("/mnt/data") & (ST_NOSUID | ST_NODEV)) == (ST_NOSUID | ST_NODEV));
            return check.result();
          }) == 0);
  }

  TEST_CASE("the host's /proc, /sys and /dev are nosuid clones; a minimal /dev is made of parts") {
    const Tree tree;
    SUBCASE("host") {
      CHECK(in_child([&] {
              enter_namespaces();
              Scene scene;
              scene.add_path(tree / "root");
              scene.verdict().overlay = 1;
              scene.operation(Operation::kProc, "/proc");
              scene.operation(Operation::kSysfs, "/sys");
              scene.operation(Operation::kDevHost, "/dev");
              const auto built = scene.build();
              report(built);
              Checks check;
              check(built.has_value());
              check(exists("/proc/self/status") && exists("/sys/kernel") && exists("/dev/null"));
              check((flags_of("/dev") & ST_NOSUID) != 0 && (flags_of("/proc") & ST_NOSUID) != 0);
              check(get("/proc/self/mountinfo").find("shared:") == std::string::npos);
              const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
              check(null.valid());
              return check.result();
            }) == 0);
    }
    SUBCASE("minimal") {
      CHECK(in_child([&] {
              enter_namespaces();
              Scene scene;
              scene.add_path(tree / "root");
              scene.verdict().overlay = 1;
              scene.operation(Operation::kTmpfs, "/dev");
              scene.operation(Operation::kDevice, "/dev/null", scene.add_path("/dev/null"));
              scene.operation(Operation::kDevpts, "/dev/pts");
              scene.operation(Operation::kTmpfs, "/dev/shm").mode = 01777;
              const auto built = scene.build();
              report(built);
              Checks check;
              check(built.has_value());
              const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
              check(null.valid());
              check(::symlink("pts/ptmx", "/dev/ptmx") == 0);  // as postern-init does
              const UniqueFd terminal(::open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC));
              check(terminal.valid());
              check(::mkdir("/dev/shm/new", 0755) == 0);
              check((flags_of("/dev") & ST_NODEV) != 0 && (flags_of("/dev/null") & ST_NOSUID) != 0);
              return check.result();
            }) == 0);
    }
  }

  TEST_CASE("a device is taken only if it is a node of the host's own devtmpfs") {
    const Tree tree;
    for (const char* wrong : {"/etc/passwd", "/dev", "/proc/self/status"}) {
      CAPTURE(wrong);
      CHECK(in_child([&] {
              enter_namespaces();
              Scene scene;
              scene.add_path(tree / "root");
              scene.verdict().overlay = 1;
              scene.operation(Operation::kDevice, "/dev/null", scene.add_path(wrong));
              const auto built = scene.build();
              return !built && built.error().err == EBADF && built.error().op == Op::kCloneSource
                         ? 0
                         : 1;
            }) == 0);
    }
  }

  TEST_CASE("what is optional is skipped; what is not ends the start with its index") {
    const Tree tree;
    CHECK(in_child([&] {
            enter_namespaces();
            Scene scene;
            scene.add_path(tree / "root");  // no scratch: nothing can be created
            scene.operation(Operation::kFile, "/etc/hostname", scene.add_content("new\n"));
            scene.operation(Operation::kTmpfs, "/missing", kNoDescriptor, postern::kOptional);
            scene.operation(Operation::kDevice, "/etc/hostname", scene.add_path("/etc/passwd"),
                            postern::kOptional);
            scene.operation(Operation::kFile, "/etc/group", scene.add_content("g\n"),
                            postern::kOptional | postern::kNeedsTarget);
            const auto built = scene.build();
            report(built);
            Checks check;
            check(built.has_value());
            check(!exists("/missing") && !exists("/etc/group"));
            check(get("/etc/hostname") == "new\n");
            return check.result();
          }) == 0);
    CHECK(in_child([&] {
            enter_namespaces();
            Scene scene;
            scene.add_path(tree / "root");
            scene.operation(Operation::kTmpfs, "/etc");
            scene.operation(Operation::kTmpfs, "/missing");
            const auto built = scene.build();
            return !built && built.error().op == Op::kTarget && built.error().err == EROFS &&
                           built.error().item == 1
                       ? 0
                       : 1;
          }) == 0);
  }

  TEST_CASE("links of the image never lead out of the root") {
    const Tree tree;
    CHECK(in_child([&] {
            enter_namespaces();
            Scene scene;
            scene.add_path(tree / "root");
            scene.verdict().overlay = 1;
            scene.operation(Operation::kFile, "/up/etc/escaped", scene.add_content("x"));
            const auto built = scene.build();
            report(built);
            Checks check;
            check(built.has_value());
            check(get("/etc/escaped") == "x");
            return check.result();
          }) == 0);
    CHECK_FALSE(exists("/etc/escaped"));
  }

  TEST_CASE(
      "a new pid namespace gets its own procfs, a new uts namespace its name, a new ipc its "
      "queues") {
    const Tree tree;
    CHECK(in_child([&] {
            enter_namespaces(CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET);
            return WEXITSTATUS(in_child([&] {
              Scene scene;
              scene.add_path(tree / "root");
              scene.verdict().overlay = 1;
              scene.verdict().namespaces |=
                  CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET;
              std::strcpy(scene.verdict().hostname.data(), "inside");
              scene.operation(Operation::kProc, "/proc");
              scene.operation(Operation::kSysfs, "/sys");
              scene.operation(Operation::kMqueue, "/dev/mqueue");
              const auto built = scene.build();
              report(built);
              Checks check;
              check(built.has_value());
              check(exists("/proc/1") && get("/proc/self/stat").substr(0, 2) == "1 ");
              char name[65] = {};
              check(::gethostname(name, sizeof name) == 0 && std::string(name) == "inside");
              check(exists("/sys/class/net/lo") && exists("/dev/mqueue"));
              return check.result();
            }));
          }) == 0);
  }

  TEST_CASE(
      "a FUSE root is mounted from its descriptor, and again in the namespace of a second start") {
    if (::access("/dev/fuse", R_OK | W_OK) != 0) {
      MESSAGE("skipped: /dev/fuse cannot be opened");
      return;
    }
    CHECK(in_child([&] {
            enter_namespaces();
            const UniqueFd device(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
            if (!device.valid()) {
              return errno == EACCES ? 0 : 93;  // 0600, root's alone
            }
            const pid_t server = ::fork();
            if (server == 0) {
              serve_fuse(device.get());
              ::_exit(0);
            }
            // The first start stays, for a connection ends with its last mount.
            int ready[2];
            if (::pipe2(ready, O_CLOEXEC) != 0) {
              return 95;
            }
            const pid_t first = ::fork();
            if (first == 0) {
              const char result = static_cast<char>(
                  ::unshare(CLONE_NEWNS) == 0 ? build_fuse_root(device.get(), false) : 94);
              (void)!::write(ready[1], &result, 1);
              ::pause();
            }
            char result = 96;
            (void)!::read(ready[0], &result, 1);
            int failures = result;
            for (const bool overlay : {false, true}) {
              failures += in_child([&] {
                return ::unshare(CLONE_NEWNS) == 0 ? build_fuse_root(device.get(), overlay) : 94;
              });
            }
            for (const pid_t pid : {first, server}) {
              ::kill(pid, SIGKILL);
              ::waitpid(pid, nullptr, 0);
            }
            return failures == 0 ? 0 : 1;
          }) == 0);
  }

  TEST_CASE("after the build no capability is effective, and those permitted are what they were") {
    const Tree tree;
    CHECK(in_child([&] {
            enter_namespaces();
            __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
            __user_cap_data_struct before[2]{}, after[2]{};
            ::syscall(SYS_capget, &header, before);
            Scene scene;
            scene.add_path(tree / "root");
            const auto built = scene.build();
            ::syscall(SYS_capget, &header, after);
            return built && before[0].effective != 0 && after[0].effective == 0 &&
                           after[0].permitted == before[0].permitted
                       ? 0
                       : 1;
          }) == 0);
  }
}

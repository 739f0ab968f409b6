#include "helper/mounts.h"

#include <cstring>
#include <tuple>

#include <sys/sendfile.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>

#include "protocol/base/mount_object.h"
#include "protocol/base/process.h"

namespace postern::helper {

namespace {

constexpr unsigned kPlain = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
constexpr unsigned kPlainReadOnly = kPlain | MOUNT_ATTR_RDONLY;

// ---------------------------------------------------------------------------- mounts as objects

// Flags are only ever added: in user-namespace mode the host's are locked (mount_namespaces(7)).
// MS_SLAVE takes a clone out of its peer groups.
Result<> restrict_mount(int mount, const char* path, unsigned attributes, Op op) noexcept {
  mount_attr attr{.attr_set = attributes, .propagation = MS_SLAVE};
  return require(
      ::mount_setattr(mount, path, AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof attr) == 0, op);
}

// A detached copy of a mount tree, restricted before anybody can reach it. Always recursive: else
// it would uncover what a mount hides.
Result<UniqueFd> clone_tree(int fd, const char* path, unsigned attributes, Op op) noexcept {
  constexpr unsigned kClone = AT_EMPTY_PATH | AT_RECURSIVE | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC;
  POSTERN_TRY_ASSIGN(UniqueFd tree, own(::open_tree(fd, path, kClone), op));
  POSTERN_TRY(restrict_mount(tree.get(), "", attributes, op));
  return tree;
}

Result<UniqueFd> new_tmpfs(std::uint64_t bytes, std::uint32_t mode, Op op) noexcept {
  return new_mount("tmpfs",
                   {{"size", Text().add(bytes).text()}, {"mode", Text().number(mode, 8).text()}},
                   kPlain, op);
}

Result<> attach(int mount, int target, const char* path, Op op) noexcept {
  constexpr unsigned kHere = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
  return require(::move_mount(mount, "", target, path, kHere) == 0, op);
}

// --------------------------------------------------------------------------------- the new root

struct Root {
  const Plan& plan;
  std::span<UniqueFd> descriptors;
  UniqueFd top{};
  struct stat status{};  // of `top`
};

// In the session: present where the caller's upper directory has it.
Result<> make_directory(const char* name) noexcept {
  return require(::mkdirat(AT_FDCWD, name, 0755) == 0 || errno == EEXIST, Op::kSession);
}

Result<UniqueFd> mount_layer(RootKind kind, UniqueFd& source, const char* device) noexcept {
  if (kind == RootKind::kFuse) return new_fuse_mount(source.get(), false);
  if (kind == RootKind::kDirectory) return std::move(source);
  return new_mount("squashfs", {{"source", device}, {"ro", nullptr}}, kPlainReadOnly,
                   Op::kMountRoot);
}

// The root at "a", the layers above it at "b", "c", … of the session; `lower` becomes "c:b:a".
Result<> mount_layers(Root& root, const char* device, Text& lower) noexcept {
  for (std::size_t i = root.plan->layer_count; i-- > 0;) {
    const std::array<char, 2> name{static_cast<char>('a' + i), '\0'};
    const LayerEntry& layer = root.plan->layers[i];
    POSTERN_TRY(make_directory(name.data()));
    POSTERN_TRY_ASSIGN(const UniqueFd mount,
                       mount_layer(layer.kind, root.descriptors[layer.descriptor], device));
    POSTERN_TRY(attach(mount.get(), AT_FDCWD, name.data(), Op::kMountRoot));
    lower.add(name.data(), i == 0 ? "" : ":");
  }
  return Ok{};
}

// redirect_dir, metacopy: an image's own overlay attributes must not reach into other layers.
// Copy-up acts with the mounter's capabilities of this moment for as long as the mount lives.
Result<> mount_overlay(const Root& root, const Text& lower) noexcept {
  const std::uint16_t stored = root.plan->upper_descriptor;
  const char* const xattr = (root.plan->namespaces & CLONE_NEWUSER) != 0 ? "userxattr" : nullptr;
  for (const char* name : {"top", "rw"}) POSTERN_TRY(make_directory(name));
  if (stored != kNoDescriptor)
    POSTERN_TRY(attach(root.descriptors[stored].get(), AT_FDCWD, "rw", Op::kOverlay));
  for (const char* name : {"rw/upper", "rw/work"}) POSTERN_TRY(make_directory(name));
  use_capabilities(kAllThatAreLeft);
  // clang-format off
  const auto overlay = new_mount("overlay",
                                 {{"lowerdir", lower.text()}, {"upperdir", "rw/upper"}, {"workdir", "rw/work"},
                                  {"redirect_dir", "nofollow"}, {"metacopy", "off"}, {xattr, nullptr}},
                                 kPlain, Op::kOverlay);
  // clang-format on
  use_capabilities(kMounting);
  if (!overlay) return overlay.error();
  return attach(overlay->get(), AT_FDCWD, "top", Op::kOverlay);
}

// Everything is put together on a tmpfs of our own over the root of the namespace: overlayfs wants
// its layers attached, and nobody else can reach them there. Absolute paths of ours (/dev, /proc,
// /sys) still start at the old root, because "/" is never crossed downwards.
Result<> mount_root(Root& root, const char* device) noexcept {
  const bool overlaid = root.plan->overlay == 1;
  Text lower;
  POSTERN_TRY_ASSIGN(const UniqueFd session,
                     new_tmpfs(root.plan->scratch_bytes, 0755, Op::kSession));
  // Proof that mount_setattr(2) does what it says, on a mount whose statfs(2) waits for no server.
  struct statfs proof{};
  POSTERN_TRY(restrict_mount(session.get(), "", MOUNT_ATTR_NODIRATIME, Op::kSession));
  const bool told = ::fstatfs(session.get(), &proof) == 0 && (proof.f_flags & ST_NODIRATIME) != 0;
  POSTERN_TRY(require(told, Op::kSession, EPERM));
  POSTERN_TRY(attach(session.get(), AT_FDCWD, "/", Op::kSession));
  POSTERN_TRY(require(::fchdir(session.get()) == 0, Op::kSession));
  POSTERN_TRY(mount_layers(root, device, lower));
  if (overlaid) POSTERN_TRY(mount_overlay(root, lower));
  POSTERN_TRY_ASSIGN(root.top, own(::open(overlaid ? "top" : "a", O_PATH | O_DIRECTORY | O_CLOEXEC),
                                   Op::kMountRoot));
  // Also what makes the kernel ask a FUSE server whose directory it is: inode_permission() lets
  // nobody write where the owner has no id in the user namespace, as 0 has none.
  POSTERN_TRY(require(::fstat(root.top.get(), &root.status) == 0, Op::kMountRoot));
  return Ok{};
}

// ------------------------------------------------------------------------------------- targets

// Only our own overlay may be written with capabilities: a bind of /etc with a second bind below it
// must not let root create entries in the host's /etc.
Result<> create(const Root& root, int parent, const char* name, bool directory) noexcept {
  struct stat status{};
  POSTERN_TRY(require(::fstat(parent, &status) == 0, Op::kTarget));
  const bool ours = root.plan->overlay == 1 && status.st_dev == root.status.st_dev;
  use_capabilities(ours ? kAllThatAreLeft : 0);
  // What exists and could not be opened: a link of the image that leads nowhere (systemd-resolved
  // makes such a resolv.conf). The mount point takes its place.
  if (ours) (void)::unlinkat(parent, name, 0);
  const int made =
      directory ? ::mkdirat(parent, name, 0755) : ::mknodat(parent, name, S_IFREG | 0644, 0);
  const int err = errno;
  use_capabilities(kMounting);
  return require(made == 0 || err == EEXIST, Op::kTarget, err);
}

// The mount point of `e`. Most exist; one that is missing is made with its parents.
Result<UniqueFd> target(const Root& root, const OperationEntry& e) noexcept {
  std::array<char, kMaxTargetBytes> path{};
  std::strncpy(path.data(), root.plan.text(e.target), path.size() - 1);
  Result<UniqueFd> at = open_inside(root.top.get(), path.data(), O_PATH);
  if (at || at.error().err != ENOENT || (e.flags & kNeedsTarget) != 0) return at;
  at = open_inside(root.top.get(), "/", O_PATH);
  for (char* end = path.data(); at && end != nullptr;) {
    char* const name = end + 1;
    end = std::strchr(name, '/');
    if (end != nullptr) *end = '\0';
    Result<UniqueFd> next = open_inside(root.top.get(), path.data(), O_PATH);
    if (!next && next.error().err == ENOENT) {
      const bool directory = end != nullptr || (e.flags & kDirectoryTarget) != 0;
      POSTERN_TRY(create(root, at->get(), name, directory));
      next = open_inside(root.top.get(), path.data(), O_PATH);
    }
    at = std::move(next);
    if (end != nullptr) *end = '/';
  }
  return at;
}

// ---------------------------------------------------------------------------------- operations

// A clone of a memfd cannot be attached (ENOENT), so its bytes are copied into a file of the
// session, which nobody else can reach, and that is bound. Only a memfd has seals: no other file's
// bytes are read with our rights.
Result<UniqueFd> copy_file(int source, std::uint16_t item) noexcept {
  constexpr int kNew = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC;
  const Text name = Text().add(item);
  POSTERN_TRY_ASSIGN(const UniqueFd copy, own(::open(name.text(), kNew, 0644), Op::kMount));
  off_t offset = 0;
  ssize_t sent = ::fcntl(source, F_GET_SEALS) > 0 ? 1 : -1;
  while (sent > 0 && offset <= static_cast<off_t>(kMaxFileBytes))
    sent = ::sendfile(copy.get(), source, &offset, kMaxFileBytes);
  POSTERN_TRY(require(sent == 0, Op::kMount, sent > 0 ? EFBIG : 0));
  return clone_tree(AT_FDCWD, name.text(), kPlainReadOnly, Op::kMount);
}

unsigned plain(const OperationEntry& e) noexcept {
  return (e.flags & kReadOnly) != 0 ? kPlainReadOnly : kPlain;
}

Result<UniqueFd> make_mount(const Root& root,
                            const OperationEntry& e,
                            std::uint16_t item) noexcept {
  switch (e.operation) {
    case Operation::kFile:
      return copy_file(root.descriptors[e.descriptor].get(), item);
    case Operation::kTmpfs:
      return new_tmpfs(e.size, e.mode, Op::kMount);
    case Operation::kProc:
      return clone_tree(AT_FDCWD, "/proc", kPlain, Op::kMount);
    case Operation::kSysfs:
      return clone_tree(AT_FDCWD, "/sys", plain(e), Op::kMount);
    case Operation::kDevHost:
      return clone_tree(AT_FDCWD, "/dev", MOUNT_ATTR_NOSUID, Op::kMount);
    case Operation::kDevpts:
      return new_mount("devpts", {{"mode", "0620"}, {"ptmxmode", "0666"}}, MOUNT_ATTR_NOSUID,
                       Op::kMount);
    case Operation::kMqueue:
      return new_mount("mqueue", {}, kPlain, Op::kMount);
    case Operation::kBind:
    case Operation::kDevice:
      break;
  }
  return std::move(root.descriptors[e.descriptor]);
}

// ORDER: the mount point first: where it is missing and optional, nothing is mounted.
Result<> run(const Root& root, const OperationEntry& e, std::uint16_t item) noexcept {
  POSTERN_TRY_ASSIGN(const UniqueFd place, target(root, e));
  POSTERN_TRY_ASSIGN(const UniqueFd mount, make_mount(root, e, item));
  return attach(mount.get(), place.get(), "", Op::kMount);
}

// What is kOptional may fail; else the error names the operation.
Result<> settle(Result<> result, const OperationEntry& e, std::uint16_t item) noexcept {
  if (result || (e.flags & kOptional) != 0) return Ok{};
  return Error{.err = result.error().err, .op = result.error().op, .item = item};
}

bool is_host_device(int node) noexcept {
  struct stat status{}, dev{}, pts{};
  const bool known =
      ::fstat(node, &status) == 0 && S_ISCHR(status.st_mode) && ::stat("/dev", &dev) == 0;
  return known && (dev.st_dev == status.st_dev ||
                   (::stat("/dev/pts", &pts) == 0 && pts.st_dev == status.st_dev));
}

// Puts a clone in the place of its source, nothing where that fails.
Result<> clone_into(UniqueFd& fd, unsigned attributes) noexcept {
  const UniqueFd source = std::move(fd);
  POSTERN_TRY_ASSIGN(fd, clone_tree(source.get(), "", attributes, Op::kCloneSource));
  return Ok{};
}

}  // namespace

Result<> clone_sources(const Plan& plan, std::span<UniqueFd> descriptors) noexcept {
  const bool writable_root = plan->writable == 1 && plan->overlay == 0;
  for (const LayerEntry& layer : std::span(plan->layers).first(plan->layer_count))
    if (layer.kind == RootKind::kDirectory)
      POSTERN_TRY(
          clone_into(descriptors[layer.descriptor], writable_root ? kPlain : kPlainReadOnly));
  if (plan->upper_descriptor != kNoDescriptor)
    POSTERN_TRY(clone_into(descriptors[plan->upper_descriptor], kPlain));
  for (std::uint16_t i = 0; i < plan->operation_count; ++i) {
    const OperationEntry& e = plan->operations[i];
    const bool device = e.operation == Operation::kDevice;
    if (e.operation != Operation::kBind && !device) continue;
    UniqueFd& fd = descriptors[e.descriptor];
    if (device && !is_host_device(fd.get())) fd.reset();
    POSTERN_TRY(settle(clone_into(fd, device ? MOUNT_ATTR_NOSUID : plain(e)), e, i));
  }
  return Ok{};
}

Result<> furnish_namespaces(const Plan& plan) noexcept {
  const std::size_t name_bytes = ::strnlen(plan->hostname.data(), plan->hostname.size());
  POSTERN_TRY(restrict_mount(AT_FDCWD, "/", 0, Op::kSession));
  POSTERN_TRY(require(name_bytes == 0 || ::sethostname(plan->hostname.data(), name_bytes) == 0,
                      Op::kHostname));
  constexpr std::array kFresh{std::tuple(CLONE_NEWPID, "proc", "/proc"),
                              std::tuple(CLONE_NEWNET, "sysfs", "/sys")};
  for (const auto& [flag, type, place] : kFresh) {
    if ((plan->namespaces & static_cast<std::uint32_t>(flag)) == 0) continue;
    POSTERN_TRY_ASSIGN(const UniqueFd mount,
                       new_mount(type, {}, kPlain | MOUNT_ATTR_NOEXEC, Op::kFurnish));
    POSTERN_TRY(attach(mount.get(), AT_FDCWD, place, Op::kFurnish));
  }
  return Ok{};
}

Result<std::uint64_t> build_root(const Plan& plan,
                                 std::span<UniqueFd> descriptors,
                                 const char* root_device) noexcept {
  use_capabilities(kMounting);
  Root root{plan, descriptors};
  POSTERN_TRY(mount_root(root, root_device));
  for (std::uint16_t i = 0; i < plan->operation_count; ++i)
    POSTERN_TRY(settle(run(root, plan->operations[i], i), plan->operations[i], i));
  mount_attr seal{.attr_set = plan->writable == 1 ? 0U : MOUNT_ATTR_RDONLY};
  POSTERN_TRY(require(::mount_setattr(root.top.get(), "", AT_EMPTY_PATH, &seal, sizeof seal) == 0,
                      Op::kMountRoot));
  // ORDER: the session, where we are, off "/" and below the old root: both are detached at once,
  // for umount2(2) waits until every processor has passed through the kernel (synchronize_rcu).
  POSTERN_TRY(attach(AT_FDCWD, AT_FDCWD, "/proc", Op::kSession));
  // pivot_root(2), NOTES: with "." twice the old root is stacked on the new one. That this one is
  // "/", and that nothing is left above it, is proved by mount ids.
  const bool moved = ::fchdir(root.top.get()) == 0 && ::syscall(SYS_pivot_root, ".", ".") == 0 &&
                     ::umount2(".", MNT_DETACH) == 0;
  POSTERN_TRY(require(moved, Op::kSession));
  const std::uint64_t mount = mount_id("/");
  POSTERN_TRY(require(mount != 0 && mount_id(".") == mount && mount_id("/..") == mount,
                      Op::kSession, EBUSY));
  use_capabilities(0);
  return mount;
}

}  // namespace postern::helper

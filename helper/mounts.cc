#include "helper/mounts.h"

#include <fcntl.h>

#include <charconv>
#include <cstring>

#include <linux/capability.h>
#include <linux/openat2.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "helper/sys.h"

namespace postern::helper {

namespace {

constexpr unsigned kPlain = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
constexpr unsigned kPlainReadOnly = kPlain | MOUNT_ATTR_RDONLY;

// ---------------------------------------------------------------------------- mounts as objects

// A detached copy of a mount tree, out of its peer groups and restricted before anybody can reach
// it. Always recursive: else it would uncover what a mount hides. Flags are only ever added: in
// user-namespace mode the host's are locked (mount_namespaces(7)).
Result<UniqueFd> clone_tree(int fd, const char* path, unsigned attributes, Op op) noexcept {
  constexpr unsigned kClone = AT_EMPTY_PATH | AT_RECURSIVE | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC;
  mount_attr attr{.attr_set = attributes, .propagation = MS_SLAVE};
  POSTERN_TRY_ASSIGN(UniqueFd tree, own(::open_tree(fd, path, kClone), op));
  POSTERN_TRY(call(::mount_setattr(tree.get(), "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof attr), op));
  return tree;
}

struct Option {
  const char* key;
  const char* value;  // nullptr: a flag
};

// Types and keys are constants of this file; values are constants or numbers printed here.
Result<UniqueFd> new_mount(const char* type, std::span<const Option> options, unsigned attributes,
                           Op op = Op::kSystemMount) noexcept {
  POSTERN_TRY_ASSIGN(const UniqueFd context, own(::fsopen(type, FSOPEN_CLOEXEC), op));
  for (const Option& o : options) {
    const auto command = o.value == nullptr ? FSCONFIG_SET_FLAG : FSCONFIG_SET_STRING;
    POSTERN_TRY(call(::fsconfig(context.get(), command, o.key, o.value, 0), op));
  }
  POSTERN_TRY(call(::fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0), op));
  return own(::fsmount(context.get(), FSMOUNT_CLOEXEC, attributes), op);
}

Result<> attach(int mount, int target, const char* path, Op op) noexcept {
  return call(::move_mount(mount, "", target, path, MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH), op);
}

struct Number {
  explicit Number(std::uint64_t value, int base = 10) noexcept {
    *std::to_chars(text.data(), text.data() + text.size() - 1, value, base).ptr = '\0';
  }
  std::array<char, 24> text{};
};

Result<UniqueFd> new_tmpfs(std::uint64_t bytes, std::uint32_t mode) noexcept {
  const Number size(bytes);
  const Number octal(mode, 8);
  const std::array<Option, 2> options{{{"size", size.text.data()}, {"mode", octal.text.data()}}};
  return new_mount("tmpfs", options, kPlain);
}

// fuse.txt of the kernel: allow_other only where the processes it lets in are the caller's own ids.
Result<UniqueFd> new_fuse(int device, bool user_namespace) noexcept {
  const Number fd(static_cast<std::uint64_t>(device));
  const Number uid(::getuid());
  const Number gid(::getgid());
  const std::array<Option, 7> options{
      {{"source", "postern"}, {"fd", fd.text.data()}, {"rootmode", "40000"}, {"user_id", uid.text.data()},
       {"group_id", gid.text.data()}, {"default_permissions", nullptr}, {"allow_other", nullptr}}};
  return new_mount("fuse", std::span(options).first(user_namespace ? 7 : 6), kPlainReadOnly, Op::kMountRoot);
}

// --------------------------------------------------------------------------------- capabilities

constexpr std::uint64_t bit(unsigned n) noexcept {
  return std::uint64_t{1} << n;
}
constexpr std::uint64_t kMounting = bit(CAP_SYS_ADMIN);
constexpr std::uint64_t kOwnOverlay = kMounting | bit(CAP_CHOWN) | bit(CAP_DAC_OVERRIDE) | bit(CAP_FOWNER);

// Effective capabilities for a scope, the former ones after it. A failure would leave a privilege
// on, so it ends the process.
class Effective {
 public:
  explicit Effective(std::uint64_t wanted) noexcept {
    POSTERN_CHECK(::syscall(SYS_capget, &header_, before_.data()) == 0);
    auto now = before_;
    now[0].effective = now[0].permitted & static_cast<std::uint32_t>(wanted);
    now[1].effective = now[1].permitted & static_cast<std::uint32_t>(wanted >> 32);
    POSTERN_CHECK(::syscall(SYS_capset, &header_, now.data()) == 0);
  }
  ~Effective() { POSTERN_CHECK(::syscall(SYS_capset, &header_, before_.data()) == 0); }
  Effective(const Effective&) = delete;
  Effective& operator=(const Effective&) = delete;

 private:
  __user_cap_header_struct header_{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> before_{};
};

// --------------------------------------------------------------------------------- the new root

struct Root {
  const Plan& plan;
  std::span<UniqueFd> descriptors;
  int procfs;
  bool user_namespace;
  UniqueFd session{};
  UniqueFd top{};
  dev_t overlay = 0;                                   // st_dev of our own overlay, 0 where none
  std::array<char, 2 * (kMaxLayers + 1)> lower{};      // "c:b:a", the topmost first
  std::size_t layers = 0;
  std::array<UniqueFd, kMaxOperations> freeze{};       // tmpfs that become read-only at the end
};

// Everything is put together on a tmpfs of our own over the root of the namespace: overlayfs wants
// its layers attached, and nobody else can reach them there. Absolute paths of ours (/dev, /proc,
// /sys) still start at the old root, because "/" is never crossed downwards.
Result<> make_session(Root& root) noexcept {
  ::umask(022);
  mount_attr slave{.propagation = MS_SLAVE};
  POSTERN_TRY(call(::mount_setattr(AT_FDCWD, "/", AT_RECURSIVE, &slave, sizeof slave), Op::kSession));
  POSTERN_TRY_ASSIGN(root.session, new_tmpfs(root.plan->scratch_bytes, 0755));
  POSTERN_TRY(attach(root.session.get(), AT_FDCWD, "/", Op::kSession));
  POSTERN_TRY(call(::fchdir(root.session.get()), Op::kSession));
  for (const char* directory : {"U", "W", "M"}) {
    POSTERN_TRY(call(::mkdir(directory, 0755), Op::kSession));
  }
  return Ok{};
}

// Attaches one layer at "a", "b", … of the session.
Result<> add_layer(Root& root, UniqueFd mount, bool directory) noexcept {
  const std::array<char, 2> name{static_cast<char>('a' + root.layers), '\0'};
  POSTERN_TRY(call(::mkdir(name.data(), 0755), Op::kSession));
  POSTERN_TRY(attach(mount.get(), AT_FDCWD, name.data(), Op::kMountRoot));
  // overlayfs looks below the mounts of a layer and would show what they hide. To the first
  // MNT_EXPIRE, a mount that has none and no user answers EAGAIN, any other EBUSY (umount(2)).
  mount.reset();
  const bool overlaid = root.plan->scratch != Scratch::kNone || root.plan->layer_count != 0;
  if (directory && overlaid && (::umount2(name.data(), MNT_EXPIRE | UMOUNT_NOFOLLOW) == 0 || errno != EAGAIN)) {
    return Error{.err = EBUSY, .op = Op::kOverlay};
  }
  std::memmove(&root.lower[2], root.lower.data(), 2 * root.layers);
  root.lower[0] = name[0];
  root.lower[1] = root.layers++ == 0 ? '\0' : ':';
  return Ok{};
}

Result<> mount_layers(Root& root, const char* device) noexcept {
  if (root.plan->root == RootKind::kImage) {
    const std::array<Option, 2> options{{{"source", device}, {"ro", nullptr}}};
    POSTERN_TRY_ASSIGN(UniqueFd image, new_mount("squashfs", options, kPlainReadOnly, Op::kMountRoot));
    POSTERN_TRY(add_layer(root, std::move(image), false));
  } else if (root.plan->root == RootKind::kFuse) {
    POSTERN_TRY_ASSIGN(UniqueFd fuse, new_fuse(root.descriptors[0].get(), root.user_namespace));
    POSTERN_TRY(add_layer(root, std::move(fuse), false));
  } else {
    POSTERN_TRY(add_layer(root, std::move(root.descriptors[0]), true));
  }
  for (const LayerEntry& layer : std::span(root.plan->layers).first(root.plan->layer_count)) {
    UniqueFd mount = std::move(root.descriptors[layer.descriptor]);
    if (layer.kind == LayerKind::kFuse) {
      POSTERN_TRY_ASSIGN(mount, new_fuse(mount.get(), root.user_namespace));
    }
    POSTERN_TRY(add_layer(root, std::move(mount), layer.kind == LayerKind::kDirectory));
  }
  return Ok{};
}

// redirect_dir, metacopy: an image's own overlay attributes must not reach into other layers.
Result<> mount_overlay(Root& root) noexcept {
  const bool stored = root.plan->scratch == Scratch::kDirectory;
  std::array<Option, 7> options{{{"source", "postern"}, {"lowerdir", root.lower.data()},
                                 {"redirect_dir", "nofollow"}, {"metacopy", "off"}}};
  std::size_t used = 4;
  if (root.plan->scratch != Scratch::kNone) {
    options[used++] = {"upperdir", stored ? "U/upper" : "U"};
    options[used++] = {"workdir", stored ? "U/work" : "W"};
  }
  if (stored) {
    POSTERN_TRY(attach(root.descriptors[root.plan->upper_descriptor].get(), AT_FDCWD, "U", Op::kOverlay));
  }
  if (root.user_namespace) {
    options[used++] = {"userxattr", nullptr};
  }
  // Copy-up acts with the mounter's capabilities of this moment for as long as the mount lives.
  const Effective raised(root.user_namespace ? ~std::uint64_t{0} : kOwnOverlay);
  POSTERN_TRY_ASSIGN(const UniqueFd overlay, new_mount("overlay", std::span(options).first(used), kPlain, Op::kOverlay));
  return attach(overlay.get(), AT_FDCWD, "M", Op::kOverlay);
}

Result<> open_top(Root& root) noexcept {
  const bool overlaid = root.plan->scratch != Scratch::kNone || root.layers > 1;
  if (overlaid) {
    POSTERN_TRY(mount_overlay(root));
  }
  struct stat status {};
  POSTERN_TRY_ASSIGN(root.top, own(::open(overlaid ? "M" : "a", O_PATH | O_DIRECTORY | O_CLOEXEC), Op::kMountRoot));
  POSTERN_TRY(call(::fstat(root.top.get(), &status), Op::kMountRoot));
  root.overlay = overlaid ? status.st_dev : 0;
  return Ok{};
}

// ------------------------------------------------------------------------------------- targets

// Inside the new root, whatever links the image holds. EAGAIN: a rename or mount somewhere on the
// host raced with a ".." (openat2(2)).
Result<UniqueFd> resolve(const Root& root, const char* path) noexcept {
  open_how how{.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
  long fd = -1;
  for (int attempt = 0; attempt < 32 && fd < 0 && (attempt == 0 || errno == EAGAIN); ++attempt) {
    fd = ::syscall(SYS_openat2, root.top.get(), path, &how, sizeof how);
  }
  return own(fd, Op::kTarget);
}

// Only our own overlay may be written with capabilities: a bind of /etc with a second bind below it
// must not let root create entries in the host's /etc.
Result<> create(const Root& root, int parent, const char* name, mode_t type, const char* link) noexcept {
  struct stat status {};
  POSTERN_TRY(call(::fstat(parent, &status), Op::kTarget));
  const Effective effective(status.st_dev == root.overlay ? kOwnOverlay : 0);
  const int made = type == S_IFDIR   ? ::mkdirat(parent, name, 0755)
                   : type == S_IFLNK ? ::symlinkat(link, parent, name)
                                     : ::mknodat(parent, name, S_IFREG | 0644, 0);
  return made != 0 && errno == EEXIST && type != S_IFLNK ? Result<>() : call(made, Op::kTarget);
}

// The mount point of `e`, made with its parents where it is missing; of a link, its directory.
Result<UniqueFd> target(const Root& root, const OperationEntry& e, mode_t type) noexcept {
  auto found = resolve(root, root.plan.text(e.target));
  if (type != S_IFLNK && (found || found.error().err != ENOENT || (e.flags & kNeedsTarget) != 0)) {
    return found;
  }
  std::array<char, kMaxTargetBytes> path{};
  std::strncpy(path.data(), root.plan.text(e.target), path.size() - 1);
  POSTERN_TRY_ASSIGN(UniqueFd parent, resolve(root, "/"));
  for (char* name = path.data() + 1;; ++name) {
    char* const end = std::strchr(name, '/');
    if (end == nullptr) {
      POSTERN_TRY(create(root, parent.get(), name, type, root.plan.text(e.text)));
      return type == S_IFLNK ? std::move(parent) : resolve(root, path.data());
    }
    *end = '\0';
    auto next = resolve(root, path.data());
    if (!next && next.error().err == ENOENT) {
      POSTERN_TRY(create(root, parent.get(), name, S_IFDIR, nullptr));
      next = resolve(root, path.data());
    }
    POSTERN_TRY_ASSIGN(parent, std::move(next));
    *end = '/';
    name = end;
  }
}

// ---------------------------------------------------------------------------------- operations

// A clone of a memfd or unlinked file cannot be attached (ENOENT), so its bytes are copied into a
// file of the session, which nobody else can reach, and that is bound.
Result<UniqueFd> copy_file(const Root& root, int source, std::uint16_t item) noexcept {
  const Number name(item);
  struct stat status {};
  POSTERN_TRY_ASSIGN(const UniqueFd copy, own(::openat(root.session.get(), name.text.data(),
                                                       O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644), Op::kFile));
  POSTERN_TRY(call(::fstat(source, &status), Op::kFile));
  if (!S_ISREG(status.st_mode) || static_cast<std::uint64_t>(status.st_size) > kMaxFileBytes) {
    return Error{.err = EFBIG, .op = Op::kFile};
  }
  for (off_t offset = 0; offset < status.st_size;) {
    const ssize_t sent = ::sendfile(copy.get(), source, &offset, static_cast<std::size_t>(status.st_size - offset));
    POSTERN_TRY(call(sent > 0 ? sent : -1, Op::kFile));
  }
  return clone_tree(root.session.get(), name.text.data(), kPlainReadOnly, Op::kFile);
}

// The mount of `e`, detached. Host trees are clones of this namespace's own copies.
Result<UniqueFd> make_mount(const Root& root, const OperationEntry& e, std::uint16_t item) noexcept {
  constexpr unsigned kSystem = kPlain | MOUNT_ATTR_NOEXEC;
  constexpr unsigned kTerminals = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;
  static constexpr std::array<Option, 3> kDevptsOptions{{{"newinstance", nullptr}, {"mode", "0620"}, {"ptmxmode", "0666"}}};
  switch (e.operation) {
    case Operation::kBind:
    case Operation::kDevice:
      return std::move(root.descriptors[e.descriptor]);
    case Operation::kFile:
      return copy_file(root, root.descriptors[e.descriptor].get(), item);
    case Operation::kTmpfs:
      return new_tmpfs(e.size != 0 ? e.size : root.plan->scratch_bytes, e.mode);
    case Operation::kProc:
      if ((root.plan->namespaces & kNamespacePid) == 0) {
        return clone_tree(AT_FDCWD, "/proc", kPlain, Op::kSystemMount);
      }
      return root.procfs < 0 ? new_mount("proc", {}, kSystem)
                             : own(::fcntl(root.procfs, F_DUPFD_CLOEXEC, 3), Op::kSystemMount);
    case Operation::kSysfs:
      return (root.plan->namespaces & kNamespaceNet) == 0 ? clone_tree(AT_FDCWD, "/sys", kPlain, Op::kSystemMount)
                                                          : new_mount("sysfs", {}, kSystem);
    case Operation::kDevHost:
      return clone_tree(AT_FDCWD, "/dev", MOUNT_ATTR_NOSUID, Op::kSystemMount);
    case Operation::kDevpts:
      return new_mount("devpts", kDevptsOptions, kTerminals);
    case Operation::kMqueue:
      return new_mount("mqueue", {}, kSystem);
    case Operation::kSymlink:
    case Operation::kCount_:
      break;
  }
  POSTERN_CHECK(false);
}

Result<> run(Root& root, const OperationEntry& e, std::uint16_t item) noexcept {
  const bool bind = e.operation == Operation::kBind;
  const bool file = e.operation == Operation::kFile || e.operation == Operation::kDevice;
  const bool is_file = file || (bind && (e.flags & kDirectoryTarget) == 0);
  const mode_t type = e.operation == Operation::kSymlink ? S_IFLNK : is_file ? S_IFREG : S_IFDIR;
  POSTERN_TRY_ASSIGN(const UniqueFd place, target(root, e, type));
  if (type == S_IFLNK) {
    return Ok{};
  }
  POSTERN_TRY_ASSIGN(UniqueFd mount, make_mount(root, e, item));
  POSTERN_TRY(attach(mount.get(), place.get(), "", Op::kBind));
  if (e.operation == Operation::kTmpfs && (e.flags & kReadOnly) != 0) {
    root.freeze[item] = std::move(mount);  // later operations may need mount points on it
  }
  return Ok{};
}

// What is kOptional may fail.
Result<bool> settle(Result<> result, const OperationEntry& e, std::uint16_t item) noexcept {
  if (result || (e.flags & kOptional) != 0) {
    return result.has_value();
  }
  Error error = result.error();
  error.item = item;
  return error;
}

Result<> make_read_only(int mount, Op op) noexcept {
  mount_attr frozen{.attr_set = MOUNT_ATTR_RDONLY};
  return call(::mount_setattr(mount, "", AT_EMPTY_PATH, &frozen, sizeof frozen), op);
}

Result<> freeze_mounts(Root& root) noexcept {
  for (const UniqueFd& tmpfs : root.freeze) {
    if (tmpfs.valid()) {
      POSTERN_TRY(make_read_only(tmpfs.get(), Op::kSystemMount));
    }
  }
  const bool scratch = root.plan->scratch == Scratch::kWritable || root.plan->scratch == Scratch::kDirectory;
  return scratch || root.plan->writable_root == 1 ? Result<>() : make_read_only(root.top.get(), Op::kMountRoot);
}

// pivot_root(2), NOTES: with "." twice the old root is stacked on the new one. The session lies on top
// of it, so two mounts are detached; that nothing is left above "/" is proved by its mount id.
Result<> pivot(const Root& root, Built& built) noexcept {
  struct statx above {};
  struct statx now {};
  POSTERN_TRY(call(::fchdir(root.top.get()), Op::kPivot));
  POSTERN_TRY(call(::syscall(SYS_pivot_root, ".", "."), Op::kPivot));
  POSTERN_TRY(call(::umount2(".", MNT_DETACH), Op::kPivot));
  POSTERN_TRY(call(::umount2(".", MNT_DETACH), Op::kPivot));
  POSTERN_TRY(call(::chdir("/"), Op::kPivot));
  POSTERN_TRY(call(::statx(AT_FDCWD, "/..", 0, STATX_MNT_ID, &above), Op::kPivot));
  POSTERN_TRY(call(::statx(AT_FDCWD, "/", 0, STATX_MNT_ID | STATX_INO, &now), Op::kPivot));
  built.root_mount = now.stx_mnt_id;
  return above.stx_mnt_id == now.stx_mnt_id ? Result<>() : Error{.err = EBUSY, .op = Op::kPivot};
}

bool is_host_device(int node) noexcept {
  struct stat status {};
  struct stat dev {};
  struct stat pts {};
  return ::fstat(node, &status) == 0 && (S_ISCHR(status.st_mode) || S_ISBLK(status.st_mode)) &&
         ((::stat("/dev", &dev) == 0 && dev.st_dev == status.st_dev) ||
          (::stat("/dev/pts", &pts) == 0 && pts.st_dev == status.st_dev));
}

Result<> clone_into(UniqueFd& fd, unsigned attributes) noexcept {
  POSTERN_TRY_ASSIGN(fd, clone_tree(fd.get(), "", attributes, Op::kCloneSource));
  return Ok{};
}

Result<> clone_source(const OperationEntry& e, UniqueFd& fd) noexcept {
  if (e.operation == Operation::kBind) {
    return clone_into(fd, (e.flags & kReadOnly) != 0 ? kPlainReadOnly : kPlain);
  }
  return is_host_device(fd.get()) ? clone_into(fd, MOUNT_ATTR_NOSUID) : Error{.err = ENODEV, .op = Op::kCloneSource};
}

}  // namespace

Result<> clone_sources(const Plan& plan, std::span<UniqueFd> descriptors) noexcept {
  if (plan->root == RootKind::kDirectory) {
    POSTERN_TRY(clone_into(descriptors[0], plan->writable_root == 1 ? kPlain : kPlainReadOnly));
  }
  if (plan->scratch == Scratch::kDirectory) {
    POSTERN_TRY(clone_into(descriptors[plan->upper_descriptor], kPlain));
  }
  for (const LayerEntry& layer : std::span(plan->layers).first(plan->layer_count)) {
    if (layer.kind == LayerKind::kDirectory) {
      POSTERN_TRY(clone_into(descriptors[layer.descriptor], kPlainReadOnly));
    }
  }
  for (std::uint16_t i = 0; i < plan->operation_count; ++i) {
    const OperationEntry& e = plan->operations[i];
    if (e.operation != Operation::kBind && e.operation != Operation::kDevice) {
      continue;
    }
    POSTERN_TRY_ASSIGN(const bool cloned, settle(clone_source(e, descriptors[e.descriptor]), e, i));
    if (!cloned) {
      descriptors[e.descriptor].reset();
    }
  }
  return Ok{};
}

Result<Built> build_root(const Plan& plan, std::span<UniqueFd> descriptors, const char* root_device,
                         int procfs) noexcept {
  const Effective effective(kMounting);
  Root root{plan, descriptors, procfs, (plan->namespaces & kNamespaceUser) != 0};
  Built built;
  if (plan->hostname[0] != '\0') {
    POSTERN_TRY(call(::sethostname(plan->hostname.data(), ::strnlen(plan->hostname.data(), kMaxHostnameBytes)), Op::kHostname));
  }
  POSTERN_TRY(make_session(root));
  POSTERN_TRY(mount_layers(root, root_device));
  POSTERN_TRY(open_top(root));
  for (std::uint16_t i = 0; i < plan->operation_count; ++i) {
    POSTERN_TRY_ASSIGN(const bool done, settle(run(root, plan->operations[i], i), plan->operations[i], i));
    built.skipped += done ? 0 : 1;
    built.skipped_items[i / 64] |= done ? 0 : bit(i % 64);
  }
  POSTERN_TRY(freeze_mounts(root));
  POSTERN_TRY(pivot(root, built));
  return built;
}

}  // namespace postern::helper

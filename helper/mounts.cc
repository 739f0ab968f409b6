#include "helper/mounts.h"

#include <algorithm>
#include <cstring>

#include <linux/openat2.h>
#include <sys/mount.h>
#include <sys/sendfile.h>

#include "helper/sys.h"

namespace postern::helper {

namespace {

constexpr unsigned kPlain = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
constexpr unsigned kPlainReadOnly = kPlain | MOUNT_ATTR_RDONLY;
constexpr std::uint64_t kMounting = bit(CAP_SYS_ADMIN);
constexpr std::uint64_t kOwnOverlay = kMounting | bit(CAP_CHOWN) | bit(CAP_DAC_OVERRIDE) | bit(CAP_FOWNER);

void use_capabilities(std::uint64_t effective) noexcept {
  set_capabilities(~0ULL, effective, 0);
}

// ---------------------------------------------------------------------------- mounts as objects

// Flags are only ever added: in user-namespace mode the host's are locked (mount_namespaces(7)).
// MS_SLAVE takes a clone out of its peer groups.
Result<> restrict_mount(int mount, const char* path, unsigned attributes, Op op) noexcept {
  mount_attr attr{.attr_set = attributes, .propagation = MS_SLAVE};
  return require(::mount_setattr(mount, path, AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof attr) == 0, op);
}

// A detached copy of a mount tree, restricted before anybody can reach it. Always recursive: else it
// would uncover what a mount hides.
Result<UniqueFd> clone_tree(int fd, const char* path, unsigned attributes, Op op) noexcept {
  constexpr unsigned kClone = AT_EMPTY_PATH | AT_RECURSIVE | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC;
  POSTERN_TRY_ASSIGN(UniqueFd tree, own(::open_tree(fd, path, kClone), op));
  POSTERN_TRY(restrict_mount(tree.get(), "", attributes, op));
  return tree;
}

struct Option {
  const char* key;
  const char* value;  // nullptr: a flag
};

// Types and keys are constants of this file; values are constants or numbers printed here.
Result<UniqueFd> new_mount(const char* type, std::span<const Option> options, unsigned attributes, Op op) noexcept {
  POSTERN_TRY_ASSIGN(const UniqueFd context, own(::fsopen(type, FSOPEN_CLOEXEC), op));
  for (const Option& o : options) {
    const auto command = o.value == nullptr ? FSCONFIG_SET_FLAG : FSCONFIG_SET_STRING;
    POSTERN_TRY(require(::fsconfig(context.get(), command, o.key, o.value, 0) == 0, op));
  }
  POSTERN_TRY(require(::fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) == 0, op));
  return own(::fsmount(context.get(), FSMOUNT_CLOEXEC, attributes), op);
}

Result<> attach(int mount, int target, const char* path, Op op) noexcept {
  constexpr unsigned kHere = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
  return require(::move_mount(mount, "", target, path, kHere) == 0, op);
}

Result<UniqueFd> new_tmpfs(std::uint64_t bytes, std::uint32_t mode) noexcept {
  const Text size = Text().add(bytes);
  const Text octal = Text().add(mode, 8);
  const std::array<Option, 2> options{{{"size", size.text()}, {"mode", octal.text()}}};
  return new_mount("tmpfs", options, kPlain, Op::kSession);
}

// --------------------------------------------------------------------------------- the new root

struct Root {
  const Plan& plan;
  std::span<UniqueFd> descriptors;
  int procfs;
  bool user_namespace;
  bool overlaid;
  UniqueFd session{};
  UniqueFd top{};
  dev_t overlay = 0;  // st_dev of our own overlay, 0 where none
};

// Everything is put together on a tmpfs of our own over the root of the namespace: overlayfs wants
// its layers attached, and nobody else can reach them there. Absolute paths of ours (/dev, /proc,
// /sys) still start at the old root, because "/" is never crossed downwards.
Result<> make_session(Root& root) noexcept {
  ::umask(022);
  POSTERN_TRY(restrict_mount(AT_FDCWD, "/", 0, Op::kSession));
  POSTERN_TRY_ASSIGN(root.session, new_tmpfs(root.plan->scratch_bytes, 0755));
  POSTERN_TRY(attach(root.session.get(), AT_FDCWD, "/", Op::kSession));
  return require(::fchdir(root.session.get()) == 0, Op::kSession);
}

Result<> make_directory(const char* name) noexcept {
  return require(::mkdirat(AT_FDCWD, name, 0755) == 0, Op::kSession);
}

// fuse.txt of the kernel; allow_other only where those whom it lets in are the caller's own ids.
Result<UniqueFd> mount_layer(const Root& root, RootKind kind, UniqueFd& source, const char* device) noexcept {
  if (kind == RootKind::kDirectory) return std::move(source);
  if (kind == RootKind::kImage) {
    const std::array<Option, 2> image{{{"source", device}, {"ro", nullptr}}};
    return new_mount("squashfs", image, kPlainReadOnly, Op::kMountRoot);
  }
  const Text fd = Text().add(static_cast<std::uint64_t>(source.get()));
  const Text uid = Text().add(::getuid());
  const Text gid = Text().add(::getgid());
  const std::array<Option, 7> fuse{{{"source", "postern"},
                                    {"fd", fd.text()},
                                    {"rootmode", "40000"},
                                    {"user_id", uid.text()},
                                    {"group_id", gid.text()},
                                    {"default_permissions", nullptr},
                                    {"allow_other", nullptr}}};
  return new_mount("fuse", std::span(fuse).first(root.user_namespace ? 7 : 6), kPlainReadOnly, Op::kMountRoot);
}

// The root at "a", the layers above it at "b", "c", … of the session; `lower` becomes "c:b:a".
Result<> mount_layers(Root& root, const char* device, Text& lower) noexcept {
  for (std::size_t i = root.plan->layer_count + 1U; i-- > 0;) {
    const std::array<char, 2> name{static_cast<char>('a' + i), '\0'};
    const LayerEntry layer = i == 0 ? LayerEntry{} : root.plan->layers[i - 1];
    const bool is_fuse = layer.kind == LayerKind::kFuse;
    const RootKind kind = i == 0 ? root.plan->root : is_fuse ? RootKind::kFuse : RootKind::kDirectory;
    POSTERN_TRY(make_directory(name.data()));
    POSTERN_TRY_ASSIGN(UniqueFd mount, mount_layer(root, kind, root.descriptors[layer.descriptor], device));
    POSTERN_TRY(attach(mount.get(), AT_FDCWD, name.data(), Op::kMountRoot));
    // overlayfs looks below the mounts of a layer and would show what they hide. To the first
    // MNT_EXPIRE, a mount that has none and no user answers EAGAIN, any other EBUSY (umount(2)).
    mount.reset();
    const bool alone = ::umount2(name.data(), MNT_EXPIRE | UMOUNT_NOFOLLOW) != 0 && errno == EAGAIN;
    POSTERN_TRY(require(alone || !root.overlaid || kind != RootKind::kDirectory, Op::kOverlay, EBUSY));
    lower.add(name.data()).add(i == 0 ? "" : ":");
  }
  return Ok{};
}

// redirect_dir, metacopy: an image's own overlay attributes must not reach into other layers.
Result<> mount_overlay(const Root& root, const Text& lower) noexcept {
  const bool stored = root.plan->scratch == Scratch::kDirectory;
  std::array<Option, 7> options{{{"source", "postern"},
                                 {"lowerdir", lower.text()},
                                 {"redirect_dir", "nofollow"},
                                 {"metacopy", "off"},
                                 {"userxattr", nullptr}}};
  std::size_t used = root.user_namespace ? 5 : 4;
  for (const char* name : {"upper", "work", "top"}) POSTERN_TRY(make_directory(name));
  if (root.plan->scratch != Scratch::kNone) {
    options[used++] = {"upperdir", stored ? "upper/upper" : "upper"};
    options[used++] = {"workdir", stored ? "upper/work" : "work"};
  }
  if (stored) POSTERN_TRY(attach(root.descriptors[root.plan->upper_descriptor].get(), AT_FDCWD, "upper", Op::kOverlay));
  // Copy-up acts with the mounter's capabilities of this moment for as long as the mount lives.
  use_capabilities(root.user_namespace ? ~0ULL : kOwnOverlay);
  const auto overlay = new_mount("overlay", std::span(options).first(used), kPlain, Op::kOverlay);
  use_capabilities(kMounting);
  if (!overlay) return overlay.error();
  return attach(overlay->get(), AT_FDCWD, "top", Op::kOverlay);
}

Result<> mount_root(Root& root, const char* device) noexcept {
  constexpr int kTop = O_PATH | O_DIRECTORY | O_CLOEXEC;
  Text lower;
  struct stat status{};
  POSTERN_TRY(mount_layers(root, device, lower));
  if (root.overlaid) POSTERN_TRY(mount_overlay(root, lower));
  POSTERN_TRY_ASSIGN(root.top, own(::open(root.overlaid ? "top" : "a", kTop), Op::kMountRoot));
  POSTERN_TRY(require(::fstat(root.top.get(), &status) == 0, Op::kMountRoot));
  root.overlay = root.overlaid ? status.st_dev : 0;
  return Ok{};
}

// ------------------------------------------------------------------------------------- targets

// Inside the new root, whatever links the image holds. EAGAIN: a rename or mount somewhere on the
// host raced with a ".." (openat2(2)).
Result<UniqueFd> resolve(const Root& root, const char* path, std::uint64_t nofollow = 0) noexcept {
  open_how how{.flags = O_PATH | O_CLOEXEC | nofollow, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
  long fd = -1;
  for (int attempt = 0; attempt < 32 && fd < 0 && (attempt == 0 || errno == EAGAIN); ++attempt)
    fd = ::syscall(SYS_openat2, root.top.get(), path, &how, sizeof how);
  return own(fd, Op::kTarget);
}

// Only our own overlay may be written with capabilities: a bind of /etc with a second bind below it
// must not let root create entries in the host's /etc.
Result<> create(const Root& root, int parent, const char* name, mode_t type, const char* link) noexcept {
  struct stat status{};
  POSTERN_TRY(require(::fstat(parent, &status) == 0, Op::kTarget));
  use_capabilities(status.st_dev == root.overlay ? kOwnOverlay : 0);
  const int made = type == S_IFDIR   ? ::mkdirat(parent, name, 0755)
                   : type == S_IFLNK ? ::symlinkat(link, parent, name)
                                     : ::mknodat(parent, name, S_IFREG | 0644, 0);
  const int err = errno;
  use_capabilities(kMounting);
  return require(made == 0 || err == EEXIST, Op::kTarget, err);
}

// The mount point or link of `e`, made with its parents where it is missing.
Result<UniqueFd> target(const Root& root, const OperationEntry& e, mode_t type) noexcept {
  std::array<char, kMaxTargetBytes> path{};
  std::strncpy(path.data(), root.plan.text(e.target), path.size() - 1);
  Result<UniqueFd> at = resolve(root, "/");
  for (char* end = path.data(); at && end != nullptr;) {
    char* const name = end + 1;
    end = std::strchr(name, '/');
    if (end != nullptr) *end = '\0';
    const mode_t wanted = end != nullptr ? S_IFDIR : type;
    const std::uint64_t nofollow = wanted == S_IFLNK ? O_NOFOLLOW : 0;
    Result<UniqueFd> next = resolve(root, path.data(), nofollow);
    if (!next && next.error().err == ENOENT && (e.flags & kNeedsTarget) == 0) {
      POSTERN_TRY(create(root, at->get(), name, wanted, root.plan.text(e.text)));
      next = resolve(root, path.data(), nofollow);
    }
    at = std::move(next);
    if (end != nullptr) *end = '/';
  }
  return at;
}

// ---------------------------------------------------------------------------------- operations

// A clone of a memfd or unlinked file cannot be attached (ENOENT), so its bytes are copied into a
// file of the session, which nobody else can reach, and that is bound.
Result<UniqueFd> copy_file(const Root& root, int source, std::uint16_t item) noexcept {
  constexpr int kNew = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC;
  const Text name = Text().add(item);
  struct stat status{};
  POSTERN_TRY_ASSIGN(const UniqueFd copy, own(::openat(root.session.get(), name.text(), kNew, 0644), Op::kMount));
  POSTERN_TRY(require(::fstat(source, &status) == 0, Op::kMount));
  const auto bytes = static_cast<std::size_t>(status.st_size);
  POSTERN_TRY(require(S_ISREG(status.st_mode) && bytes <= kMaxFileBytes, Op::kMount, EFBIG));
  for (off_t offset = 0; offset < status.st_size;)
    POSTERN_TRY(require(::sendfile(copy.get(), source, &offset, bytes) > 0, Op::kMount));
  return clone_tree(root.session.get(), name.text(), kPlainReadOnly, Op::kMount);
}

struct SystemMount {
  Operation operation;
  const char* type;                 // of a fresh one …
  std::span<const Option> options;  // … and what it is mounted with
  const char* host;                 // cloned from this namespace's own copy …
  std::uint8_t namespaces;          // … unless one of these is new
  unsigned attributes;
};
constexpr unsigned kNoExec = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;
constexpr std::array<Option, 2> kTerminals{{{"mode", "0620"}, {"ptmxmode", "0666"}}};
// clang-format off
constexpr std::array kSystemMounts = std::to_array<SystemMount>({
    {Operation::kProc,    "proc",   {},         "/proc", kNamespacePid, kPlain},
    {Operation::kSysfs,   "sysfs",  {},         "/sys",  kNamespaceNet, kPlain},
    {Operation::kDevHost, nullptr,  {},         "/dev",  0,             MOUNT_ATTR_NOSUID},
    {Operation::kDevpts,  "devpts", kTerminals, nullptr, 0,             kNoExec},
    {Operation::kMqueue,  "mqueue", {},         nullptr, 0,             kNoExec | MOUNT_ATTR_NODEV},
});
// clang-format on

Result<UniqueFd> make_mount(const Root& root, const OperationEntry& e, std::uint16_t item) noexcept {
  if (e.operation == Operation::kFile) return copy_file(root, root.descriptors[e.descriptor].get(), item);
  if (e.descriptor != kNoDescriptor) return std::move(root.descriptors[e.descriptor]);
  if (e.operation == Operation::kTmpfs) return new_tmpfs(e.size != 0 ? e.size : root.plan->scratch_bytes, e.mode);
  const auto is_it = [&](const SystemMount& row) { return row.operation == e.operation; };
  const auto* m = std::find_if(kSystemMounts.begin(), kSystemMounts.end(), is_it);
  POSTERN_CHECK(m != kSystemMounts.end());
  if (m->host != nullptr && (root.plan->namespaces & m->namespaces) == 0)
    return clone_tree(AT_FDCWD, m->host, m->attributes, Op::kMount);
  if (e.operation == Operation::kProc && root.procfs >= 0)
    return own(::fcntl(root.procfs, F_DUPFD_CLOEXEC, 3), Op::kMount);
  return new_mount(m->type, m->options, m->attributes, Op::kMount);
}

Result<> run(const Root& root, const OperationEntry& e, std::uint16_t item) noexcept {
  const bool file = e.operation == Operation::kFile || e.operation == Operation::kDevice ||
                    (e.operation == Operation::kBind && (e.flags & kDirectoryTarget) == 0);
  const mode_t type = e.operation == Operation::kSymlink ? S_IFLNK : file ? S_IFREG : S_IFDIR;
  POSTERN_TRY_ASSIGN(const UniqueFd place, target(root, e, type));
  if (type == S_IFLNK) return Ok{};
  POSTERN_TRY_ASSIGN(const UniqueFd mount, make_mount(root, e, item));
  return attach(mount.get(), place.get(), "", Op::kMount);
}

// Whether it was done: what is kOptional may fail; else the error names the operation.
Result<bool> settle(Result<> result, const OperationEntry& e, std::uint16_t item) noexcept {
  if (result || (e.flags & kOptional) != 0) return result.has_value();
  Error error = result.error();
  error.item = item;
  return error;
}

// pivot_root(2), NOTES: with "." twice the old root is stacked on the new one. The session lies on top
// of it, so two mounts are detached; that nothing is left above "/" is proved by its mount id.
Result<> pivot(const Root& root, Built& built) noexcept {
  const bool moved = ::fchdir(root.top.get()) == 0 && ::syscall(SYS_pivot_root, ".", ".") == 0 &&
                     ::umount2(".", MNT_DETACH) == 0 && ::umount2(".", MNT_DETACH) == 0 && ::chdir("/") == 0;
  POSTERN_TRY(require(moved, Op::kSession));
  built.root_mount = mount_id("/");
  return require(built.root_mount != 0 && mount_id("/..") == built.root_mount, Op::kSession, EBUSY);
}

bool is_host_device(int node) noexcept {
  struct stat status{}, dev{}, pts{};
  const bool is_device = ::fstat(node, &status) == 0 && (S_ISCHR(status.st_mode) || S_ISBLK(status.st_mode));
  const bool on_dev = ::stat("/dev", &dev) == 0 && dev.st_dev == status.st_dev;
  return is_device && (on_dev || (::stat("/dev/pts", &pts) == 0 && pts.st_dev == status.st_dev));
}

Result<> clone_into(UniqueFd& fd, bool read_only, bool device = false) noexcept {
  const unsigned attributes = device ? MOUNT_ATTR_NOSUID : read_only ? kPlainReadOnly : kPlain;
  POSTERN_TRY(require(!device || is_host_device(fd.get()), Op::kCloneSource, ENODEV));
  POSTERN_TRY_ASSIGN(fd, clone_tree(fd.get(), "", attributes, Op::kCloneSource));
  return Ok{};
}

}  // namespace

Result<> clone_sources(const Plan& plan, std::span<UniqueFd> descriptors) noexcept {
  if (plan->root == RootKind::kDirectory) POSTERN_TRY(clone_into(descriptors[0], plan->writable_root == 0));
  if (plan->scratch == Scratch::kDirectory) POSTERN_TRY(clone_into(descriptors[plan->upper_descriptor], false));
  for (const LayerEntry& layer : std::span(plan->layers).first(plan->layer_count))
    if (layer.kind == LayerKind::kDirectory) POSTERN_TRY(clone_into(descriptors[layer.descriptor], true));
  for (std::uint16_t i = 0; i < plan->operation_count; ++i) {
    const OperationEntry& e = plan->operations[i];
    const bool device = e.operation == Operation::kDevice;
    if (e.operation != Operation::kBind && !device) continue;
    UniqueFd& fd = descriptors[e.descriptor];
    POSTERN_TRY_ASSIGN(const bool cloned, settle(clone_into(fd, (e.flags & kReadOnly) != 0, device), e, i));
    if (!cloned) fd.reset();
  }
  return Ok{};
}

Result<Built> build_root(const Plan& plan, std::span<UniqueFd> descriptors, const char* root_device,
                         int procfs) noexcept {
  use_capabilities(kMounting);
  const bool overlaid = plan->scratch != Scratch::kNone || plan->layer_count != 0;
  Root root{plan, descriptors, procfs, (plan->namespaces & kNamespaceUser) != 0, overlaid};
  Built built;
  const std::size_t hostname_bytes = ::strnlen(plan->hostname.data(), plan->hostname.size());
  if (hostname_bytes != 0)
    POSTERN_TRY(require(::sethostname(plan->hostname.data(), hostname_bytes) == 0, Op::kHostname));
  POSTERN_TRY(make_session(root));
  POSTERN_TRY(mount_root(root, root_device));
  for (std::uint16_t i = 0; i < plan->operation_count; ++i) {
    POSTERN_TRY_ASSIGN(const bool done, settle(run(root, plan->operations[i], i), plan->operations[i], i));
    if (!done) built.skipped_items[i / 64] |= bit(i % 64);
    if (!done) ++built.skipped;
  }
  const bool writable = plan->writable_root == 1 || plan->scratch >= Scratch::kWritable;
  mount_attr seal{.attr_set = writable ? 0U : MOUNT_ATTR_RDONLY};
  POSTERN_TRY(require(::mount_setattr(root.top.get(), "", AT_EMPTY_PATH, &seal, sizeof seal) == 0, Op::kMountRoot));
  POSTERN_TRY(pivot(root, built));
  use_capabilities(root.user_namespace ? ~0ULL : 0);
  return built;
}

}  // namespace postern::helper

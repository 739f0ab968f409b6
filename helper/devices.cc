// Block devices of an image root: loop, then dm-verity, then dm-crypt. Raw ioctls, not
// libdevmapper: that library reads the environment, /proc and udev's state, and pulls in
// libselinux, whose constructor runs before main.
#include <cstddef>
#include <cstring>

#include <linux/dm-ioctl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include <signal.h>

#include "helper/steps.h"

namespace postern::helper {

namespace {

constexpr std::size_t kSector = 512, kKeyBytes = 64;
constexpr std::string_view kPrefix = "postern-";  // of the names of our mappings

// The loop driver would read through a descriptor that was opened for writing only; and a FUSE
// server can wedge the kernel's block layer. That it holds bytes at rest (no pseudo file) is the
// judge's to see.
bool is_image(int fd, struct stat& status) noexcept {
  constexpr unsigned kFuse = 0x65735546;
  struct statfs system{};
  const int flags = ::fcntl(fd, F_GETFL);
  const bool readable = flags >= 0 && (flags & O_PATH) == 0 && (flags & O_ACCMODE) != O_WRONLY &&
                        ::pread(fd, nullptr, 0, 0) == 0;
  return readable && ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode) &&
         ::fstatfs(fd, &system) == 0 && system.f_type != kFuse;
}

Device open_device(const char* name, std::uint64_t number) noexcept {
  Device device{.path = Text().add(name, number)};
  device.fd.reset(::open(device.path.text(), O_RDONLY | O_CLOEXEC));
  return device;
}

// Whether a loop device is free, or as large as ours. Others are not opened: that would wait for
// their teardown, and the status for their file system, which may hang; sysfs waits for neither.
bool may_be_ours(std::uint32_t number, std::uint64_t bytes) noexcept {
  std::array<char, 24> size{};
  const UniqueFd file(
      ::open(Text().add("/sys/block/loop", number, "/size").text(), O_RDONLY | O_CLOEXEC));
  const bool known = ::read(file.get(), size.data(), size.size() - 1) > 0;
  const Text wanted = Text().add(bytes / kSector, "\n");
  return !known || std::strcmp(size.data(), "0\n") == 0 ||
         std::strcmp(size.data(), wanted.text()) == 0;
}

// Read-only, no partition scan, gone with its last user: the device of an earlier start, which the
// same caller made of the same extent of the same unchanged file, or the first free one.
// Simultaneous first starts walk the same way, so they meet at one device: who is not the first to
// configure it asks again what it is. INVARIANT: what is shared is what the kernel says that it is,
// under a name that only root can give. The descriptor keeps the autoclear away, so that it stays
// so.
Result<Device> attach_loop(int image, std::uint64_t offset, std::uint64_t bytes) noexcept {
  struct stat file{};
  POSTERN_TRY(require(is_image(image, file), Op::kLoop, EBADF));
  POSTERN_TRY_ASSIGN(const UniqueFd control,
                     own(::open("/dev/loop-control", O_RDWR | O_CLOEXEC), Op::kLoop));
  const auto [seconds, nanoseconds] = file.st_ctim;
  const Text name = Text().add("postern ", ::getuid(), " ", std::uint64_t(seconds), ".",
                               std::uint64_t(nanoseconds));
  loop_config config{.fd = static_cast<std::uint32_t>(image)};
  loop_info64& ours = config.info;
  ours = {.lo_device = file.st_dev,
          .lo_inode = file.st_ino,
          .lo_offset = offset,
          .lo_sizelimit = bytes};
  ours.lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR;
  std::memcpy(ours.lo_file_name, name.text(), LO_NAME_SIZE - 1);
  for (int tries = 0; tries < 100'000; ++tries) {  // some hundred milliseconds
    while (!may_be_ours(ours.lo_number, bytes)) ++ours.lo_number;
    Device loop = open_device("/dev/loop", ours.lo_number);
    if (!loop.fd.valid()) {
      // EEXIST: somebody else has just added it, and its node is not there yet.
      const bool added =
          errno == ENOENT && ::ioctl(control.get(), LOOP_CTL_ADD, ours.lo_number) >= 0;
      POSTERN_TRY(require(added || errno == EEXIST, Op::kLoop));
      continue;
    }
    loop_info64 found{};
    const bool bound = ::ioctl(loop.fd.get(), LOOP_GET_STATUS64, &found) == 0 || errno != ENXIO;
    const bool same = std::memcmp(&found, &ours, offsetof(loop_info64, lo_crypt_name)) == 0;
    if (bound ? same : ::ioctl(loop.fd.get(), LOOP_CONFIGURE, &config) == 0) return loop;
    POSTERN_TRY(require(bound || errno == EBUSY || errno == EAGAIN, Op::kLoop));
    ours.lo_number += bound ? 1 : 0;
  }
  return Error{.err = EBUSY, .op = Op::kLoop};
}

// One dm_ioctl with its one target behind it (dm-ioctl.h of the kernel). The parameters may hold a
// key.
struct Mapping {
  dm_ioctl head{.version = {DM_VERSION_MAJOR, 0, 0}};
  dm_target_spec target{};
  Text parameters;

  explicit Mapping(std::string_view type = {}, std::uint64_t bytes = 0) noexcept {
    type.copy(target.target_type, sizeof target.target_type - 1);
    target.length = bytes / kSector;
  }

  ~Mapping() { ::explicit_bzero(this, sizeof *this); }

  void set_name(std::string_view name) { head.name[name.copy(head.name, DM_NAME_LEN - 1)] = 0; }

  // The kernel overwrites sizes, and finds a device by name only where no number is given.
  Result<> call(int control, unsigned long request, std::uint32_t flags) noexcept {
    head.data_size = sizeof *this;
    head.data_start = sizeof head;
    head.target_count = 1;
    head.flags = flags;
    head.dev = 0;
    return require(::ioctl(control, request, this) == 0, Op::kMapping);
  }
};

static_assert(offsetof(Mapping, parameters) == sizeof(dm_ioctl) + sizeof(dm_target_spec));

Text number_of(const Device& device) noexcept {
  struct stat status{};
  POSTERN_CHECK(::fstat(device.fd.get(), &status) == 0);
  return Text().add(major(status.st_rdev), ":", minor(status.st_rdev));
}

// The live mapping of that name, where it is in all that `wanted` says: the kernel prints a table
// as we write it. ORDER: opened, then asked again. What is open cannot go, so that name and number
// are of the same device.
Result<Device> find_mapping(int control, const Mapping& wanted) noexcept {
  Mapping found;
  found.set_name(wanted.head.name);
  POSTERN_TRY(found.call(control, DM_DEV_STATUS, 0));
  const std::uint64_t number = found.head.dev;
  Device device = open_device("/dev/dm-", minor(number));
  POSTERN_TRY(found.call(control, DM_TABLE_STATUS, DM_STATUS_TABLE_FLAG | DM_SECURE_DATA_FLAG));
  found.target.next = 0;  // where a further target would be, had it one
  const bool same = device.fd.valid() && found.head.dev == number && found.head.target_count == 1 &&
                    (found.head.flags & (DM_READONLY_FLAG | DM_SUSPEND_FLAG)) == DM_READONLY_FLAG &&
                    std::memcmp(&found.target, &wanted.target, sizeof found.target) == 0 &&
                    std::strcmp(found.parameters.text(), wanted.parameters.text()) == 0;
  return same ? Result<Device>(std::move(device)) : Error{.err = EEXIST, .op = Op::kMapping};
}

// A lock of one byte of /dev/mapper/control, which only root can open. Whoever makes a mapping
// holds that of its number; it goes with the process, however that ends (fcntl(2), "Open file
// description locks").
bool lock_maker(int control, std::int64_t maker) noexcept {
  struct flock lock{.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = maker, .l_len = 1};
  return ::fcntl(control, F_OFD_SETLK, &lock) == 0;
}

// Mappings that nobody could arm, because root, a cgroup or the OOM killer ended their makers: they
// have the maker's number behind their name. One that is in use stays (dm-ioctl.h).
void remove_abandoned(int control) noexcept {
  static struct {
    dm_ioctl head;
    std::array<char, 1 << 16> list;
  } all;

  all.head = {.version = {DM_VERSION_MAJOR, 0, 0}, .data_size = sizeof all};
  all.head.data_start = sizeof all.head;
  dm_name_list entry{.next = ::ioctl(control, DM_LIST_DEVICES, &all) == 0 ? 1U : 0U};
  for (std::size_t at = 0; entry.next != 0; at += entry.next) {
    std::memcpy(&entry, &all.list[at], offsetof(dm_name_list, name));
    const std::string_view name(&all.list[at + offsetof(dm_name_list, name)]);
    const std::size_t digits = name.find('-', kPrefix.size()) + 1;
    std::int64_t maker = -1;
    if (name.starts_with(kPrefix) && digits != 0)
      std::from_chars(name.data() + digits, name.data() + name.size(), maker);
    if (maker < 0 || !lock_maker(control, maker)) continue;
    Mapping abandoned;
    abandoned.set_name(name);
    (void)abandoned.call(control, DM_DEV_REMOVE, 0);
  }
}

// The mapping over `data`, whose number makes its name: that of an earlier start, thus of the same
// caller and image, with the same table; or a new one. It gets that name when it is whole, so that
// nobody waits for a maker that stands still; of simultaneous ones the first to be named is the one
// that stays. Where the name is something else's, ours keeps its own. INVARIANT: a mapping is
// removed with its last user. Deferred removal can be armed only once the device has a table and is
// open, so until then nothing that the caller may send ends the helper: it holds no user id of the
// caller's, and signals of the terminal and of the clock wait.
Result<Device> map_device(const Device& data, Mapping& mapping) noexcept {
  constexpr std::uint32_t kLoad = DM_READONLY_FLAG | DM_SECURE_DATA_FLAG;
  constexpr unsigned long kAll = ~0UL, kNone = 0;
  const auto mask = [](const unsigned long& signals) {
    return ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &signals, nullptr, 8) == 0;
  };
  const Text name = Text().add(kPrefix, number_of(data));
  mapping.set_name(name.text());
  POSTERN_TRY_ASSIGN(const UniqueFd file,
                     own(::open("/dev/mapper/control", O_RDWR | O_CLOEXEC), Op::kMapping));
  const int control = file.get();
  if (Result<Device> found = find_mapping(control, mapping)) return found;
  remove_abandoned(control);
  Mapping ours = mapping;
  const pid_t maker = ::getpid();
  ours.set_name(Text().add(name, "-", static_cast<unsigned>(maker)).text());
  (void)lock_maker(control, maker);  // taken: then that process vouches for this one
  POSTERN_TRY(require(::setresuid(0, 0, 0) == 0 && mask(kAll), Op::kMapping));
  POSTERN_TRY(ours.call(control, DM_DEV_CREATE, 0));
  Device device;
  if (ours.call(control, DM_TABLE_LOAD, kLoad))
    device = open_device("/dev/dm-", minor(ours.head.dev));
  POSTERN_TRY(ours.call(control, DM_DEV_REMOVE, DM_DEFERRED_REMOVE));
  // errno is still that of whichever of the two failed: what succeeded since has not touched it.
  POSTERN_TRY(require(device.fd.valid() && mask(kNone), Op::kMapping));
  // Without DM_SUSPEND_FLAG this call resumes (dm-ioctl.h).
  POSTERN_TRY(ours.call(control, DM_DEV_SUSPEND, DM_SECURE_DATA_FLAG));
  // DM_DEV_RENAME has the new name where a target would be.
  std::memcpy(&ours.target, mapping.head.name, sizeof ours.target);
  if (!ours.call(control, DM_DEV_RENAME, 0))
    if (Result<Device> found = find_mapping(control, mapping)) return found;
  return device;
}

// No optional argument: a corrupt block is an I/O error, never a restart or a panic of the node.
Result<Device> map_verity(const Plan& plan, Device data) noexcept {
  const VerityGeometry& g = plan->verity;
  if (g.data_blocks == 0) return data;
  const Text lower = number_of(data);
  const std::uint64_t tree = (g.tree_offset - plan->image_offset) / 4096;
  Mapping mapping("verity", g.data_blocks * 4096);
  mapping.parameters.add("1 ", lower, " ", lower, " 4096 4096 ", g.data_blocks, " ", tree);
  mapping.parameters.add(" sha256 ").hex(g.root_hash).add(g.salt_bytes == 0 ? " -" : " ");
  mapping.parameters.hex(std::span(g.salt).first(g.salt_bytes));
  return map_device(data, mapping);
}

Result<Device> map_crypt(const Plan& plan, std::span<UniqueFd> descriptors, Device data) noexcept {
  const CryptGeometry& g = plan->crypt;
  if (g.data_bytes == 0) return data;
  const int key = descriptors[g.key_descriptor].get();
  std::array<std::uint8_t, kKeyBytes + 1> bytes{};
  const bool whole = ::fcntl(key, F_GET_SEALS) > 0 &&  // only a memfd has seals
                     ::pread(key, bytes.data(), bytes.size(), 0) == kKeyBytes;
  POSTERN_TRY(require(whole, Op::kMapping, EKEYREJECTED));
  Mapping mapping("crypt", g.data_bytes);
  mapping.parameters.add("aes-xts-plain64 ").hex(std::span(bytes).first(kKeyBytes));
  mapping.parameters.add(" ", g.iv_offset, " ", number_of(data), " ", g.data_offset / kSector);
  mapping.parameters.add(g.sector_bytes == kSector ? "" : " 1 sector_size:4096");
  ::explicit_bzero(bytes.data(), bytes.size());
  return map_device(data, mapping);
}

}  // namespace

Result<Device> make_devices(const Plan& plan, std::span<UniqueFd> descriptors) noexcept {
  if (plan->layers[0].kind != RootKind::kImage) return Device{};
  POSTERN_TRY_ASSIGN(Device loop,
                     attach_loop(descriptors[0].get(), plan->image_offset, plan->image_bytes));
  POSTERN_TRY_ASSIGN(Device verified, map_verity(plan, std::move(loop)));
  return map_crypt(plan, descriptors, std::move(verified));
}

}  // namespace postern::helper

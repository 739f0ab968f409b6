// Block devices of an image root: loop, then dm-verity, then dm-crypt. Raw ioctls, not libdevmapper:
// that library reads the environment, /proc and udev's state, and pulls in libselinux, whose
// constructor runs before main.
#include <linux/dm-ioctl.h>
#include <linux/loop.h>
#include <signal.h>

#include <cstddef>
#include <cstring>

#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include "helper/steps.h"

namespace postern::helper {

namespace {

constexpr std::uint64_t kSector = 512;
constexpr std::size_t kKeyBytes = 64;

// The loop driver would read through a descriptor that was opened for writing only; and a FUSE server can
// wedge the kernel's block layer. That it holds bytes at rest (no pseudo file) is the judge's to see.
bool is_image(int fd) noexcept {
  constexpr unsigned kFuse = 0x65735546;
  struct stat status{};
  struct statfs system{};
  const int flags = ::fcntl(fd, F_GETFL);
  return flags >= 0 && (flags & O_PATH) == 0 && (flags & O_ACCMODE) != O_WRONLY && ::fstat(fd, &status) == 0 &&
         S_ISREG(status.st_mode) && ::fstatfs(fd, &system) == 0 && system.f_type != kFuse;
}

// Read-only, no partition scan, gone with its last user. LOOP_CTL_GET_FREE does not reserve.
Result<Device> attach_loop(int image, std::uint64_t offset, std::uint64_t bytes) noexcept {
  POSTERN_TRY_ASSIGN(const UniqueFd control, own(::open("/dev/loop-control", O_RDWR | O_CLOEXEC), Op::kLoop));
  loop_config config{.fd = static_cast<std::uint32_t>(image)};
  config.info.lo_offset = offset;
  config.info.lo_sizelimit = bytes;
  config.info.lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR;
  for (;;) {
    const int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
    POSTERN_TRY(require(number >= 0, Op::kLoop));
    Device loop{.path = Text().add("/dev/loop").add(static_cast<std::uint64_t>(number))};
    POSTERN_TRY_ASSIGN(loop.fd, own(::open(loop.path.text(), O_RDONLY | O_CLOEXEC), Op::kLoop));
    if (::ioctl(loop.fd.get(), LOOP_CONFIGURE, &config) == 0) return loop;
    POSTERN_TRY(require(errno == EBUSY || errno == EAGAIN, Op::kLoop));
  }
}

// One dm_ioctl with its one target behind it (dm-ioctl.h of the kernel).
struct Mapping {
  dm_ioctl head{.version = {DM_VERSION_MAJOR, 0, 0}};
  dm_target_spec target{};
  Text parameters;

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

Text& add_device(Text& text, const UniqueFd& device) noexcept {
  struct stat status{};
  POSTERN_CHECK(::fstat(device.get(), &status) == 0);
  return text.add(major(status.st_rdev)).add(":").add(minor(status.st_rdev));
}

// The mapping of `type` over `data`, which nobody else has and so makes the name unique.
// INVARIANT: a mapping is removed with its last user. Deferred removal can be armed only once the
// device has a table and is open, so until then nothing that the caller may send ends the helper: it
// holds no user id of the caller's, and signals of the terminal and of the clock wait.
Result<Device> map_device(const char* type, std::uint64_t bytes, const Device& data, Mapping& mapping) noexcept {
  constexpr std::uint32_t kLoad = DM_READONLY_FLAG | DM_SECURE_DATA_FLAG;
  Text name;
  add_device(name.add("postern-"), data.fd);
  std::memcpy(mapping.head.name, name.text(), sizeof mapping.head.name - 1);  // NUL-padded, and short
  std::strncpy(mapping.target.target_type, type, sizeof mapping.target.target_type - 1);
  mapping.target.length = bytes / kSector;
  POSTERN_TRY_ASSIGN(const UniqueFd control, own(::open("/dev/mapper/control", O_RDWR | O_CLOEXEC), Op::kMapping));
  sigset_t all, before;
  ::sigfillset(&all);
  POSTERN_TRY(require(::setresuid(0, 0, 0) == 0 && ::sigprocmask(SIG_SETMASK, &all, &before) == 0, Op::kMapping));
  POSTERN_TRY(mapping.call(control.get(), DM_DEV_CREATE, 0));
  Device device{.path = Text().add("/dev/dm-").add(minor(mapping.head.dev))};
  const Result<> loaded = mapping.call(control.get(), DM_TABLE_LOAD, kLoad);
  if (loaded) device.fd.reset(::open(device.path.text(), O_RDONLY | O_CLOEXEC));
  POSTERN_TRY(mapping.call(control.get(), DM_DEV_REMOVE, DM_DEFERRED_REMOVE));
  POSTERN_TRY(require(::sigprocmask(SIG_SETMASK, &before, nullptr) == 0, Op::kMapping));
  // errno is still that of whichever of the two failed: what succeeded since has not touched it.
  POSTERN_TRY(require(device.fd.valid(), Op::kMapping));
  // Without DM_SUSPEND_FLAG this call resumes (dm-ioctl.h).
  POSTERN_TRY(mapping.call(control.get(), DM_DEV_SUSPEND, DM_SECURE_DATA_FLAG));
  return device;
}

// No optional argument: a corrupt block is an I/O error, never a restart or a panic of the node.
Result<Device> map_verity(const Plan& plan, Device data) noexcept {
  const VerityGeometry& g = plan->verity;
  if (g.data_blocks == 0) return data;
  Mapping mapping;
  add_device(mapping.parameters.add("1 "), data.fd).add(" ");
  add_device(mapping.parameters, data.fd).add(" 4096 4096 ").add(g.data_blocks).add(" ");
  mapping.parameters.add((g.tree_offset - plan->image_offset) / 4096).add(" sha256 ").hex(g.root_hash);
  mapping.parameters.add(g.salt_bytes == 0 ? " -" : " ").hex(std::span(g.salt).first(g.salt_bytes));
  return map_device("verity", g.data_blocks * 4096, data, mapping);
}

Result<Device> map_crypt(const Plan& plan, std::span<UniqueFd> descriptors, Device data) noexcept {
  const CryptGeometry& g = plan->crypt;
  if (g.data_bytes == 0) return data;
  const int key = descriptors[g.key_descriptor].get();
  std::array<std::uint8_t, kKeyBytes + 1> bytes{};
  // Only a memfd has seals.
  const bool whole = ::fcntl(key, F_GET_SEALS) >= 0 && ::pread(key, bytes.data(), bytes.size(), 0) == kKeyBytes;
  POSTERN_TRY(require(whole, Op::kMapping, EKEYREJECTED));
  Mapping mapping;
  mapping.parameters.add("aes-xts-plain64 ").hex(std::span(bytes).first(kKeyBytes)).add(" ").add(g.iv_offset).add(" ");
  add_device(mapping.parameters, data.fd).add(" ").add(g.data_offset / kSector);
  mapping.parameters.add(g.sector_bytes == kSector ? "" : " 1 sector_size:4096");
  Result<Device> device = map_device("crypt", g.data_bytes, data, mapping);
  ::explicit_bzero(bytes.data(), bytes.size());
  ::explicit_bzero(&mapping, sizeof mapping);
  return device;
}

}  // namespace

Result<Device> make_devices(const Plan& plan, std::span<UniqueFd> descriptors) noexcept {
  if (plan->layers[0].kind != RootKind::kImage) return Device{};
  const int image = descriptors[0].get();
  POSTERN_TRY(require(is_image(image), Op::kLoop, EBADF));
  POSTERN_TRY_ASSIGN(Device loop, attach_loop(image, plan->image_offset, plan->image_bytes));
  POSTERN_TRY_ASSIGN(Device verified, map_verity(plan, std::move(loop)));
  return map_crypt(plan, descriptors, std::move(verified));
}

}  // namespace postern::helper

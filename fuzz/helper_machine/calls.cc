// Every function of helper/IMPORTS that reaches the kernel, defined over the model. The linker
// gives the helper's objects these instead of libc's (ld(1), --wrap); outside a run they pass on to
// libc.
#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <utility>

#include <linux/capability.h>
#include <linux/dm-ioctl.h>
#include <linux/loop.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/vfs.h>

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include "fuzz/helper_machine/model.h"
#include "helper/build_paths.h"
#include "protocol/base/result.h"

#define WRAPPED(type, name, ...)              \
  extern "C" type __real_##name(__VA_ARGS__); \
  extern "C" type __wrap_##name(__VA_ARGS__); \
  type __wrap_##name(__VA_ARGS__)

#define K (*g_kernel)

namespace postern::machine {

namespace {

constexpr std::uint64_t kForMounting = (1ULL << CAP_SYS_ADMIN) | (1ULL << CAP_CHOWN) |
                                       (1ULL << CAP_DAC_OVERRIDE) | (1ULL << CAP_FOWNER);

bool is_number(std::string_view text) {
  return !text.empty() && text.size() < 8 &&
         text.find_first_not_of("0123456789") == std::string_view::npos;
}

// Index behind a constant prefix, -1 where it is not of that form.
int number_after(std::string_view text, std::string_view prefix) {
  if (!text.starts_with(prefix) || !is_number(text.substr(prefix.size()))) return -1;
  return std::stoi(std::string(text.substr(prefix.size())));
}

bool is_component(std::string_view name) {
  return !name.empty() && name.find('/') == std::string_view::npos && name != "." && name != "..";
}

bool is_layer_name(std::string_view name) {
  return name.size() == 1 && name[0] >= 'a' && name[0] <= 'a' + 16;
}

const Verdict& verdict() {
  return K.in.verdict;
}

Sent sent_kind(int index) {
  return index >= 0 && index < static_cast<int>(K.in.sent.size())
             ? K.in.sent[static_cast<std::size_t>(index)]
             : Sent::kPipe;
}

bool is_memfd(int index) {
  return sent_kind(index) == Sent::kMemfd;
}

const OperationEntry* operation_of(int sent) {
  for (std::size_t i = 0; i < verdict().operation_count; ++i)
    if (verdict().operations[i].descriptor == sent) return &verdict().operations[i];
  return nullptr;
}

// Where the kernel's rights come from: CAP_SYS_ADMIN is in the effective set.
bool admin() {
  return K.has(CAP_SYS_ADMIN);
}

bool is_callers() {
  const Ids u{K.caller_uid(), K.caller_uid(), K.caller_uid()};
  return K.uid == u;
}

// Before anything is attached, detached or made: in whose namespace, by whom.
void hold_mounting() {
  if (K.who == Who::kPayload) {
    hold(K.in_child_namespace, "the payload's process furnishes only its own namespaces");
    return;
  }
  hold(K.who == Who::kHelper && K.in_child_namespace,
       "nothing is mounted in a namespace of the host");
  hold(K.cloned && K.child_furnished && K.child_error == 0,
       "nothing is mounted for a child that could not furnish its namespaces");
  hold(is_callers(), "mounts are made with the caller's ids");
  hold((K.permitted & ~kForMounting) == 0,
       "while mounts are made, only the capabilities for that are left");
  hold(K.ids_taken, "mounts are made after the ids are taken");
}

// ------------------------------------------------------------------- ids, capabilities

// What the helper may still hold when it listens, with what a site can grant.
constexpr std::uint64_t kListening =
    kForMounting | (1ULL << CAP_SETUID) | (1ULL << CAP_SETGID) | (1ULL << CAP_SETPCAP) |
    (1ULL << CAP_SYS_CHROOT) | (1ULL << CAP_SYS_PTRACE) | (1ULL << CAP_LEASE) | postern::kGrantable;

// capabilities(7), "Effect of user ID changes on capabilities".
void set_ids(Ids next) {
  const Ids old = K.uid;
  const auto any_root = [](const Ids& i) {
    return i.real == 0 || i.effective == 0 || i.saved == 0;
  };
  K.uid = next;
  if (any_root(old) && !any_root(next)) {
    if (!K.keep_capabilities) K.permitted = 0;
    if (!K.keep_capabilities) K.effective = 0;
    K.ambient = 0;
  }
  if (old.effective == 0 && next.effective != 0) K.effective = 0;
  if (old.effective != 0 && next.effective == 0) K.effective = K.permitted;
  if (old.effective != next.effective) K.death_signal = false, K.dumpable = true;
  if (K.who == Who::kHelper && is_callers()) K.ids_taken = true;
}

long change_ids(Ids& ids, unsigned r, unsigned e, unsigned s, unsigned capability, bool user) {
  const auto own = [&](unsigned id) {
    return id == ids.real || id == ids.effective || id == ids.saved;
  };
  if (!K.has(capability) && (!own(r) || !own(e) || !own(s))) return -EPERM;
  if (user) {
    hold(!(K.who != Who::kHelper && r == 0), "a child never becomes root again");
    set_ids({r, e, s});
  } else {
    if (ids.effective != e) K.death_signal = false;
    ids = {r, e, s};
  }
  return 0;
}

long get_capabilities(__user_cap_data_struct* data) {
  for (unsigned i = 0; i < 2; ++i)
    data[i] = {static_cast<std::uint32_t>(K.effective >> (32 * i)),
               static_cast<std::uint32_t>(K.permitted >> (32 * i)),
               static_cast<std::uint32_t>(K.inheritable >> (32 * i))};
  return 0;
}

long set_capabilities(const __user_cap_data_struct* data) {
  const auto join = [](std::uint32_t low, std::uint32_t high) {
    return low | std::uint64_t{high} << 32;
  };
  const std::uint64_t e = join(data[0].effective, data[1].effective);
  const std::uint64_t p = join(data[0].permitted, data[1].permitted);
  const std::uint64_t i = join(data[0].inheritable, data[1].inheritable);
  if ((p & ~K.permitted) != 0 || (e & ~p) != 0 || (i & ~(K.inheritable | K.permitted)) != 0)
    return -EPERM;
  K.effective = e;
  K.permitted = p;
  K.inheritable = i;
  K.ambient &= p & i;
  return 0;
}

long control_process(int option, unsigned long a2, unsigned long a3) {
  const std::uint64_t bit = a2 < 64 ? std::uint64_t{1} << a2 : 0;
  const unsigned last = CAP_LAST_CAP + (K.in.facts.another_capability ? 1 : 0);
  switch (option) {
    case PR_GET_NO_NEW_PRIVS:
      return K.no_new_privs ? 1 : 0;
    case PR_SET_NO_NEW_PRIVS:
      if (a2 != 1) return -EINVAL;
      K.no_new_privs = true;
      return 0;
    case PR_GET_KEEPCAPS:
      return K.keep_capabilities ? 1 : 0;
    case PR_GET_SECCOMP:
      return K.filter.empty() ? 0 : SECCOMP_MODE_FILTER;
    case PR_SET_DUMPABLE:
      K.dumpable = a2 == 1;
      return 0;
    case PR_SET_KEEPCAPS:
      K.keep_capabilities = a2 == 1;
      return 0;
    case PR_CAPBSET_READ:
      return a2 > last ? -EINVAL : (K.bounding & bit) != 0 ? 1 : 0;
    case PR_CAPBSET_DROP:
      if (!K.has(CAP_SETPCAP)) return -EPERM;
      if (a2 > last) return -EINVAL;
      K.bounding &= ~bit;
      return 0;
    case PR_CAP_AMBIENT:
      if (a2 != PR_CAP_AMBIENT_RAISE || a3 > last) return -EINVAL;
      if ((K.permitted & K.inheritable & (std::uint64_t{1} << a3)) == 0) return -EPERM;
      K.ambient |= std::uint64_t{1} << a3;
      return 0;
    case PR_SET_PDEATHSIG:
      K.death_signal = a2 == SIGKILL;
      K.parent_seen = false;
      return 0;
    default:
      broken("prctl is called for what the helper has no use for");
  }
}

void install_filter(const sock_fprog* program) {
  const std::vector<sock_filter> filter(program->filter, program->filter + program->len);
  hold(K.who == Who::kHelper && K.cloned, "the helper locks itself after its child is cloned");
  K.filter = filter;
  // The same program was looked at in another run.
  static std::vector<sock_filter> seen;
  const auto same = [](const sock_filter& a, const sock_filter& b) {
    return a.code == b.code && a.jt == b.jt && a.jf == b.jf && a.k == b.k;
  };
  if (std::equal(seen.begin(), seen.end(), filter.begin(), filter.end(), same)) return;
  seen = filter;
#ifdef __x86_64__
  constexpr std::array kNever{SYS_execve,       SYS_execveat,  SYS_fork,   SYS_vfork,
                              SYS_clone,        SYS_clone3,    SYS_socket, SYS_socketpair,
                              SYS_connect,      SYS_ptrace,    SYS_bpf,    SYS_unshare,
                              SYS_mount,        SYS_open,      SYS_kill,   SYS_process_vm_writev,
                              SYS_pidfd_getfd,  SYS_seccomp,   SYS_keyctl, SYS_init_module,
                              SYS_finit_module, SYS_kexec_load};
  for (const long nr : kNever)
    hold(!K.allowed_by_filter(nr, AUDIT_ARCH_X86_64),
         "the filter allows no exec, no fork, no new socket");
  for (long nr = 0; nr < 512; ++nr)
    hold(!K.allowed_by_filter(nr, AUDIT_ARCH_I386) &&
             !K.allowed_by_filter(nr | 0x40000000L, AUDIT_ARCH_X86_64),
         "the filter allows no call of another architecture");
#endif
}

// -------------------------------------------------------------------------- devices

std::string hex(const std::uint8_t* bytes, std::size_t count) {
  std::string text;
  for (std::size_t i = 0; i < count; ++i) {
    std::array<char, 3> digits{};
    std::snprintf(digits.data(), digits.size(), "%02x", static_cast<unsigned>(bytes[i]));
    text += digits.data();
  }
  return text;
}

std::uint8_t key_byte(std::size_t i) {
  return static_cast<std::uint8_t>(0xa5U ^ (i * 7));
}

std::string key_hex() {
  std::array<std::uint8_t, 64> key{};
  for (std::size_t i = 0; i < key.size(); ++i) key[i] = key_byte(i);
  return hex(key.data(), key.size());
}

// What the tables must say, by the formats of dm-verity and dm-crypt.
std::string verity_table(const std::string& lower) {
  const auto& g = verdict().verity;
  return "1 " + lower + " " + lower + " 4096 4096 " + std::to_string(g.data_blocks) + " " +
         std::to_string((g.tree_offset - verdict().image_offset) / 4096) + " sha256 " +
         hex(g.root_hash.data(), 32) + " " +
         (g.salt_bytes == 0 ? "-" : hex(g.salt.data(), g.salt_bytes));
}

std::string crypt_table(const std::string& lower) {
  const auto& g = verdict().crypt;
  return "aes-xts-plain64 " + key_hex() + " " + std::to_string(g.iv_offset) + " " + lower + " " +
         std::to_string(g.data_offset / 512) + (g.sector_bytes == 512 ? "" : " 1 sector_size:4096");
}

// What names a loop device of this caller and this state of the file.
std::string loop_name() {
  return "postern " + std::to_string(K.caller_uid()) + " 1234.567";
}

bool is_right_loop(const Loop& l) {
  return l.bound && l.read_only && l.autoclear && l.device == kImageDevice &&
         l.inode == kImageInode && l.offset == verdict().image_offset &&
         l.bytes == verdict().image_bytes && l.name == loop_name();
}

LoopState loop_state(int number) {
  if (number < 0 || number >= 4) return LoopState::kFree;
  return static_cast<LoopState>(K.in.facts.loops[static_cast<std::size_t>(number)] %
                                static_cast<unsigned>(LoopState::kCount_));
}

bool loop_in_range(int number) {
  return number >= 0 && number < static_cast<int>(K.loops.size());
}

Loop another_loop(LoopState state) {
  Loop l{.bound = true, .read_only = true, .autoclear = true};
  l.device = kImageDevice;
  l.inode = kImageInode;
  l.offset = verdict().image_offset;
  l.bytes = verdict().image_bytes;
  l.name = loop_name();
  if (state == LoopState::kOther || state == LoopState::kRacedOther) l.device = kForeignDevice;
  if (state == LoopState::kOther) l.bytes += 4096;
  if (state == LoopState::kWritable) l.read_only = false;
  if (state == LoopState::kOtherExtent) l.offset += 512;
  if (state == LoopState::kOtherInode) ++l.inode;
  if (state == LoopState::kOtherCaller) l.name = "postern 1001 1234.567";
  if (state == LoopState::kOtherTime) l.name += "8";
  return l;
}

// A loop device that was bound before the run, as its state says.
Loop& loop_of(int number) {
  Loop& l = K.loops[static_cast<std::size_t>(number)];
  const LoopState state = loop_state(number);
  const bool unbound = state == LoopState::kFree || state == LoopState::kNoNode ||
                       state == LoopState::kRaced || state == LoopState::kRacedOther;
  if (!l.bound && !unbound) l = another_loop(state);
  return l;
}

bool loop_exists(int number) {
  return loop_in_range(number) && (loop_state(number) != LoopState::kNoNode ||
                                   K.loops[static_cast<std::size_t>(number)].added);
}

long configure_loop(int number, const loop_config& config) {
  Loop& l = loop_of(number);
  hold(K.is(static_cast<int>(config.fd), Kind::kSent), "a loop device shows the request's image");
  const int image = K.at(static_cast<int>(config.fd)).index;
  hold(image == 0, "a loop device shows the root's descriptor");
  const Sent kind = sent_kind(image);
  hold(kind == Sent::kRegular || kind == Sent::kMemfd,
       "an image is a regular file, open for reading, not on FUSE");
  hold(config.info.lo_flags == (LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR),
       "a loop device is read-only and goes with its last user");
  hold(config.info.lo_offset == verdict().image_offset &&
           config.info.lo_sizelimit == verdict().image_bytes,
       "a loop device shows the extent of the verdict");
  if (!admin()) return -EPERM;
  const LoopState state = loop_state(number);
  const bool raced = state == LoopState::kRaced || state == LoopState::kRacedOther;
  if (raced && !l.bound) l = another_loop(state);  // somebody was faster
  if (l.bound) return -EBUSY;
  l = another_loop(LoopState::kSame);
  l.ours = true;
  l.name.assign(reinterpret_cast<const char*>(config.info.lo_file_name));
  hold(l.name == loop_name(), "a loop device is named by its caller and the time of its image");
  return 0;
}

long add_loop(unsigned long request, int number) {
  hold(request == LOOP_CTL_ADD, "loop-control is asked for a new device only");
  if (loop_exists(number)) return -EEXIST;
  if (!loop_in_range(number)) return -ENOSPC;
  K.loops[static_cast<std::size_t>(number)].added = true;
  return number;
}

long control_loop(int fd, unsigned long request, void* argument) {
  // LOOP_CTL_ADD takes a number in the place of a pointer.
  if (K.is(fd, Kind::kLoopControl))
    return add_loop(request, static_cast<int>(reinterpret_cast<std::uintptr_t>(argument)));
  const int number = K.at(fd).index;
  if (request == LOOP_CONFIGURE)
    return configure_loop(number, *static_cast<const loop_config*>(argument));
  hold(request == LOOP_GET_STATUS64, "a loop device is configured or asked, nothing else");
  const Loop& l = loop_of(number);
  if (!l.bound) return -ENXIO;
  auto& info = *static_cast<loop_info64*>(argument);
  info = {};
  info.lo_device = l.device;
  info.lo_inode = l.inode;
  info.lo_offset = l.offset;
  info.lo_sizelimit = l.bytes;
  info.lo_number = static_cast<std::uint32_t>(number);
  info.lo_flags = (l.read_only ? unsigned{LO_FLAGS_READ_ONLY} : 0U) |
                  (l.autoclear ? unsigned{LO_FLAGS_AUTOCLEAR} : 0U);
  l.name.copy(reinterpret_cast<char*>(info.lo_file_name), LO_NAME_SIZE - 1);
  return 0;
}

// The lower device of a table: "7:N" or "253:N", checked to be what is below it in this image.
void hold_table(const Mapping& m) {
  const auto& v = verdict();
  const bool verity = m.type == "verity";
  hold(verity || m.type == "crypt", "mappings are verity or crypt");
  hold(m.sectors == (verity ? v.verity.data_blocks * 8 : v.crypt.data_bytes / 512),
       "a mapping is as long as the verdict says");
  bool good = false;
  for (std::size_t n = 0; n < K.loops.size(); ++n) {
    const std::string lower = "7:" + std::to_string(n);
    if (!is_right_loop(K.loops[n]) || (!verity && v.verity.data_blocks != 0)) continue;
    good = good || m.parameters == (verity ? verity_table(lower) : crypt_table(lower));
  }
  for (std::size_t n = 0; n < K.mappings.size(); ++n) {
    if (verity || K.mappings[n].type != "verity" || !K.mappings[n].live) continue;
    good = good || m.parameters == crypt_table("253:" + std::to_string(n));
  }
  hold(good, "a table says what the verdict says, over the device below");
}

MappingState mapping_state(std::size_t asked) {
  const unsigned packed = K.in.facts.mappings;
  const unsigned digit = asked == 0 ? packed & 15U : asked == 1 ? packed >> 4 : 0;
  return static_cast<MappingState>(digit % static_cast<unsigned>(MappingState::kCount_));
}

Mapping* find_mapping(const dm_ioctl& head) {
  for (std::size_t n = 0; n < K.mappings.size(); ++n) {
    Mapping& m = K.mappings[n];
    if (m.removed) continue;
    if (head.dev != 0 ? head.dev == ((253ULL << 8) | n) : m.name == head.name) return &m;
  }
  return nullptr;
}

// What another start has made of a name that ours asks for, as the input says.
void make_others(const std::string& name, bool late) {
  if (!name.starts_with("postern-") || name.find('-', 8) != std::string::npos) return;
  const auto known = std::find(K.names_asked.begin(), K.names_asked.end(), name);
  const bool first = known == K.names_asked.end();
  const MappingState state = mapping_state(static_cast<std::size_t>(known - K.names_asked.begin()));
  const bool comes_late = state == MappingState::kLate || state == MappingState::kLateUnequal;
  if (first) K.names_asked.push_back(name);
  if (state == MappingState::kNone || late != comes_late || (!late && !first)) return;
  for (const Mapping& m : K.mappings)
    if (m.name == name && !m.removed) return;
  Mapping other{.name = name};
  const std::string lower = name.substr(8);
  const bool crypt = verdict().crypt.data_bytes != 0 &&
                     (verdict().verity.data_blocks == 0 || lower.starts_with("253:"));
  other.type = crypt == (state != MappingState::kOtherType) ? "crypt" : "verity";
  other.parameters = crypt ? crypt_table(lower) : verity_table(lower);
  if (state == MappingState::kUnequal || state == MappingState::kLateUnequal)
    other.parameters[20] = other.parameters[20] == '0' ? '1' : '0';
  other.sectors = crypt ? verdict().crypt.data_bytes / 512 : verdict().verity.data_blocks * 8;
  if (state == MappingState::kOtherLength) other.sectors += 8;
  other.live = other.loaded = state != MappingState::kNoTable;
  other.read_only = state != MappingState::kWritable;
  other.suspended = state == MappingState::kSuspended;
  other.targets = state == MappingState::kTwoTargets ? 2 : 1;
  other.armed = true;
  K.mappings.push_back(other);
}

long create_mapping(dm_ioctl& head) {
  const std::string name = head.name;
  hold(name.starts_with("postern-") && name.find('-', 8) != std::string::npos,
       "a mapping that is being made has a name of its own");
  if (find_mapping(head) != nullptr) return -EBUSY;
  K.mappings.push_back({.name = name, .ours = true});
  head.dev = (253ULL << 8) | (K.mappings.size() - 1);
  return 0;
}

long rename_mapping(const Mapping& m, const std::string& name) {
  const auto own = static_cast<std::size_t>(&m - K.mappings.data());
  hold(m.ours && m.live && m.armed, "a mapping gets its shared name when it is whole");
  hold(name.starts_with("postern-") && name.find('-', 8) == std::string::npos,
       "the shared name of a mapping is that of the device below");
  make_others(name, true);  // may move `m`
  for (const Mapping& other : K.mappings)
    if (other.name == name && !other.removed) return -EBUSY;
  K.mappings[own].name = name;
  return 0;
}

void tell_mapping(dm_ioctl& head, const Mapping& m) {
  head.flags = (m.live ? DM_ACTIVE_PRESENT_FLAG : 0U) | (m.read_only ? DM_READONLY_FLAG : 0U) |
               (m.suspended ? DM_SUSPEND_FLAG : 0U);
  head.target_count = m.live ? m.targets : 0;
}

// dm-ioctl.h: each name behind its number and the distance to the next, which starts at a multiple
// of 8.
long list_mappings(const dm_ioctl& head, char* to) {
  std::size_t at = 0;
  for (std::size_t n = 0; n < K.mappings.size(); ++n) {
    if (K.mappings[n].removed) continue;
    const std::string& name = K.mappings[n].name;
    const std::size_t bytes = (offsetof(dm_name_list, name) + name.size() + 8) / 8 * 8;
    if (head.data_start + at + bytes > head.data_size) return -ENOSPC;
    dm_name_list entry{.dev = (253ULL << 8) | n, .next = static_cast<std::uint32_t>(bytes)};
    bool last = true;
    for (std::size_t more = n + 1; more < K.mappings.size(); ++more)
      last = last && K.mappings[more].removed;
    if (last) entry.next = 0;
    std::memcpy(to + at, &entry, offsetof(dm_name_list, name));
    std::memcpy(to + at + offsetof(dm_name_list, name), name.c_str(), name.size() + 1);
    at += bytes;
  }
  return 0;
}

// One that another start left: only for good, only if its maker is gone, only if nobody uses it.
long remove_left(Mapping& m, std::uint32_t flags) {
  const std::size_t dash = m.name.find('-', 8);
  hold((flags & DM_DEFERRED_REMOVE) == 0 && dash != std::string::npos,
       "of other starts, only what they could not arm is removed");
  const long maker = std::stol(m.name.substr(dash + 1));
  hold(std::find(K.locked.begin(), K.locked.end(), maker) != K.locked.end(),
       "no mapping of another start is removed while its maker is there");
  if (m.opened > 0) return -EBUSY;
  m.removed = true;
  return 0;
}

long control_mapping(unsigned long request, void* argument) {
  auto& head = *static_cast<dm_ioctl*>(argument);
  hold(head.version[0] == DM_VERSION_MAJOR, "a request to device-mapper names its version");
  if (!admin()) return -EPERM;
  if (request == DM_LIST_DEVICES)
    return list_mappings(head, static_cast<char*>(argument) + head.data_start);
  if (request == DM_DEV_CREATE) return create_mapping(head);
  if (head.dev == 0) make_others(head.name, false);
  Mapping* const m = find_mapping(head);
  if (m == nullptr) return -ENXIO;
  // Every answer tells the number of the device.
  head.dev = (253ULL << 8) | static_cast<std::uint64_t>(m - K.mappings.data());
  auto* const bytes = static_cast<char*>(argument) + head.data_start;
  auto& target = *reinterpret_cast<dm_target_spec*>(bytes);
  char* const parameters = bytes + sizeof target;
  if (request == DM_TABLE_LOAD) {
    hold(m->ours, "no table is loaded into a mapping of another start");
    hold((head.flags & DM_READONLY_FLAG) != 0, "mappings are read-only");
    m->type = target.target_type;
    m->sectors = target.length;
    m->parameters = parameters;
    m->read_only = true;
    if (m->type == "crypt") {
      hold((head.flags & DM_SECURE_DATA_FLAG) != 0, "the kernel is told to wipe its copy of a key");
      const auto begin = reinterpret_cast<std::uintptr_t>(argument);
      K.secrets.push_back({begin + head.data_start,
                           begin + head.data_start + sizeof target + m->parameters.size()});
    }
    hold(head.target_count == 1 && target.sector_start == 0, "a table has one target");
    hold_table(*m);
    m->loaded = true;
    return 0;
  }
  if (request == DM_DEV_REMOVE) {
    if ((head.flags & DM_DEFERRED_REMOVE) == 0) return remove_left(*m, head.flags);
    hold(m->ours, "no mapping of another start is removed");
    hold((head.flags & DM_DEFERRED_REMOVE) != 0, "a mapping is removed when its last user is gone");
    (m->opened > 0 ? m->armed : m->removed) = true;
    return 0;
  }
  if (request == DM_DEV_SUSPEND) {
    hold(m->ours && (head.flags & DM_SUSPEND_FLAG) == 0,
         "only a mapping of ours is resumed, none is suspended");
    hold(m->armed, "a mapping is armed for removal before it goes live");
    m->live = m->loaded;
    return 0;
  }
  if (request == DM_DEV_RENAME) return rename_mapping(*m, bytes);
  tell_mapping(head, *m);
  if (request == DM_DEV_STATUS) return 0;
  hold(request == DM_TABLE_STATUS,
       "device-mapper is asked to create, load, arm, resume, name and tell, nothing else");
  if (!m->live) return 0;
  if (head.data_start + sizeof target + m->parameters.size() + 1 > head.data_size) {
    head.flags |= DM_BUFFER_FULL_FLAG;
    return 0;
  }
  target = {.sector_start = 0, .length = m->sectors, .status = 0, .next = 0, .target_type = {}};
  std::strncpy(target.target_type, m->type.c_str(), sizeof target.target_type - 1);
  std::memcpy(parameters, m->parameters.c_str(), m->parameters.size() + 1);
  if (m->type == "crypt") {
    const auto begin = reinterpret_cast<std::uintptr_t>(parameters);
    K.secrets.push_back({begin, begin + m->parameters.size()});
  }
  return 0;
}

// The device that the root is mounted from must be the topmost of its stack.
void hold_source(const std::string& source) {
  const auto& v = verdict();
  const int loop = number_after(source, "/dev/loop"), mapping = number_after(source, "/dev/dm-");
  if (v.verity.data_blocks == 0 && v.crypt.data_bytes == 0) {
    hold(loop_in_range(loop) && is_right_loop(K.loops[static_cast<std::size_t>(loop)]),
         "a plain image is mounted from its loop device");
    return;
  }
  hold(mapping >= 0 && mapping < static_cast<int>(K.mappings.size()),
       "a sealed or encrypted image is mounted from its mapping");
  const Mapping& m = K.mappings[static_cast<std::size_t>(mapping)];
  hold(m.type == (v.crypt.data_bytes != 0 ? "crypt" : "verity") && m.live && m.armed &&
           m.read_only && !m.suspended && m.targets == 1,
       "the topmost mapping is mounted, live and armed for removal");
  hold_table(m);
}

// --------------------------------------------------------------------------- mounts

long configure_context(int fd, unsigned command, const char* key, const char* value) {
  if (!K.is(fd, Kind::kContext)) return -EBADF;
  Context& c = K.contexts[static_cast<std::size_t>(K.at(fd).index)];
  if (command == FSCONFIG_SET_STRING || command == FSCONFIG_SET_FLAG) {
    c.options.emplace_back(key, command == FSCONFIG_SET_STRING ? value : "");
    return 0;
  }
  hold(command == FSCONFIG_CMD_CREATE, "a file system gets options and is created, nothing else");
  if (!admin()) return -EPERM;
  const auto option = [&](std::string_view name) -> const std::string* {
    for (const auto& [k, v] : c.options)
      if (k == name) return &v;
    return nullptr;
  };
  if (c.type == "squashfs") {
    hold(option("source") != nullptr && option("ro") != nullptr,
         "an image is mounted read-only from a device");
    hold_source(*option("source"));
  } else if (c.type == "fuse") {
    const std::string* const number = option("fd");
    hold(number != nullptr && is_number(*number) && option("allow_other") == nullptr &&
             option("default_permissions") != nullptr,
         "a FUSE root is the caller's alone");
    hold(*option("user_id") == std::to_string(K.caller_uid()) &&
             *option("group_id") == std::to_string(K.caller_gid()),
         "a FUSE root belongs to the caller");
    if (!K.is(std::stoi(*number), Kind::kSent) ||
        sent_kind(K.at(std::stoi(*number)).index) != Sent::kFuse)
      return -EINVAL;
  } else if (c.type == "overlay") {
    hold(option("redirect_dir") != nullptr && *option("redirect_dir") == "nofollow" &&
             option("metacopy") != nullptr && *option("metacopy") == "off",
         "an image's overlay attributes lead nowhere");
    hold(option("upperdir") != nullptr && *option("upperdir") == "rw/upper" &&
             *option("workdir") == "rw/work",
         "the upper layer is on the helper's own tmpfs");
    std::string lower;
    for (std::size_t i = verdict().layer_count; i-- > 0;) {
      lower += static_cast<char>('a' + i);
      lower += i == 0 ? "" : ":";
    }
    hold(*option("lowerdir") == lower,
         "the layers of an overlay are the verdict's, the root the lowest");
    hold((K.effective & ~kForMounting) == 0,
         "copy-up acts with the capabilities for mounting alone");
    // The overlay keeps what is effective now: it may lie over nothing that the caller does not
    // reach without it.
    for (std::size_t i = 0; i < verdict().layer_count; ++i)
      hold(K.effective == 0 || sent_kind(verdict().layers[i].descriptor) != Sent::kDirectory,
           "an overlay lends its mounter's capabilities over no directory of the host");
  } else {
    hold(c.type == "tmpfs" || c.type == "devpts" || c.type == "mqueue" ||
             (K.who == Who::kPayload && (c.type == "proc" || c.type == "sysfs")),
         "file systems are those of helper/mounts.cc");
    for (const auto& [k, v] : c.options)
      hold(is_component(k) && (v.empty() || v.find_first_not_of("0123456789") == std::string::npos),
           "options of our own file systems are numbers");
  }
  if (c.type != "overlay" && K.who == Who::kHelper && K.ids_taken)
    hold((K.effective & ~(1ULL << CAP_SYS_ADMIN)) == 0, "mounts are made with CAP_SYS_ADMIN alone");
  c.created = true;
  return 0;
}

// Whether a mount may show device nodes: the host's /dev, one node of it, a fresh devpts.
bool may_show_devices(const Mount& m) {
  if (m.type == "devpts" || m.path == "/dev") return true;
  const OperationEntry* const e = m.sent >= 0 ? operation_of(m.sent) : nullptr;
  return e != nullptr && e->operation == Operation::kDevice && sent_kind(m.sent) == Sent::kNode &&
         K.in.facts.node_device % 3 != 2;
}

void hold_attributes(const Mount& m) {
  hold((m.all & MOUNT_ATTR_NOSUID) != 0, "every mount is nosuid, with all that came along");
  hold((m.all & MOUNT_ATTR_NODEV) != 0 || may_show_devices(m),
       "every mount is nodev but those of the host's device nodes");
  hold(m.type != "clone" || m.slave, "a clone is out of its peer group before it is attached");
  if (m.type == "squashfs" || m.type == "fuse")
    hold((m.all & MOUNT_ATTR_RDONLY) != 0, "image roots are read-only");
  const OperationEntry* const e = m.sent >= 0 ? operation_of(m.sent) : nullptr;
  if (e != nullptr && e->operation == Operation::kBind && (e->flags & postern::kReadOnly) != 0)
    hold((m.all & MOUNT_ATTR_RDONLY) != 0,
         "what is to be bound read-only is, with all that came along");
  if (e == nullptr && m.sent >= 0 && (verdict().writable == 0 || verdict().overlay == 1))
    hold((m.all & MOUNT_ATTR_RDONLY) != 0, "a directory that serves as a layer is read-only");
}

long attach(Mount& m, int target, std::string_view path) {
  hold_mounting();
  hold(m.type != "proc" || (m.all & MOUNT_ATTR_NOEXEC) != 0, "a procfs of ours is noexec");
  hold_attributes(m);
  if (m.attached) return -EINVAL;
  if (target != AT_FDCWD) {
    hold(K.is(target, Kind::kPlace) && path.empty(),
         "operations are mounted on places inside the new root");
    m.attached = true;
    return 0;
  }
  if (K.who == Who::kPayload) {
    hold(K.furnished_root, "nothing is mounted in a namespace that still propagates to the host");
    hold((m.type == "proc" && path == "/proc") || (m.type == "sysfs" && path == "/sys"),
         "namespaces are furnished with procfs and sysfs");
    m.attached = true;
    return 0;
  }
  if (path == "/") {
    hold(m.type == "tmpfs" && !K.session_attached, "the session is a tmpfs of ours");
    K.session_attached = true;
  } else {
    if (K.cwd != Cwd::kSession) return -ENOENT;
    if (!K.session_attached) return -EINVAL;  // a detached tree (move_mount(2), before Linux 6.15)
    hold(is_layer_name(path) || path == "top" || path == "rw", "paths of mounts are constants");
    hold(path != "top" || m.type == "overlay", "what is called top is the overlay");
    if (path == "top") K.top_attached = true;
    if (path == "a") K.root_attached = true;
  }
  m.attached = true;
  return 0;
}

// The session, from "/" into the old root, so that one umount2(2) detaches both.
long lower_session(int target, std::string_view path) {
  hold_mounting();
  hold(target == AT_FDCWD && path == "/proc" && !K.pivoted,
       "what is moved is the session, into the old root");
  if (K.cwd != Cwd::kSession || !K.session_attached) return -EINVAL;
  K.session_lowered = true;
  return 0;
}

// Mounts that are stacked on the new root once it is the root.
unsigned covering() {
  return K.session_lowered ? 1 : 2;
}

bool inside_target(std::string_view path) {
  if (path == "/") return true;
  for (std::size_t i = 0; i < verdict().operation_count; ++i) {
    const std::string_view target(&verdict().arena[verdict().operations[i].target]);
    if (target.starts_with(path) && (target.size() == path.size() || target[path.size()] == '/'))
      return true;
  }
  return false;
}

long open_in_root(int root, std::string_view path, const open_how& how) {
  hold(K.is(root, Kind::kPlace) && K.at(root).top, "targets are looked up from the new root");
  hold(how.resolve == (RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS) && (how.flags & O_CLOEXEC) != 0 &&
           (how.flags & O_PATH) != 0,
       "a target is looked up inside the root, without magic links");
  hold(inside_target(path), "only targets of the verdict are looked up");
  hold((std::string(path) + "/").find("/../") == std::string::npos, "no target leads upwards");
  hold(is_callers() && (K.effective & ~(1ULL << CAP_SYS_ADMIN)) == 0,
       "targets are looked up with the caller's rights");
  const unsigned n = K.lookups++ % 32;
  const bool made = std::find(K.created.begin(), K.created.end(), path) != K.created.end();
  if (path != "/" && !made && ((K.in.facts.missing >> n) & 1) != 0) {
    K.created.emplace_back("?" + std::string(path));
    return -ENOENT;
  }
  const int fd = K.add(Kind::kPlace, true);
  K.at(fd).on_overlay = verdict().overlay == 1 && ((K.in.facts.elsewhere >> n) & 1) == 0;
  return fd;
}

// mkdirat(2) and mknodat(2): on the session, on the overlay with capabilities, elsewhere as the
// caller.
long make_entry(int parent, const char* name, mode_t mode) {
  hold_mounting();
  hold((K.mask & 077) == 022, "what is made has the modes that the helper asks for");
  if (parent == AT_FDCWD) {
    hold(S_ISDIR(mode), "what is made in the session by its path is a directory");
    const std::string_view n(name);
    hold(is_layer_name(n) || n == "top" || n == "rw" || n == "rw/upper" || n == "rw/work",
         "names in the session are constants");
    return K.cwd == Cwd::kSession ? 0 : -EACCES;  // "/", as the caller
  }
  hold(is_component(name),
       "a mount point is made by its name, in the directory that was looked up");
  hold(S_ISDIR(mode) || S_ISREG(mode), "mount points are directories and empty files");
  if (!K.is(parent, Kind::kPlace)) return -EBADF;
  hold(K.at(parent).on_overlay || K.effective == 0,
       "no privilege is effective when writing outside our own overlay");
  hold((K.effective & ~kForMounting) == 0,
       "mount points are made with the capabilities for mounting alone");
  for (std::string& path : K.created)
    if (path.starts_with("?") && path.ends_with(std::string("/") + name)) path.erase(0, 1);
  return 0;
}

// unlinkat(2): a link of the image that leads nowhere, where a mount point must be.
long remove_entry(int parent, const char* name, int flags) {
  hold_mounting();
  hold(is_component(name) && flags == 0, "what is removed is a name, and no directory");
  if (!K.is(parent, Kind::kPlace)) return -EBADF;
  hold(K.at(parent).on_overlay, "nothing is removed outside our own overlay");
  hold((K.effective & ~kForMounting) == 0,
       "a link is removed with the capabilities for mounting alone");
  return 0;
}

void fill(struct stat* status, mode_t mode, dev_t device, ino_t inode = 2, dev_t rdev = 0) {
  *status = {};
  status->st_mode = mode;
  status->st_dev = device;
  status->st_ino = inode;
  status->st_rdev = rdev;
}

long stat_descriptor(int fd, struct stat* status) {
  const Descriptor& d = K.at(fd);
  switch (d.kind) {
    case Kind::kClosed:
      return -EBADF;
    case Kind::kSent: {
      const Sent kind = sent_kind(d.index);
      const auto node = K.in.facts.node_device % 3;
      const mode_t mode = kind == Sent::kDirectory                        ? S_IFDIR | 0755
                          : kind == Sent::kNode || kind == Sent::kFuse    ? S_IFCHR | 0666
                          : kind == Sent::kPipe || kind == Sent::kNetwork ? S_IFIFO | 0600
                                                                          : S_IFREG | 0644;
      const dev_t where = kind != Sent::kNode ? kImageDevice
                          : node == 0         ? kDevtmpfs
                          : node == 1         ? kDevpts
                                              : kForeignDevice;
      fill(status, mode, where, d.index == 0 ? kImageInode : 100U + static_cast<unsigned>(d.index));
      status->st_ctim = {.tv_sec = 1234, .tv_nsec = 567};
      return 0;
    }
    case Kind::kLoop:
      fill(status, S_IFBLK | 0660, kDevtmpfs, 3, (7U << 8) | static_cast<unsigned>(d.index));
      return 0;
    case Kind::kMapping:
      fill(status, S_IFBLK | 0660, kDevtmpfs, 4, (253U << 8) | static_cast<unsigned>(d.index));
      return 0;
    case Kind::kPlace: {
      const bool session = d.top && verdict().overlay == 1 && !K.top_attached;
      fill(status, S_IFDIR | 0755,
           session        ? kSessionDevice
           : d.on_overlay ? kOverlayDevice
                          : kForeignDevice);
      return 0;
    }
    case Kind::kNull:
    case Kind::kStandard:
    case Kind::kSocket:
    case Kind::kRequest:
    case Kind::kExtra:
    case Kind::kJudgeFile:
    case Kind::kChannel:
    case Kind::kPid:
    case Kind::kLoopControl:
    case Kind::kDmControl:
    case Kind::kContext:
    case Kind::kMount:
    case Kind::kFile:
    case Kind::kSize:
    case Kind::kLog:
      break;
  }
  broken("only sent descriptors, devices and places are asked for their status");
}

long open_constant(std::string_view path, int flags) {
  hold((flags & O_CLOEXEC) != 0, "what the helper opens is closed by exec");
  if (path == "/dev/null") return K.add(Kind::kNull, true);
  hold(K.who == Who::kHelper && K.cloned,
       "only the helper opens devices, after its child is cloned");
  if (path == "top" || path == "a") {
    hold((flags & O_PATH) != 0 && (flags & O_DIRECTORY) != 0, "the new root is opened as a place");
    if (K.cwd != Cwd::kSession) return -ENOENT;
    const int fd = K.add(Kind::kPlace, true);
    K.at(fd).top = true;
    K.at(fd).on_overlay = path == "top" && K.top_attached;
    return fd;
  }
  if (is_number(path)) {
    hold((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL),
         "generated files are new files of the session");
    if (K.cwd != Cwd::kSession) return -EACCES;
    K.file_sent = 0;
    return K.add(Kind::kFile, true);
  }
  hold(!K.in_child_namespace && (K.has(CAP_DAC_OVERRIDE) || K.lied),
       "devices are opened with the right to, in the host's namespace");
  if (path == "/dev/loop-control") return K.add(Kind::kLoopControl, true);
  if (path == "/dev/mapper/control") return K.add(Kind::kDmControl, true);
  if (const int n = number_after(path, "/dev/loop"); n >= 0) {
    hold((flags & O_ACCMODE) == O_RDONLY, "devices are opened for reading");
    if (!loop_exists(n)) return -ENOENT;
    const Loop& l = loop_of(n);
    hold(!l.bound || l.bytes == verdict().image_bytes || !K.in.faults.empty(),
         "a loop device of another size, whose file system may hang, is not opened");
    return K.add(Kind::kLoop, true, n);
  }
  if (path.starts_with("/sys/block/loop") && path.ends_with("/size")) {
    const int n = number_after(path.substr(0, path.size() - 5), "/sys/block/loop");
    hold(n >= 0 && (flags & O_ACCMODE) == O_RDONLY,
         "paths that are opened are constants and device numbers");
    return loop_exists(n) ? K.add(Kind::kSize, true, n) : -ENOENT;
  }
  const int n = number_after(path, "/dev/dm-");
  hold(n >= 0 && (flags & O_ACCMODE) == O_RDONLY,
       "paths that are opened are constants and device numbers");
  if (n >= static_cast<int>(K.mappings.size()) || K.mappings[static_cast<std::size_t>(n)].removed)
    return -ENOENT;
  ++K.mappings[static_cast<std::size_t>(n)].opened;
  return K.add(Kind::kMapping, true, n);
}

// -------------------------------------------------------------------------- the peers

// What the frontend sent: a byte, the request, its descriptors; or something else.
long receive(msghdr* message) {
  hold(K.alarm_set && !K.signals_blocked, "one deadline bounds whatever a peer does");
  hold(K.mask == 022, "the caller's umask does not count");
  hold((::environ == nullptr), "the caller's environment is dropped before anything else");
  hold(K.signals_default == (1ULL << (SIGALRM - 1) | 1ULL << (SIGCHLD - 1)),
       "the signals that the helper waits for are not ignored, and no other is touched");
  hold(K.timers_off == ((1U << ITIMER_REAL) | (1U << ITIMER_VIRTUAL) | (1U << ITIMER_PROF)),
       "the caller's timers do not count");
  hold(K.lifted_limits == kLimitsThatCount || !K.in.faults.empty(),
       "the caller's resource limits do not count");
  hold(K.in.facts.peer == 0 || K.in.facts.peer == 3,
       "only the caller's own process, which started the helper, is listened to");
  hold(K.no_new_privs, "no process of ours can gain privileges by exec");
  hold(K.effective == 0 && (K.permitted & ~kListening) == 0,
       "while the helper listens, no capability is effective and few are left");
  hold((K.death_signal && K.parent_seen) || K.lied, "no helper outlives its frontend");
  for (int fd = 4 + static_cast<int>(K.delivered); fd < static_cast<int>(K.table.size()); ++fd)
    hold(K.is(fd, Kind::kClosed), "inherited descriptors are closed before others come");
  hold(!K.received, "nothing is awaited behind the last datagram");
  const unsigned shape = K.in.facts.message % 8;
  if (shape == 1) return 0;
  const std::size_t all = 1 + K.in.descriptors;
  const std::size_t count =
      (K.in.facts.message & 8) != 0 && K.delivered == 0 && all > 1 ? all / 2 : all - K.delivered;
  const std::size_t bytes = CMSG_LEN(sizeof(int) * count);
  hold(message->msg_controllen >= bytes, "the control buffer takes all descriptors of a request");
  auto* const rights = static_cast<cmsghdr*>(message->msg_control);
  message->msg_controllen = shape == 5 ? 0 : bytes;
  message->msg_flags = shape == 2 ? MSG_TRUNC : shape == 3 ? MSG_CTRUNC : 0;
  rights->cmsg_len = bytes;
  rights->cmsg_level = shape == 6 ? 6 : SOL_SOCKET;
  rights->cmsg_type = shape == 4 ? SCM_CREDENTIALS : SCM_RIGHTS;
  if (shape == 4) rights->cmsg_len = CMSG_LEN(sizeof(ucred));
  for (std::size_t i = 0; i < count; ++i) {
    const int fd = K.delivered == 0 ? K.add(Kind::kRequest, false)
                                    : K.add(Kind::kSent, false, static_cast<int>(K.delivered) - 1);
    ++K.delivered;
    std::memcpy(CMSG_DATA(rights) + i * sizeof fd, &fd, sizeof fd);
  }
  if (K.in.facts.extra_descriptor) K.add(Kind::kExtra, false);
  K.received = K.delivered == all;
  *static_cast<char*>(message->msg_iov[0].iov_base) = K.received ? 0 : 1;
  return 1;
}

long read_judge(void* to, std::size_t bytes) {
  g_statics.erase(std::remove_if(g_statics.begin(), g_statics.end(),
                                 [&](const auto& s) { return s.first == to; }),
                  g_statics.end());
  g_statics.emplace_back(to, bytes);
  // As much as is used, in one piece (protocol/verdict.h).
  const auto* const whole = reinterpret_cast<const char*>(&verdict());
  std::string wire(whole,
                   offsetof(Verdict, operations) +
                       std::min<std::size_t>(verdict().operation_count, postern::kMaxOperations) *
                           sizeof(postern::OperationEntry));
  wire.append(verdict().arena.data(),
              std::min<std::size_t>(verdict().arena_bytes, postern::kArenaBytes));
  std::size_t given = std::min(bytes, wire.size());
  if (K.in.facts.judge_end % 8 == 4) given /= 2;
  given -= std::min(given, K.short_by);
  std::memcpy(to, wire.data(), given);
  if (K.in.facts.judge_end % 8 == 5 && given >= 4) std::memset(to, 0, 4);
  return static_cast<long>(given);
}

// What the helper reads of its child, or the child of the helper.
long read_channel(void* to, std::size_t bytes) {
  const Facts& f = K.in.facts;
  if (K.who == Who::kHelper) {
    hold(bytes == sizeof(postern::Error), "the child's state is read whole");
    hold(K.alarm_set && !K.signals_blocked, "one deadline bounds whatever a peer does");
    if (f.child_answer % 4 == 1) return 0;
    postern::Error state{};
    if (f.child_answer % 4 == 2) state = {.err = EPERM, .op = postern::Op::kHostname};
    K.child_furnished = true;
    K.child_error = state.err;
    std::memcpy(to, &state, sizeof state);
    return sizeof state;
  }
  hold(K.who == Who::kPayload && K.state_written && bytes == 8,
       "the child waits for its release after it told its state");
  hold(K.uid.real == K.caller_uid() && K.no_new_privs &&
           (K.permitted & ~verdict().capabilities) == 0,
       "the child that waits has no privilege");
  // A helper releases no child that could not furnish its namespaces.
  if (f.release % 8 == 1 || K.state_error != 0) return 0;
  K.release_id = f.release % 8 == 2 ? 0 : kNewRoot;
  K.release_read = true;
  std::memcpy(to, &K.release_id, sizeof K.release_id);
  return 8;
}

long write_channel(const void* from, std::size_t bytes) {
  hold(bytes == 8, "the channel carries a state, then a mount id");
  if (K.who == Who::kPayload) {
    postern::Error state{};
    std::memcpy(&state, from, sizeof state);
    K.state_error = state.err;
    K.state_written = true;
    return 8;
  }
  std::memcpy(&K.released_id, from, sizeof K.released_id);
  hold(K.replied && K.reply.err == 0 && K.reply.refusal == 0 && K.reply.pid == kPayloadPid,
       "the frontend knows of the payload before it runs");
  hold(K.pivoted && K.uncovered == covering() && K.released_id == kNewRoot,
       "what is released is the new root");
  hold(K.effective == 0 && K.inheritable == 0,
       "no capability is effective when the payload starts");
  hold(verdict().writable == 1 || K.sealed,
       "a root that is not writable is sealed before it is released");
  K.released = true;
  return 8;
}

std::uint64_t mount_id(std::string_view path) {
  hold(path == "/" || path == "/.." || path == ".",
       "mount ids are those of the root and the working directory");
  if (K.who == Who::kPayload) {
    const unsigned f = K.in.facts.release % 8;
    const bool released = K.release_read;
    const std::uint64_t root = f == 3 ? kChildRoot : f == 4 ? kOldRoot : kNewRoot;
    const std::uint64_t id = !released                                         ? kChildRoot
                             : path == "." && (f == 5 || K.cwd != Cwd::kSlash) ? kChildRoot
                                                                               : root;
    if (path == "/") K.seen_root = released, K.root_id_seen = id;
    if (path == ".") K.seen_cwd = released && id == K.root_id_seen;
    return id;
  }
  if (!K.in_child_namespace) return kHostRoot;
  if (path == ".") return K.cwd == Cwd::kTop || K.cwd == Cwd::kDetached ? kNewRoot : kChildRoot;
  if (!K.pivoted) return kChildRoot;
  return path == "/.." && K.uncovered < covering() ? kOldRoot : kNewRoot;
}

}  // namespace

// ---------------------------------------------------------------- the calls: ids, processes

WRAPPED(int, setresuid, uid_t r, uid_t e, uid_t s) {
  if (g_kernel == nullptr) return __real_setresuid(r, e, s);
  return static_cast<int>(
      K.call(SYS_setresuid, [&] { return change_ids(K.uid, r, e, s, CAP_SETUID, true); }, true));
}

WRAPPED(int, setresgid, gid_t r, gid_t e, gid_t s) {
  if (g_kernel == nullptr) return __real_setresgid(r, e, s);
  return static_cast<int>(
      K.call(SYS_setresgid, [&] { return change_ids(K.gid, r, e, s, CAP_SETGID, false); }, true));
}

WRAPPED(int, getresuid, uid_t* r, uid_t* e, uid_t* s) {
  if (g_kernel == nullptr) return __real_getresuid(r, e, s);
  return static_cast<int>(K.call(
      SYS_getresuid, [&] { return *r = K.uid.real, *e = K.uid.effective, *s = K.uid.saved, 0L; }));
}

WRAPPED(int, getresgid, gid_t* r, gid_t* e, gid_t* s) {
  if (g_kernel == nullptr) return __real_getresgid(r, e, s);
  return static_cast<int>(K.call(
      SYS_getresgid, [&] { return *r = K.gid.real, *e = K.gid.effective, *s = K.gid.saved, 0L; }));
}

WRAPPED(uid_t, getuid, void) {
  if (g_kernel == nullptr) return __real_getuid();
  return static_cast<uid_t>(K.call(SYS_getuid, [&] { return long{K.uid.real}; }, false, false));
}

WRAPPED(gid_t, getgid, void) {
  if (g_kernel == nullptr) return __real_getgid();
  return static_cast<gid_t>(K.call(SYS_getgid, [&] { return long{K.gid.real}; }, false, false));
}

WRAPPED(int, getgroups, int size, gid_t* list) {
  if (g_kernel == nullptr) return __real_getgroups(size, list);
  return static_cast<int>(K.call(SYS_getgroups, [&]() -> long {
    const int count = K.groups_dropped ? 0 : K.in.facts.groups;
    if (size == 0) return count;
    if (size < count) return -EINVAL;
    for (int i = 0; i < count; ++i) list[i] = 2000U + static_cast<unsigned>(i);
    return count;
  }));
}

WRAPPED(pid_t, getpid, void) {
  if (g_kernel == nullptr) return __real_getpid();
  return static_cast<pid_t>(K.call(SYS_getpid, [&] { return long{kHelperPid}; }, false, false));
}

WRAPPED(pid_t, getppid, void) {
  if (g_kernel == nullptr) return __real_getppid();
  return static_cast<pid_t>(K.call(
      SYS_getppid,
      [&]() -> long {
        const bool gone = K.who == Who::kJudge && K.in.facts.helper_gone;
        K.parent_seen = K.death_signal && !gone;
        if (K.who == Who::kPayload)
          return (verdict().namespaces & CLONE_NEWPID) != 0 ? 0 : kFrontendPid;
        return gone ? 1 : K.who == Who::kJudge ? kHelperPid : kFrontendPid;
      },
      false, false));
}

WRAPPED(int, prctl, int option, ...) {
  va_list list;
  va_start(list, option);
  const auto a2 = va_arg(list, unsigned long), a3 = va_arg(list, unsigned long),
             a4 = va_arg(list, unsigned long), a5 = va_arg(list, unsigned long);
  va_end(list);
  if (g_kernel == nullptr) return __real_prctl(option, a2, a3, a4, a5);
  const bool question = option == PR_GET_NO_NEW_PRIVS || option == PR_CAPBSET_READ ||
                        option == PR_GET_KEEPCAPS || option == PR_GET_SECCOMP;
  // No exit status tells the last capability but this failure (capabilities(7)).
  return static_cast<int>(K.call(
      SYS_prctl,
      [&]() -> long {
        if (option != PR_SET_SECCOMP) return control_process(option, a2, a3);
        hold(a2 == SECCOMP_MODE_FILTER, "the lock is a filter");
        if (!K.no_new_privs && !K.has(CAP_SYS_ADMIN)) return -EACCES;
        install_filter(reinterpret_cast<const sock_fprog*>(a3));
        return 0;
      },
      !question, !question));
}

WRAPPED(pid_t, fork, void) {
  if (g_kernel == nullptr) return __real_fork();
  return static_cast<pid_t>(K.call(SYS_clone, [&]() -> long {
    hold(K.who == Who::kHelper && !K.judged && K.received, "the helper forks once, for the judge");
    K.judged = true;
    if (K.in.facts.follow != Who::kJudge) return kJudgePid;
    K.become(Who::kJudge);
    return 0;
  }));
}

WRAPPED(pid_t, waitpid, pid_t pid, int* status, int options) {
  if (g_kernel == nullptr) return __real_waitpid(pid, status, options);
  return static_cast<pid_t>(K.call(SYS_wait4, [&]() -> long {
    hold(pid == kJudgePid && options == 0 && K.judged, "only the judge is waited for");
    hold(K.effective == 0, "while the judge decides, no capability is effective");
    hold(K.alarm_set && !K.signals_blocked, "one deadline bounds whatever a peer does");
    switch (K.in.facts.judge_end % 8) {
      case 1:
        *status = 1 << 8;
        break;
      case 2:
        *status = SIGKILL;
        break;
      case 3:
        return -EINTR;
      default:
        *status = 0;
        break;
    }
    return pid;
  }));
}

WRAPPED(int, setns, int fd, int kinds) {
  if (g_kernel == nullptr) return __real_setns(fd, kinds);
  return static_cast<int>(K.call(
      SYS_setns,
      [&]() -> long {
        hold(K.who == Who::kHelper, "only the helper joins namespaces");
        if (!K.has(CAP_SYS_ADMIN)) return -EPERM;
        if (kinds == CLONE_NEWNET) {
          hold(!K.cloned && K.filter.empty(),
               "a network namespace is joined before the child is cloned");
          hold(K.is(fd, Kind::kSent) && K.at(fd).index == verdict().net_descriptor,
               "the network namespace is the verdict's");
          if (sent_kind(K.at(fd).index) != Sent::kNetwork) return -EINVAL;
          K.network_joined = true;
          return 0;
        }
        hold(K.is(fd, Kind::kPid) && (kinds & ~(CLONE_NEWNS | CLONE_NEWIPC)) == 0 &&
                 (kinds & CLONE_NEWNS) != 0,
             "of the child, the namespaces of mounts and message queues are joined");
        hold(K.child_furnished && K.child_error == 0,
             "a child that could not furnish its namespaces is not joined");
        if (!K.has(CAP_SYS_CHROOT) || !K.has(CAP_SYS_PTRACE)) return -EPERM;
        K.in_child_namespace = true;
        K.cwd = Cwd::kSlash;
        return 0;
      },
      true));
}

WRAPPED(void, _exit, int status) {
  if (g_kernel == nullptr) return __real__exit(status);
  K.call(SYS_exit_group, [&] { return 0L; }, false, false);
  K.end(status, false);
}

WRAPPED(int, execve, const char* path, char* const* argv, char* const* environment) {
  if (g_kernel == nullptr) return __real_execve(path, argv, environment);
  return static_cast<int>(K.call(SYS_execve, [&]() -> long {
    hold(std::string_view(path) == postern::helper::kJudgeProgram,
         "only the installed judge is executed");
    hold(std::string_view(argv[0]) == "postern-judge" && argv[1] == nullptr &&
             environment[0] == nullptr,
         "the judge gets one argument and no environment");
    K.check_exec_judge();
    K.executed = true;
    ::longjmp(g_end, 1);
  }));
}

WRAPPED(int,
        execveat,
        int fd,
        const char* path,
        char* const* argv,
        char* const* environment,
        int flags) {
  if (g_kernel == nullptr) return __real_execveat(fd, path, argv, environment, flags);
  return static_cast<int>(K.call(SYS_execveat, [&]() -> long {
    hold(fd == 4 && path[0] == '\0' && flags == AT_EMPTY_PATH,
         "postern-init is executed by its descriptor");
    hold(std::string_view(argv[0]) == "postern-init" && argv[1] == nullptr &&
             environment[0] == nullptr,
         "postern-init gets one argument and no environment");
    K.check_exec_init();
    K.executed = true;
    ::longjmp(g_end, 1);
  }));
}

// ------------------------------------------------------------------ the calls: the process

WRAPPED(unsigned, alarm, unsigned seconds) {
  if (g_kernel == nullptr) return __real_alarm(seconds);
  return static_cast<unsigned>(K.call(
      SYS_setitimer,
      [&] {
        K.alarm_set = seconds == postern::kHelperDeadlineSeconds;
        return 0L;
      },
      false, false));
}

WRAPPED(int, setitimer, __itimer_which_t which, const itimerval* value, itimerval* before) {
  if (g_kernel == nullptr) return __real_setitimer(which, value, before);
  return static_cast<int>(K.call(SYS_setitimer, [&] {
    hold(value->it_value.tv_sec == 0 && value->it_value.tv_usec == 0 && !K.alarm_set,
         "timers of the caller's are only ever switched off, before the one deadline is set");
    K.timers_off |= 1U << which;
    return 0L;
  }));
}

WRAPPED(int, getsockopt, int fd, int level, int name, void* value, socklen_t* bytes) {
  if (g_kernel == nullptr) return __real_getsockopt(fd, level, name, value, bytes);
  return static_cast<int>(K.call(SYS_getsockopt, [&] {
    hold(fd == 3 && level == SOL_SOCKET && name == SO_PEERCRED && *bytes == sizeof(ucred),
         "descriptor 3 is asked for its peer");
    auto& peer = *static_cast<ucred*>(value);
    peer = {.pid = K.in.facts.peer == 2 ? 1 : kFrontendPid,
            .uid = K.in.facts.peer == 1 ? 1001U : K.caller_uid(),
            .gid = K.caller_gid()};
    return 0L;
  }));
}

WRAPPED(int, socket, int domain, int type, int protocol) {
  if (g_kernel == nullptr) return __real_socket(domain, type, protocol);
  return static_cast<int>(K.call(SYS_socket, [&] {
    hold(domain == AF_UNIX && type == (SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK) && K.judged,
         "a socket is made for the log, which makes nobody wait");
    return long{K.add(Kind::kLog, true)};
  }));
}

WRAPPED(ssize_t,
        sendto,
        int fd,
        const void* data,
        size_t bytes,
        int flags,
        const sockaddr* to,
        socklen_t) {
  if (g_kernel == nullptr) return __real_sendto(fd, data, bytes, flags, to, 0);
  return K.call(SYS_sendto, [&] {
    const std::string_view line(static_cast<const char*>(data), bytes);
    hold(K.is(fd, Kind::kLog) || K.lied || !K.in.faults.empty(), "the log gets a line");
    hold(line ==
             "<84>postern-helper: refused: the judge died, uid=" + std::to_string(K.caller_uid()),
         "what the helper logs is constant but for the caller's id");
    hold((flags & MSG_NOSIGNAL) != 0 && to->sa_family == AF_UNIX, "the log raises no signal");
    return static_cast<long>(bytes);
  });
}

WRAPPED(mode_t, umask, mode_t mask) {
  if (g_kernel == nullptr) return __real_umask(mask);
  return static_cast<mode_t>(
      K.call(SYS_umask, [&] { return long{std::exchange(K.mask, mask)}; }, false, false));
}

WRAPPED(int, chdir, const char* path) {
  if (g_kernel == nullptr) return __real_chdir(path);
  return static_cast<int>(K.call(
      SYS_chdir,
      [&] {
        hold(std::string_view(path) == "/", "the only directory that is entered by its path is /");
        return K.cwd = Cwd::kSlash, 0L;
      },
      true));
}

WRAPPED(int, fchdir, int fd) {
  if (g_kernel == nullptr) return __real_fchdir(fd);
  return static_cast<int>(K.call(
      SYS_fchdir,
      [&]() -> long {
        hold(K.in_child_namespace && K.who == Who::kHelper,
             "the working directory moves in the child's namespace only");
        if (K.is(fd, Kind::kMount)) {
          hold(K.mounts[static_cast<std::size_t>(K.at(fd).index)].type == "tmpfs",
               "the session is a tmpfs of ours");
          K.cwd = Cwd::kSession;
          return 0;
        }
        hold(K.is(fd, Kind::kPlace) && K.at(fd).top,
             "the working directory is the session, then the new root");
        K.cwd = K.top_detached ? Cwd::kDetached : Cwd::kTop;
        return 0;
      },
      true));
}

WRAPPED(int, sethostname, const char* name, size_t bytes) {
  if (g_kernel == nullptr) return __real_sethostname(name, bytes);
  return static_cast<int>(K.call(
      SYS_sethostname,
      [&]() -> long {
        hold(K.who == Who::kPayload && (verdict().namespaces & CLONE_NEWUTS) != 0,
             "a host name is set only in a namespace of its own");
        hold(bytes <= 64 && std::memcmp(name, verdict().hostname.data(), bytes) == 0,
             "the host name is the verdict's");
        return K.has(CAP_SYS_ADMIN) ? 0 : -EPERM;
      },
      true));
}

WRAPPED(void, explicit_bzero, void* start, size_t bytes) {
  __real_explicit_bzero(start, bytes);
  if (g_kernel != nullptr) K.forget(reinterpret_cast<std::uintptr_t>(start), bytes);
}

extern "C" void __wrap___explicit_bzero_chk(void* start, size_t bytes, size_t room);

void __wrap___explicit_bzero_chk(void* start, size_t bytes, size_t room) {
  if (g_kernel != nullptr) hold(bytes <= room, "what is wiped is inside its object");
  __wrap_explicit_bzero(start, bytes);
}

// -------------------------------------------------------------------- the calls: descriptors

WRAPPED(int, close, int fd) {
  if (g_kernel == nullptr) return __real_close(fd);
  bool closed = false;
  const long result = K.call(SYS_close, [&]() -> long {
    closed = true;
    hold(fd >= 3 && !K.is(fd, Kind::kClosed),
         "the helper closes what it has, and nothing of the caller's standard streams");
    if (K.is(fd, Kind::kMapping)) {
      Mapping& m = K.mappings[static_cast<std::size_t>(K.at(fd).index)];
      m.removed = --m.opened == 0 && m.ours && m.armed;
    }
    K.at(fd) = {};
    return 0;
  });
  // close(2): whatever it returns, the descriptor is gone.
  if (!closed) K.at(fd) = {};
  return static_cast<int>(result);
}

WRAPPED(int, close_range, unsigned first, unsigned last, int flags) {
  if (g_kernel == nullptr) return __real_close_range(first, last, flags);
  return static_cast<int>(K.call(SYS_close_range, [&] {
    hold(flags == 0 && last == ~0U, "descriptors are closed up to the last");
    for (std::size_t fd = first; fd < K.table.size(); ++fd) K.table[fd] = {};
    return 0L;
  }));
}

WRAPPED(int, dup2, int from, int to) {
  if (g_kernel == nullptr) return __real_dup2(from, to);
  return static_cast<int>(K.call(SYS_dup3, [&]() -> long {
    if (K.is(from, Kind::kClosed) || to < 0) return -EBADF;
    if (from == to) return to;
    const Descriptor copy = K.at(from);
    K.at(to) = copy;
    K.at(to).close_on_exec = false;
    return to;
  }));
}

WRAPPED(int, dup3, int from, int to, int flags) {
  if (g_kernel == nullptr) return __real_dup3(from, to, flags);
  return static_cast<int>(K.call(SYS_dup3, [&]() -> long {
    if (from == to) return -EINVAL;
    if (K.is(from, Kind::kClosed) || to < 0) return -EBADF;
    const Descriptor copy = K.at(from);
    K.at(to) = copy;
    K.at(to).close_on_exec = (flags & O_CLOEXEC) != 0;
    return to;
  }));
}

WRAPPED(int, fcntl64, int fd, int command, ...) {
  va_list list;
  va_start(list, command);
  const auto argument = va_arg(list, unsigned long);
  va_end(list);
  if (g_kernel == nullptr) return __real_fcntl64(fd, command, argument);
  return static_cast<int>(K.call(SYS_fcntl, [&]() -> long {
    const Descriptor& d = K.at(fd);
    if (d.kind == Kind::kClosed) return -EBADF;
    if (command == F_GETFD) return d.close_on_exec ? FD_CLOEXEC : 0;
    if (command == F_SETFD) return K.at(fd).close_on_exec = (argument & FD_CLOEXEC) != 0, 0;
    const Sent kind = d.kind == Kind::kSent ? sent_kind(d.index) : Sent::kPipe;
    if (command == F_GET_SEALS)
      return kind == Sent::kMemfd ? F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW : -EINVAL;
    if (command == F_SETLEASE) {
      hold(d.kind == Kind::kSent && d.index == 0 && !K.judged,
           "the root's file is asked for a lease before the judge is asked");
      if (argument == F_UNLCK) return 0;
      hold(argument == F_RDLCK, "a lease is one for reading");
      return !K.has(CAP_LEASE) ? -EACCES : K.in.facts.writer ? -EAGAIN : 0;
    }
    if (command == F_OFD_SETLK) {
      const auto& lock = *reinterpret_cast<const struct flock*>(argument);
      hold(d.kind == Kind::kDmControl && lock.l_type == F_WRLCK && lock.l_len == 1,
           "who makes a mapping locks its number");
      if (lock.l_start == 78) return -EAGAIN;  // another start, which is at it
      K.locked.push_back(lock.l_start);
      return 0;
    }
    hold(command == F_GETFL, "a descriptor is asked for its flags, mode and seals, nothing else");
    return kind == Sent::kWriteOnly ? O_WRONLY : kind == Sent::kPathOnly ? O_PATH : O_RDONLY;
  }));
}

WRAPPED(int, open64, const char* path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  const auto mode = va_arg(list, unsigned);
  va_end(list);
  if (g_kernel == nullptr) return __real_open64(path, flags, mode);
  return static_cast<int>(K.call(SYS_openat, [&] { return open_constant(path, flags); }));
}

WRAPPED(int, memfd_create, const char* name, unsigned flags) {
  if (g_kernel == nullptr) return __real_memfd_create(name, flags);
  return static_cast<int>(K.call(SYS_memfd_create, [&] {
    hold((flags & MFD_CLOEXEC) != 0, "what the helper opens is closed by exec");
    return long{K.add(Kind::kJudgeFile, true)};
  }));
}

WRAPPED(int, socketpair, int domain, int type, int protocol, int* ends) {
  if (g_kernel == nullptr) return __real_socketpair(domain, type, protocol, ends);
  return static_cast<int>(K.call(SYS_socketpair, [&] {
    hold(domain == AF_UNIX && type == (SOCK_SEQPACKET | SOCK_CLOEXEC) && !K.cloned,
         "the channel keeps messages whole, and is closed by exec");
    for (int i = 0; i < 2; ++i) ends[i] = K.add(Kind::kChannel, true, i);
    return 0L;
  }));
}

WRAPPED(ssize_t, recvmsg, int fd, msghdr* message, int flags) {
  if (g_kernel == nullptr) return __real_recvmsg(fd, message, flags);
  return K.call(SYS_recvmsg, [&]() -> long {
    hold(fd == 3 && !K.received, "one message is received, from descriptor 3");
    return receive(message);
  });
}

WRAPPED(ssize_t, send, int fd, const void* data, size_t bytes, int flags) {
  if (g_kernel == nullptr) return __real_send(fd, data, bytes, flags);
  bool sent = false;
  const long result = K.call(SYS_sendto, [&] {
    hold(fd == 3 && bytes == sizeof(postern::Reply) && (flags & MSG_NOSIGNAL) != 0,
         "replies are whole and raise no signal");
    std::memcpy(&K.reply, data, sizeof K.reply);
    hold(K.reply.pid == 0 || K.reply.pid == kPayloadPid,
         "a reply names the payload's process or none");
    sent = K.replied = true;
    return static_cast<long>(bytes);
  });
  if (!sent) K.reply_failed = true;
  return result;
}

WRAPPED(ssize_t, write, int fd, const void* data, size_t bytes) {
  if (g_kernel == nullptr) return __real_write(fd, data, bytes);
  return K.call(SYS_write, [&]() -> long {
    if (K.is(fd, Kind::kChannel)) return write_channel(data, bytes);
    hold(K.is(fd, Kind::kJudgeFile) && !K.judged,
         "the helper writes to the judge's file and the channel alone");
    const std::size_t written =
        bytes - std::min(bytes, K.short_by);  // RLIMIT_FSIZE is the caller's
    K.judge_input.append(static_cast<const char*>(data), written);
    return static_cast<long>(written);
  });
}

WRAPPED(ssize_t, read, int fd, void* data, size_t bytes) {
  if (g_kernel == nullptr) return __real_read(fd, data, bytes);
  return K.call(SYS_read, [&]() -> long {
    if (K.is(fd, Kind::kClosed)) return -EBADF;
    if (K.is(fd, Kind::kSize)) {
      const Loop& l = loop_of(K.at(fd).index);
      const std::string size = std::to_string(l.bound ? l.bytes / 512 : 0) + "\n";
      return static_cast<long>(size.copy(static_cast<char*>(data), bytes));
    }
    hold(K.is(fd, Kind::kChannel), "the helper reads the channel and the size of loop devices");
    return read_channel(data, bytes);
  });
}

WRAPPED(ssize_t, pread64, int fd, void* data, size_t bytes, off64_t offset) {
  if (g_kernel == nullptr) return __real_pread64(fd, data, bytes, offset);
  return K.call(SYS_pread64, [&]() -> long {
    if (K.is(fd, Kind::kJudgeFile)) {
      hold(K.judged && offset == 0 && bytes == sizeof(Verdict),
           "the verdict is read once and whole");
      return read_judge(data, bytes);
    }
    if (bytes == 0 && K.is(fd, Kind::kSent) && K.at(fd).index == 0) {
      const Sent kind = sent_kind(0);
      return kind == Sent::kWriteOnly || kind == Sent::kPathOnly ? -EBADF : 0;
    }
    hold(K.is(fd, Kind::kSent) && K.at(fd).index == verdict().crypt.key_descriptor &&
             is_memfd(K.at(fd).index),
         "of the request, only a key in a memfd is read");
    hold(bytes == 65 && offset == 0, "a key that is too long is noticed");
    if (K.short_by != 0) return static_cast<long>(K.in.facts.file_bytes % 3 == 1 ? 0 : 65);
    for (std::size_t i = 0; i < 64; ++i) static_cast<std::uint8_t*>(data)[i] = key_byte(i);
    const auto begin = reinterpret_cast<std::uintptr_t>(data);
    K.secrets.push_back({begin, begin + 64});
    return 64;
  });
}

WRAPPED(ssize_t, sendfile64, int to, int from, off64_t* offset, size_t bytes) {
  if (g_kernel == nullptr) return __real_sendfile64(to, from, offset, bytes);
  return K.call(SYS_sendfile, [&]() -> long {
    hold(K.is(to, Kind::kFile), "bytes are copied into files of the session alone");
    hold(K.is(from, Kind::kSent) && is_memfd(K.at(from).index),
         "only a memfd's bytes are read with our rights");
    hold(bytes <= postern::kMaxFileBytes && K.file_sent <= postern::kMaxFileBytes,
         "a generated file is bounded");
    const std::uint64_t whole = K.in.facts.file_bytes % 3 == 0   ? 5000
                                : K.in.facts.file_bytes % 3 == 1 ? 0
                                                                 : 1ULL << 40;
    std::uint64_t sent = std::min<std::uint64_t>(bytes, whole - K.file_sent);
    if (K.short_by != 0) sent = std::min<std::uint64_t>(sent, 4096);
    K.file_sent += sent;
    *offset += static_cast<off64_t>(sent);
    return static_cast<long>(sent);
  });
}

WRAPPED(int, ioctl, int fd, unsigned long request, ...) {
  va_list list;
  va_start(list, request);
  auto* const argument = va_arg(list, void*);
  va_end(list);
  if (g_kernel == nullptr) return __real_ioctl(fd, request, argument);
  bool made = false;
  const long result = K.call(SYS_ioctl, [&]() -> long {
    made = true;
    hold(K.who == Who::kHelper && !K.in_child_namespace && (!K.filter.empty() || K.lied),
         "devices are made by the locked helper, before it joins the child");
    if (K.is(fd, Kind::kDmControl)) return control_mapping(request, argument);
    hold(K.is(fd, Kind::kLoopControl) || K.is(fd, Kind::kLoop),
         "only loop-control, loop devices and device-mapper get an ioctl");
    return control_loop(fd, request, argument);
  });
  // Where the kernel refuses to arm, nothing is left to be done.
  if (!made && request == DM_DEV_REMOVE) K.arming_failed = true;
  return static_cast<int>(result);
}

// --------------------------------------------------------------------------- the calls: files

WRAPPED(int, fstat64, int fd, struct stat* status) {
  if (g_kernel == nullptr) return __real_fstat64(fd, status);
  return static_cast<int>(K.call(SYS_newfstatat, [&] { return stat_descriptor(fd, status); }));
}

WRAPPED(int, stat64, const char* path, struct stat* status) {
  if (g_kernel == nullptr) return __real_stat64(path, status);
  return static_cast<int>(K.call(SYS_newfstatat, [&]() -> long {
    const std::string_view p(path);
    if (p == "/proc/self/ns/user")
      return fill(status, S_IFREG | 0444, 4, K.in.facts.user_namespace ? 0xf0000001 : 0xeffffffd),
             0;
    hold(p == "/dev" || p == "/dev/pts", "paths that are asked about are constants");
    hold(!K.in_child_namespace, "the host's devices are those of the host's namespace");
    return fill(status, S_IFDIR | 0755, p == "/dev" ? kDevtmpfs : kDevpts), 0;
  }));
}

WRAPPED(int, lstat64, const char* path, struct stat* status) {
  if (g_kernel == nullptr) return __real_lstat64(path, status);
  return static_cast<int>(K.call(SYS_newfstatat, [&]() -> long {
    const std::string_view p(path);
    if (p.starts_with(postern::helper::kGrantableDirectory)) {
      hold(is_number(p.substr(std::strlen(postern::helper::kGrantableDirectory))),
           "root's list of capabilities is one of numbers");
      const unsigned how = K.in.facts.unlisted;
      if (how == 1) return -ENOENT;
      fill(status, how == 3 ? S_IFLNK | 0777 : S_IFREG | 0644, kImageDevice);
      status->st_uid = how == 2 ? K.caller_uid() : 0;
      return 0;
    }
    hold(p == postern::helper::kJudgeDirectory, "the judge's user is that of its directory");
    const unsigned how = K.in.facts.judge_directory % 8;
    if (how == 1) return -ENOENT;
    fill(status, how == 2 ? S_IFLNK | 0777 : S_IFDIR | 0700, kImageDevice);
    status->st_uid = how == 3 ? 0 : how == 5 ? K.caller_uid() : Kernel::kJudgeId;
    status->st_gid = how == 4 ? 0 : Kernel::kJudgeId;
    return 0;
  }));
}

WRAPPED(int, fstatfs64, int fd, struct statfs* system) {
  if (g_kernel == nullptr) return __real_fstatfs64(fd, system);
  return static_cast<int>(K.call(SYS_fstatfs, [&]() -> long {
    *system = {};
    if (K.is(fd, Kind::kMount)) {
      const Mount& m = K.mounts[static_cast<std::size_t>(K.at(fd).index)];
      hold(m.type == "tmpfs" && !m.attached, "of mounts, only the session is asked what it is");
      system->f_flags = (m.all & MOUNT_ATTR_NODIRATIME) != 0 ? ST_NODIRATIME : 0;
      return 0;
    }
    if (!K.is(fd, Kind::kSent)) return -EBADF;
    system->f_type = sent_kind(K.at(fd).index) == Sent::kOnFuse ? 0x65735546 : 0xef53;
    return 0;
  }));
}

WRAPPED(
    int, statx, int directory, const char* path, int flags, unsigned mask, struct statx* status) {
  if (g_kernel == nullptr) return __real_statx(directory, path, flags, mask, status);
  return static_cast<int>(K.call(SYS_statx, [&]() -> long {
    hold(directory == AT_FDCWD && flags == 0 && mask == STATX_MNT_ID,
         "of a path, only its mount is asked");
    status->stx_mask = STATX_MNT_ID;
    status->stx_mnt_id = mount_id(path);
    return 0;
  }));
}

WRAPPED(int, mkdirat, int directory, const char* path, mode_t mode) {
  if (g_kernel == nullptr) return __real_mkdirat(directory, path, mode);
  return static_cast<int>(
      K.call(SYS_mkdirat, [&] { return make_entry(directory, path, mode | S_IFDIR); }));
}

WRAPPED(int, unlinkat, int directory, const char* path, int flags) {
  if (g_kernel == nullptr) return __real_unlinkat(directory, path, flags);
  return static_cast<int>(
      K.call(SYS_unlinkat, [&] { return remove_entry(directory, path, flags); }));
}

WRAPPED(int, mknodat, int directory, const char* path, mode_t mode, dev_t device) {
  if (g_kernel == nullptr) return __real_mknodat(directory, path, mode, device);
  return static_cast<int>(K.call(SYS_mknodat, [&] { return make_entry(directory, path, mode); }));
}

// -------------------------------------------------------------------------- the calls: mounts

WRAPPED(int, fsopen, const char* type, unsigned flags) {
  if (g_kernel == nullptr) return __real_fsopen(type, flags);
  return static_cast<int>(K.call(SYS_fsopen, [&]() -> long {
    hold(flags == FSOPEN_CLOEXEC, "what the helper opens is closed by exec");
    if (!admin()) return -EPERM;
    K.contexts.push_back({.type = type});
    return K.add(Kind::kContext, true, static_cast<int>(K.contexts.size()) - 1);
  }));
}

WRAPPED(int, fsconfig, int fd, unsigned command, const char* key, const void* value, int aux) {
  if (g_kernel == nullptr) return __real_fsconfig(fd, command, key, value, aux);
  return static_cast<int>(K.call(SYS_fsconfig, [&] {
    return configure_context(fd, command, key, static_cast<const char*>(value));
  }));
}

WRAPPED(int, fsmount, int fd, unsigned flags, unsigned attributes) {
  if (g_kernel == nullptr) return __real_fsmount(fd, flags, attributes);
  return static_cast<int>(K.call(SYS_fsmount, [&]() -> long {
    if (!K.is(fd, Kind::kContext) || !K.contexts[static_cast<std::size_t>(K.at(fd).index)].created)
      return -EINVAL;
    hold(flags == FSMOUNT_CLOEXEC, "what the helper opens is closed by exec");
    if (!admin()) return -EPERM;
    K.mounts.push_back({.type = K.contexts[static_cast<std::size_t>(K.at(fd).index)].type,
                        .path = {},
                        .all = attributes,
                        .top = attributes});
    return K.add(Kind::kMount, true, static_cast<int>(K.mounts.size()) - 1);
  }));
}

WRAPPED(int, open_tree, int fd, const char* path, unsigned flags) {
  if (g_kernel == nullptr) return __real_open_tree(fd, path, flags);
  return static_cast<int>(K.call(SYS_open_tree, [&]() -> long {
    hold((flags & OPEN_TREE_CLONE) != 0 && (flags & AT_RECURSIVE) != 0,
         "a clone is recursive: nothing is uncovered");
    hold((flags & OPEN_TREE_CLOEXEC) != 0, "what the helper opens is closed by exec");
    if (!admin()) return -EPERM;
    Mount m{.type = "clone", .path = path};
    if (path[0] == '\0') {
      if (!K.is(fd, Kind::kSent)) return -EBADF;
      if (K.in_child_namespace) return -EINVAL;  // another namespace's mount
      m.sent = K.at(fd).index;
      if (is_memfd(m.sent)) return -EINVAL;
    } else {
      const std::string_view p(path);
      hold(fd == AT_FDCWD && K.in_child_namespace &&
               (p == "/proc" || p == "/sys" || p == "/dev" ||
                (is_number(p) && K.cwd == Cwd::kSession)),
           "what is cloned by its path is /proc, /sys, /dev or a file of the session");
    }
    K.mounts.push_back(m);
    return K.add(Kind::kMount, true, static_cast<int>(K.mounts.size()) - 1);
  }));
}

WRAPPED(int,
        mount_setattr,
        int fd,
        const char* path,
        unsigned flags,
        struct mount_attr* attr,
        size_t bytes) {
  if (g_kernel == nullptr) return __real_mount_setattr(fd, path, flags, attr, bytes);
  return static_cast<int>(K.call(SYS_mount_setattr, [&]() -> long {
    hold(attr->attr_clr == 0 && bytes == sizeof *attr, "flags of mounts are only ever added");
    hold(attr->propagation == 0 || attr->propagation == MS_SLAVE, "propagation is only ever cut");
    if (!admin()) return -EPERM;
    if (fd == AT_FDCWD) {
      hold(K.who == Who::kPayload && std::string_view(path) == "/" && K.in_child_namespace,
           "only the child changes the tree that it was born with");
      K.furnished_root = attr->propagation == MS_SLAVE && (flags & AT_RECURSIVE) != 0;
      return 0;
    }
    if (K.is(fd, Kind::kPlace) && K.at(fd).top) {
      K.sealed = (attr->attr_set & MOUNT_ATTR_RDONLY) != 0;
      return 0;
    }
    if (!K.is(fd, Kind::kMount)) return -EBADF;
    Mount& m = K.mounts[static_cast<std::size_t>(K.at(fd).index)];
    hold(!m.attached, "a clone is restricted before anybody can reach it");
    m.top |= attr->attr_set;
    if ((flags & AT_RECURSIVE) != 0) {
      m.all |= attr->attr_set;
      m.slave = m.slave || attr->propagation == MS_SLAVE;
    }
    return 0;
  }));
}

WRAPPED(int, move_mount, int fd, const char* from, int target, const char* to, unsigned flags) {
  if (g_kernel == nullptr) return __real_move_mount(fd, from, target, to, flags);
  return static_cast<int>(K.call(
      SYS_move_mount,
      [&]() -> long {
        hold(from[0] == '\0' && (flags & MOVE_MOUNT_F_EMPTY_PATH) != 0,
             "what is attached is a mount by its descriptor");
        if (!admin()) return -EPERM;
        if (fd == AT_FDCWD) return lower_session(target, to);
        if (!K.is(fd, Kind::kMount)) return -EINVAL;
        return attach(K.mounts[static_cast<std::size_t>(K.at(fd).index)], target, to);
      },
      true));
}

WRAPPED(int, umount2, const char* path, int flags) {
  if (g_kernel == nullptr) return __real_umount2(path, flags);
  return static_cast<int>(K.call(
      SYS_umount2,
      [&]() -> long {
        hold_mounting();
        if (!admin()) return -EPERM;
        hold(std::string_view(path) == "." && flags == MNT_DETACH,
             "only what lies above the new root is detached");
        if (K.cwd == Cwd::kDetached) return -EINVAL;
        if (K.pivoted) {
          ++K.uncovered;
        } else if (K.cwd == Cwd::kTop) {
          K.top_detached = true;
          K.cwd = Cwd::kDetached;
        }
        return 0;
      },
      true));
}

// ------------------------------------------------------------------- syscall(2), by its number

namespace {

long clone_child(long flags, int* process) {
  hold(K.who == Who::kHelper && K.judged && !K.cloned, "the helper clones once, after the judge");
  hold(K.filter.empty(), "the child is cloned before the lock");
  hold(K.uid.effective == K.caller_uid() || K.lied, "new namespaces are charged to the caller");
  hold(flags == (static_cast<long>(verdict().namespaces) | CLONE_NEWNS | CLONE_PARENT |
                 CLONE_PIDFD | SIGCHLD),
       "the child is the frontend's, in its own mount namespace and those of the verdict");
  hold((verdict().namespaces & ~(postern::kNamespaces ^ CLONE_NEWUSER)) == 0,
       "no user namespace is made by root");
  hold(verdict().net_descriptor == postern::kNoDescriptor || K.network_joined || K.lied,
       "the child is in the network namespace of the verdict");
  std::vector<unsigned> uses(K.in.descriptors);
  const auto use = [&](std::uint16_t i) {
    if (i == postern::kNoDescriptor) return;
    hold(i < uses.size() && uses[i]++ == 0, "a descriptor acts in one role");
  };
  for (std::size_t i = 0; i < verdict().layer_count; ++i) use(verdict().layers[i].descriptor);
  for (std::size_t i = 0; i < verdict().operation_count; ++i)
    use(verdict().operations[i].descriptor);
  if (verdict().crypt.data_bytes != 0) use(verdict().crypt.key_descriptor);
  for (const std::uint16_t i : {verdict().upper_descriptor, verdict().net_descriptor,
                                verdict().init_descriptor, verdict().record_descriptor})
    use(i);
  K.cloned = true;
  if (K.in.facts.follow == Who::kPayload) {
    K.become(Who::kPayload);
    K.in_child_namespace = true;
    return 0;
  }
  *process = K.add(Kind::kPid, true);
  return kPayloadPid;
}

// The caller's limits are 4096, of everything.
constexpr rlim_t kCallersLimit = 500;  // of every kind: each is too low

long limit(long resource, const rlimit* value, rlimit* old) {
  if (old != nullptr) *old = {kCallersLimit, kCallersLimit};
  if (value == nullptr) return 0;
  if (K.who == Who::kPayload) {
    hold(K.release_read && value->rlim_cur == kCallersLimit && value->rlim_max == kCallersLimit,
         "the payload gets the caller's limits, last");
    K.restored_limits |= 1ULL << resource;
    return 0;
  }
  hold(K.who == Who::kHelper && !K.received && value->rlim_max >= kCallersLimit,
       "limits are lifted before anything of the caller's is awaited, and none is lowered");
  K.lifted_limits |= 1ULL << resource;
  return 0;
}

long pivot(const char* root, const char* old) {
  hold_mounting();
  hold(std::string_view(root) == "." && std::string_view(old) == ".",
       "the root is changed to the working directory");
  if (!admin()) return -EPERM;
  if (K.cwd != Cwd::kTop || !K.session_attached) return -EINVAL;
  if (verdict().overlay == 1 ? !K.top_attached : !K.root_attached)
    return -EINVAL;  // no mount point
  K.pivoted = true;
  return 0;
}

}  // namespace

WRAPPED(long, syscall, long nr, ...) {
  va_list list;
  va_start(list, nr);
  std::array<long, 6> a{};
  for (long& argument : a) argument = va_arg(list, long);
  va_end(list);
  if (g_kernel == nullptr) return __real_syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
  const auto data = [&](std::size_t i) { return reinterpret_cast<__user_cap_data_struct*>(a[i]); };
  const auto text = [&](std::size_t i) { return reinterpret_cast<const char*>(a[i]); };
  switch (nr) {
    case SYS_capget:
      return K.call(nr, [&] { return get_capabilities(data(1)); });
    case SYS_capset:
      return K.call(nr, [&] { return set_capabilities(data(1)); }, true);
    case SYS_clone:
      return K.call(nr, [&] { return clone_child(a[0], reinterpret_cast<int*>(a[2])); });
    case SYS_openat2:
      return K.call(nr, [&] {
        return open_in_root(static_cast<int>(a[0]), text(1),
                            *reinterpret_cast<const open_how*>(a[2]));
      });
    case SYS_pivot_root:
      return K.call(nr, [&] { return pivot(text(0), text(1)); }, true);
    case SYS_prlimit64:
      return K.call(nr, [&] {
        return limit(a[1], reinterpret_cast<const rlimit*>(a[2]), reinterpret_cast<rlimit*>(a[3]));
      });
    case SYS_rt_sigaction:
      return K.call(nr, [&]() -> long {
        const auto* const action = reinterpret_cast<const unsigned long*>(a[1]);
        hold(action[0] == 0 && a[3] == 8, "the helper handles no signal");
        K.signals_default |= 1ULL << (a[0] - 1);
        return 0;
      });
    case SYS_rt_sigprocmask:
      return K.call(nr, [&]() -> long {
        const unsigned long mask = *reinterpret_cast<const unsigned long*>(a[1]);
        hold(a[0] == SIG_SETMASK && a[3] == 8 && (mask == 0 || mask == ~0UL),
             "signals are blocked all, or none");
        K.signals_blocked = mask != 0;
        return 0;
      });
    case SYS_setgroups:
      return K.call(
          nr,
          [&]() -> long {
            hold(K.who == Who::kJudge && a[0] == 0, "only the judge's groups are changed, to none");
            if (!K.has(CAP_SETGID)) return -EPERM;
            K.groups_dropped = true;
            return 0;
          },
          true);
    default:
      broken("syscall(2) is called for what the helper has no use for");
  }
}

}  // namespace postern::machine

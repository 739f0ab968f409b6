#include "frontend/start/image_server.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <initializer_list>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include <linux/nsfs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "frontend/message/message.h"
#include "frontend/squashfs/share.h"
#include "frontend/start/image_mount.h"
#include "frontend/start/peer.h"
#include "frontend/system/descriptor_message.h"
#include "frontend/system/libexec.h"
#include "frontend/system/spawn.h"
#include "policy/text/hex.h"
#include "policy/text/split.h"

namespace postern::start {
namespace {

constexpr const char* kOwnMounts = "/proc/self/ns/mnt";
constexpr const char* kOwnUsers = "/proc/self/ns/user";
// For the answer of a server to a start that ends. It has nothing else to do, but a machine may
// have; only one that was stopped lets us wait so long.
constexpr int kFarewellMilliseconds = 5'000;

// ---------------------------------------------------------------------------------- the process

// Descriptors of the server's arguments, under numbers from 3 upwards.
class Arguments {
 public:
  Arguments() : words_{"postern-squashfs", "--starter", std::to_string(::getpid())} {}

  void add(std::initializer_list<std::string> words) { words_.insert(words_.end(), words); }

  // The number that the descriptor, which must be valid, will have.
  std::string number(int fd) {
    const int number = kFirst + static_cast<int>(passed_.size());
    passed_.push_back({fd, number});
    return std::to_string(number);
  }

  void pass(const char* option, const UniqueFd& fd) {
    if (fd.valid()) {
      add({option, number(fd.get())});
    }
  }

  // Standard streams are not the caller's: the server may outlive this start, and whoever reads the
  // other end of a pipe would wait for it.
  [[nodiscard]] system::Command command(std::string program, int null, int log) const {
    system::Command out{.program = std::move(program),
                        .words = words_,
                        .passed = passed_,
                        .environment = std::vector<std::string>()};
    out.passed.insert(out.passed.end(), {{null, 0}, {null, 1}, {log, 2}});
    return out;
  }

 private:
  static constexpr int kFirst = 3;
  std::vector<std::string> words_;
  std::vector<system::Passed> passed_;
};

// What a server of ours is given besides its image.
struct Equipment {
  ImageMount mount;    // user-namespace mode
  UniqueFd device;     // setuid mode
  UniqueFd listening;  // -1: not shared
  UniqueFd starter;    // its end of our connection, where shared
  UniqueFd token;      // our mount namespace, where shared
  std::string identity;
};

Arguments server_arguments(const plan::ImageServer& image,
                           const ServerOptions& options,
                           const Equipment& with) {
  Arguments out;
  out.pass("--fuse-fd", options.on_host ? with.device : with.mount.devices[0]);
  std::string first;
  std::size_t spares = 0;
  for (const UniqueFd& device : std::span(with.mount.devices).subspan(1)) {
    if (device.valid()) {
      const std::string number = out.number(device.get());
      first = spares++ == 0 ? number : first;
    }
  }
  if (spares > 0) {
    out.add({"--spare-fds", first + ":" + std::to_string(spares)});
  }
  out.pass("--image-fd", image.image);
  if (with.listening.valid()) {
    out.pass("--listen-fd", with.listening);
    out.pass("--starter-fd", with.starter);
    out.pass("--token-fd", with.token);
    out.pass("--user-namespace-fd", with.mount.user_namespace);
    out.pass("--mount-namespace-fd", with.mount.mount_namespace);
    out.add({"--identity", with.identity});
  }
  if (options.fakeroot == plan::Fakeroot::kNone) {
    out.add({"--owner", std::to_string(options.ids.uid) + ":" + std::to_string(options.ids.gid)});
  } else if (options.fakeroot == plan::Fakeroot::kRootMapped) {
    out.add({"--owner", "0:0"});
  }
  for (std::string& argument :
       extent_arguments(image, image.key.valid() ? out.number(image.key.get()) : std::string())) {
    out.add({std::move(argument)});
  }
  if (!image.program.empty() && image.program.size() < PATH_MAX) {
    out.add({"--program", image.program});
  }
  return out;
}

Outcome<> run_server(const plan::ImageServer& image,
                     const ServerOptions& options,
                     const Equipment& with,
                     Server& server) {
  server.log = UniqueFd(::memfd_create("postern-squashfs log", MFD_CLOEXEC));
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!server.log.valid() || !null.valid()) {
    return system_problem("making a log for the server of " + image.path, errno);
  }
  const std::string program = server_program(image);
  const Result<pid_t> pid = system::spawn(
      server_arguments(image, options, with).command(program, null.get(), server.log.get()));
  if (!pid) {
    return system::program_problem("starting", program, pid.error().err);
  }
  server.pid = *pid;
  return Ok{};
}

// ORDER: what is mounted before the server runs is answered once it does; nobody else holds
// /dev/fuse by then.
Outcome<> equip(const ServerOptions& options, Equipment& with) {
  if (!options.on_host) {
    POSTERN_TRY_ASSIGN(with.mount,
                       mount_image(options.ids, options.fakeroot, options.user_namespace));
    return Ok{};
  }
  with.device = UniqueFd(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
  return with.device.valid() ? Outcome<>(Ok{}) : Outcome<>(device_problem(errno));
}

// A connection to ourselves, as joiners have one, and what shows that we are no container.
Outcome<> share(Equipment& with, UniqueFd listening, std::string identity, Server& server) {
  std::array<int, 2> pair = {-1, -1};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair.data()) != 0) {
    return system_problem("creating a socket pair", errno);
  }
  server.channel = UniqueFd(pair[0]);
  with.starter = UniqueFd(pair[1]);
  with.token = UniqueFd(::open(kOwnMounts, O_RDONLY | O_CLOEXEC));
  if (!with.token.valid()) {
    return system_problem(std::string("opening ") + kOwnMounts, errno, "is /proc mounted?");
  }
  with.listening = std::move(listening);
  with.identity = std::move(identity);
  return Ok{};
}

Outcome<> start_server(const plan::ImageServer& image,
                       const ServerOptions& options,
                       UniqueFd listening,
                       std::string identity,
                       Server& server) {
  Equipment with;
  if (listening.valid()) {
    POSTERN_TRY(share(with, std::move(listening), std::move(identity), server));
  }
  POSTERN_TRY(equip(options, with));
  POSTERN_TRY(run_server(image, options, with, server));
  server.user_namespace = std::move(with.mount.user_namespace);
  server.mount_namespace = std::move(with.mount.mount_namespace);
  server.device = std::move(with.device);
  return Ok{};
}

// -------------------------------------------------------------------------------------- sharing

void put(std::string& out, std::uint64_t value, unsigned bytes) {
  for (unsigned i = 0; i < bytes; ++i) {
    out += static_cast<char>(value >> (8 * i));
  }
}

std::string base64url(std::string_view bytes) {
  static constexpr char kDigits[] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  std::string text;
  unsigned bits = 0;
  unsigned have = 0;
  for (const char c : bytes) {
    bits = bits << 8 | static_cast<unsigned char>(c);
    for (have += 8; have >= 6; have -= 6) {
      text += kDigits[bits >> (have - 6) & 63];
    }
  }
  if (have > 0) {
    text += kDigits[bits << (6 - have) & 63];
  }
  return text;
}

std::uint64_t nanoseconds(const timespec& time) {
  return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000U +
         static_cast<std::uint64_t>(time.tv_nsec);
}

bool is_same(const struct stat& one, const struct stat& other) noexcept {
  return one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

bool is_namespace(int fd, const char* path) noexcept {
  struct stat its = {};
  struct stat ours = {};
  return ::fstat(fd, &its) == 0 && ::stat(path, &ours) == 0 && is_same(its, ours);
}

// Whether whoever listens is in no container. Who is in one is told nothing: what proves to a
// server where we are would prove the same of a payload that was shown it.
bool is_ours(int socket, UniqueFd& pidfd) noexcept {
  Peer peer;
  const bool ours = peer_of(socket, peer) && peer.uid == ::geteuid() && is_in_our_place(peer);
  pidfd = std::move(peer.process);
  return ours;
}

// The namespaces of a mount: made below our own user namespace, and each other's.
bool are_namespaces_of_ours(int user_namespace, int mount_namespace) noexcept {
  const UniqueFd parent(::ioctl(user_namespace, NS_GET_PARENT));
  const UniqueFd owner(::ioctl(mount_namespace, NS_GET_USERNS));
  struct stat its = {};
  struct stat users = {};
  const bool known = parent.valid() && owner.valid() && is_namespace(parent.get(), kOwnUsers) &&
                     ::fstat(owner.get(), &its) == 0 && ::fstat(user_namespace, &users) == 0;
  if (!known || is_same(its, users)) {
    return known;
  }
  // Where it lies on the initramfs, one more user namespace is between (cover_initramfs).
  const UniqueFd between(::ioctl(owner.get(), NS_GET_PARENT));
  return between.valid() && ::fstat(between.get(), &its) == 0 && is_same(its, users);
}

bool is_device(int fd) noexcept {
  constexpr unsigned kMiscMajor = 10;
  constexpr unsigned kFuseMinor = 229;
  struct stat info = {};
  return ::fstat(fd, &info) == 0 && S_ISCHR(info.st_mode) &&
         info.st_rdev == makedev(kMiscMajor, kFuseMinor);
}

// Shows where we are, and takes what the server has to give where it proves to be in the same place
// and to serve this image. False: it is not, or it has gone, or does not answer in time.
bool join(const std::string& identity, const ServerOptions& options, Server& server) {
  const UniqueFd token(::open(kOwnMounts, O_RDONLY | O_CLOEXEC));
  const int number = token.get();
  std::array<char, squashfs::kMostIdentityBytes> text = {};
  system::Received got;
  if (!token.valid() || !is_ours(server.channel.get(), server.pidfd) ||
      system::send_message(server.channel.get(), {&squashfs::kJoining, 1}, {&number, 1}) != 0 ||
      system::receive_message(server.channel.get(), text, got) != 0 ||
      std::string_view(text.data(), got.bytes) != identity || got.count == 0 ||
      !is_namespace(got.descriptors[0].get(), kOwnMounts)) {
    return false;
  }
  if (options.on_host) {
    server.device = std::move(got.descriptors[1]);
    return got.count == 2 && is_device(server.device.get());
  }
  server.user_namespace = std::move(got.descriptors[1]);
  server.mount_namespace = std::move(got.descriptors[2]);
  return got.count == 3 &&
         are_namespaces_of_ours(server.user_namespace.get(), server.mount_namespace.get());
}

std::string read_log(const Server& server) {
  std::array<char, squashfs::kMostLogBytes> text = {};
  const ssize_t got = ::pread(server.log.get(), text.data(), text.size(), 0);
  return {text.data(), got > 0 ? static_cast<std::size_t>(got) : 0};
}

struct Farewell {
  std::string said;   // what the server has said about the image
  bool gone = false;  // without an answer
};

// Says that this start is over, and removes the server's name where nobody else uses it.
Farewell leave(Server& server) {
  if (!server.channel.valid()) {
    return {};
  }
  std::array<char, 1 + squashfs::kMostLogBytes> text = {};
  system::Received got;
  pollfd answer = {server.channel.get(), POLLIN, 0};
  const int said = system::send_message(server.channel.get(), {&squashfs::kLeaving, 1}, {});
  const bool answered = said == 0 && ::poll(&answer, 1, kFarewellMilliseconds) == 1 &&
                        system::receive_message(server.channel.get(), text, got) == 0;
  // No answer from a server that is gone is one as well; one that is stopped keeps its name.
  const bool gone = !answered && (said != 0 || answer.revents != 0);
  if (gone || (answered && text[0] == squashfs::kLast)) {
    forget(server.meeting);
  }
  server.channel.reset();
  return {.said = answered ? std::string(text.data() + 1, got.bytes - 1) : std::string(),
          .gone = gone};
}

// Of a server of ours that is gone. It may be without a thread that answers; exit status 0 says
// that the mount was gone before. If its status is known already, so is what it says.
bool has_failed(pid_t server) {
  int status = 0;
  return ::waitpid(server, &status, 0) == server && status != 0;
}

// Which job of a batch system this process belongs to, as 32 bits (FNV-1a from 0); 0 outside of
// one. A job that ends takes all that was started in it along, a server too: nobody joins one of
// another job, nor of another step, which Slurm ends for itself.
std::uint32_t batch_job() noexcept {
  constexpr std::uint32_t kPrime = 16777619;
  std::uint32_t hash = 0;
  for (const char* const name : {"SLURM_JOB_ID", "SLURM_STEP_ID", "PBS_JOBID", "LSB_JOBID",
                                 "LSB_JOBINDEX", "JOB_ID", "SGE_TASK_ID", "FLUX_JOB_ID"}) {
    const char* const value = ::getenv(name);
    for (const char c : std::string_view(value != nullptr ? value : "")) {
      hash = (hash ^ static_cast<unsigned char>(c)) * kPrime;
    }
    hash *= kPrime;
  }
  return hash;
}

}  // namespace

std::string server_program(const plan::ImageServer& image) {
  std::optional<std::string> plain;
  if (!image.crypt && !image.gocryptfs) {
    plain = system::find_libexec_program("postern-squashfs-plain");
  }
  return plain ? *std::move(plain) : system::libexec_program("postern-squashfs");
}

std::vector<std::string> extent_arguments(const plan::ImageServer& image, const std::string& key) {
  std::vector<std::string> out = {"--offset", std::to_string(image.offset), "--size",
                                  std::to_string(image.bytes)};
  if (image.key.valid() && image.crypt) {
    const CryptGeometry& crypt = *image.crypt;
    out.insert(out.end(),
               {"--key-fd", key, "--crypt",
                std::to_string(crypt.sector_bytes) + ":" + std::to_string(crypt.data_offset) + ":" +
                    std::to_string(crypt.data_bytes) + ":" + std::to_string(crypt.iv_offset)});
  }
  if (image.key.valid() && image.gocryptfs) {
    out.insert(out.end(), {"--key-fd", key, "--gocryptfs", "1"});
  }
  if (image.verity) {
    const VerityGeometry& verity = *image.verity;
    out.insert(out.end(), {"--verity", text::to_hex(verity.root_hash) + ":" +
                                           text::to_hex({verity.salt.data(), verity.salt_bytes}) +
                                           ":" + std::to_string(verity.data_blocks) + ":" +
                                           std::to_string(verity.tree_offset) + ":" +
                                           std::to_string(verity.tree_bytes)});
  }
  return out;
}

// 81 bytes: 108 characters. The keys of an encrypted image need no place in it: whoever comes here
// has unlocked the same header, whose digest admits one key. Nor does the user: the directory of
// the name is one user's. The mount namespace does: nobody joins a server of another.
Outcome<std::string> server_name(const plan::ImageServer& image, const ServerOptions& options) {
  struct stat info = {};
  struct stat mounts = {};
  if (::fstat(image.image.get(), &info) != 0) {
    return system_problem("looking at " + image.path, errno);
  }
  if (::stat(kOwnMounts, &mounts) != 0) {
    return system_problem(std::string("looking at ") + kOwnMounts, errno, "is /proc mounted?");
  }
  std::string identity;
  put(identity, info.st_dev, 8);
  put(identity, info.st_ino, 8);
  put(identity, static_cast<std::uint64_t>(info.st_size), 8);
  put(identity, nanoseconds(info.st_mtim), 8);
  put(identity, nanoseconds(info.st_ctim), 8);
  put(identity, image.offset, 8);
  put(identity, image.bytes, 8);
  put(identity, mounts.st_ino, 4);  // a number of nsfs has 32 bits
  put(identity, batch_job(), 4);
  for (std::size_t i = 0; i < 8; ++i) {
    identity += image.verity ? static_cast<char>(image.verity->root_hash[i]) : '\0';
  }
  put(identity, options.ids.uid, 4);
  put(identity, options.ids.gid, 4);
  put(identity,
      static_cast<std::uint64_t>(options.fakeroot) | (image.verity ? 0x10U : 0U) |
          (image.crypt || image.gocryptfs ? 0x20U : 0U) | (options.on_host ? 0x40U : 0U),
      1);
  return base64url(identity);
}

Outcome<Server> obtain_server(const plan::ImageServer& image, const ServerOptions& options) {
  Server server;
  UniqueFd listening;
  std::string name;
  if (options.share) {
    POSTERN_TRY_ASSIGN(name, server_name(image, options));
    UniqueFd socket;
    const Met met = meet(name, server.meeting, socket);
    if (met == Met::kJoined) {
      server.channel = std::move(socket);
      if (join(name, options, server)) {
        return server;
      }
      server = Server();
    } else if (met == Met::kFirst) {
      listening = std::move(socket);
    }
  }
  Outcome<> started = start_server(image, options, std::move(listening), std::move(name), server);
  if (!started) {
    forget(server.meeting);
    return std::move(started).error();
  }
  return server;
}

std::string end_server(Server& server) {
  if (server.pid < 0) {
    server.channel.reset();
    return {};
  }
  ::kill(server.pid, SIGKILL);
  ::waitpid(server.pid, nullptr, 0);
  server.pid = -1;
  server.channel.reset();
  forget(server.meeting);
  return read_log(server);
}

bool leave_server(Server& server, const std::string& image) {
  const Farewell farewell = leave(server);
  const std::string log = server.joined() ? farewell.said : read_log(server);
  for (std::string_view rest = log; !rest.empty();) {
    const std::string_view line = text::next_line(rest);
    const auto level_end = line.find(": ");  // "ERROR:   what"
    const auto start = line.find_first_not_of(' ', level_end == line.npos ? 0 : level_end + 2);
    if (start != line.npos) {
      message::error(image + ": " + std::string(line.substr(start)));
    }
  }
  return !farewell.gone || (!server.joined() && !has_failed(server.pid));
}

}  // namespace postern::start

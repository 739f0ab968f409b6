#include "frontend/start/image_server.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <vector>

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "frontend/message/message.h"
#include "frontend/system/capabilities.h"
#include "frontend/system/child_stack.h"
#include "frontend/system/libexec.h"

namespace postern::start {
namespace {

// A server that does not answer within this time is stopped or wedged: the start goes on without
// it.
constexpr timeval kServerPatience = {.tv_sec = 5, .tv_usec = 0};
// From bind(2) to listen(2) of the first start it takes the birth of a process; from the last
// unmount to the end of a server, a little more. Pauses double: hundreds of starts that poll would
// keep the one that they wait for from the processor.
constexpr long kFirstPauseNanoseconds = 100'000;
constexpr long kLastPauseNanoseconds = 10'000'000;
constexpr int kListenAttempts = 500;
constexpr int kBacklog = 4096;
// Descriptor numbers of the server's arguments start here, clear of standard streams.
constexpr int kFirstServerFd = 10;

struct Address {
  sockaddr_un address = {};
  socklen_t bytes = 0;

  explicit Address(const std::string& name) noexcept {
    address.sun_family = AF_UNIX;
    std::memcpy(&address.sun_path[1], name.data(), name.size());
    bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  }

  [[nodiscard]] const sockaddr* get() const noexcept {
    return reinterpret_cast<const sockaddr*>(&address);
  }
};

// ---------------------------------------------------------------------------------- the process

struct ServerSetup {
  const plan::ImageServer* image = nullptr;
  ServerOptions options;
  int program = -1;
  int listener = -1;
  int channel = -1;  // our end is elsewhere: this is the process's
  int log = -1;
  int null = -1;
  std::vector<std::string> arguments;  // complete but for descriptor numbers
  std::vector<char*> argv;

  int err = 0;
  const char* doing = nullptr;
};

// Runs in the server's process until it executes postern-squashfs; shares our memory till then.
class ServerProcess {
 public:
  explicit ServerProcess(ServerSetup& setup) noexcept : setup_(setup) {}

  [[noreturn]] void run() noexcept {
    if (setup_.listener >= 0) {
      // ORDER: here, not in the parent: SO_PEERCRED of a connection names who called listen(2).
      check(::listen(setup_.listener, kBacklog), "listening for other starts");
    }
    ::setsid();  // Ctrl-C at the terminal is for the payload, which needs its files to end
    enter_user_namespace();
    const UniqueFd fuse(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
    check(fuse.get(), "opening /dev/fuse");
    const UniqueFd ns(::open("/proc/self/ns/user", O_RDONLY | O_CLOEXEC));
    check(ns.get(), "opening /proc/self/ns/user");
    hand_over(fuse.get(), ns.get());
    // An ordinary user on the host has none to drop, and no right to try.
    if (const int err = setup_.options.on_host ? no_new_privileges() : system::drop_capabilities(0);
        err != 0) {
      fail(err, "dropping capabilities");
    }
    keep_only(fuse.get());
    std::array<char*, 1> environment = {nullptr};
    ::execveat(setup_.program, "", setup_.argv.data(), environment.data(), AT_EMPTY_PATH);
    fail(errno, "executing postern-squashfs");
  }

 private:
  [[noreturn]] void fail(int err, const char* doing) noexcept {
    setup_.err = err;
    setup_.doing = doing;
    ::_exit(1);
  }

  void check(int result, const char* doing) noexcept {
    if (result < 0) {
      fail(errno, doing);
    }
  }

  static int no_new_privileges() noexcept {
    return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 ? 0 : errno;
  }

  void enter_user_namespace() noexcept {
    if (setup_.options.on_host) {
      return;
    }
    if (setup_.options.user_namespace >= 0) {
      check(::setns(setup_.options.user_namespace, CLONE_NEWUSER), "entering the user namespace");
      return;
    }
    if (const int err =
            map_single_id(setup_.options.ids, setup_.options.fakeroot != plan::Fakeroot::kNone);
        err != 0) {
      fail(err, "mapping ids in a user namespace");
    }
  }

  // Only this process and the payload's may hold /dev/fuse: the kernel ends the connection, instead
  // of letting the payload wait for ever, once every holder is gone.
  void hand_over(int fuse, int ns) noexcept {
    if (const int err = send_server_descriptors(setup_.channel, fuse, ns); err != 0) {
      fail(err, "handing over /dev/fuse");
    }
  }

  // Standard streams are not the caller's: the server may outlive this start, and whoever reads the
  // other end of a pipe would wait for it.
  void keep_only(int fuse) noexcept {
    check(::close_range(3, ~0U, CLOSE_RANGE_CLOEXEC), "closing descriptors");
    check(::dup2(setup_.null, 0), "redirecting standard input");
    check(::dup2(setup_.null, 1), "redirecting standard output");
    check(::dup2(setup_.log, 2), "redirecting standard error");
    pass("--fuse-fd", fuse);
    pass("--image-fd", setup_.image->image.get());
    pass("--listen-fd", setup_.listener);
    pass("--key-fd", setup_.image->key.get());
  }

  // The number that the argument after `option` shall name: written in place, see `arguments`.
  void pass(const char* option, int fd) noexcept {
    if (fd < 0) {
      return;
    }
    const int copy = ::fcntl(fd, F_DUPFD, kFirstServerFd);
    check(copy, "passing a descriptor");
    for (std::size_t i = 0; setup_.argv[i] != nullptr; ++i) {
      if (std::strcmp(setup_.argv[i], option) == 0) {
        char* const number = setup_.argv[i + 1];
        number[0] = static_cast<char>('0' + copy / 10 % 10);
        number[1] = static_cast<char>('0' + copy % 10);
        return;
      }
    }
  }

  ServerSetup& setup_;
};

std::string hex(const std::uint8_t* bytes, std::size_t count) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (std::size_t i = 0; i < count; ++i) {
    text += kDigits[bytes[i] >> 4];
    text += kDigits[bytes[i] & 15];
  }
  return text;
}

// Descriptor numbers are two digits, filled in by the process that knows them.
std::vector<std::string> server_arguments(const plan::ImageServer& image,
                                          const ServerOptions& options,
                                          bool listening) {
  std::vector<std::string> out = {
      "postern-squashfs",        "--fuse-fd", "00", "--image-fd", "00", "--starter",
      std::to_string(::getpid())};
  if (options.fakeroot == plan::Fakeroot::kNone) {
    out.insert(out.end(), {"--owner", std::to_string(options.ids.uid) + ":" +
                                          std::to_string(options.ids.gid)});
  } else if (options.fakeroot == plan::Fakeroot::kRootMapped) {
    out.insert(out.end(), {"--owner", "0:0"});
  }
  if (listening) {
    out.insert(out.end(), {"--listen-fd", "00"});
  }
  for (std::string& argument : extent_arguments(image)) {
    out.push_back(std::move(argument));
  }
  // ORDER: last: ServerProcess::pass() finds options by their text, and this may be any.
  if (!image.program.empty() && image.program.size() < PATH_MAX) {
    out.insert(out.end(), {"--program", image.program});
  }
  return out;
}

Problem server_problem(const ServerSetup& setup) {
  const std::string doing = setup.doing != nullptr ? setup.doing : "starting postern-squashfs";
  if (doing == "opening /dev/fuse") {
    return system_problem(doing, setup.err,
                          setup.err == EACCES
                              ? "ask for /dev/fuse to be readable and writable by all (mode 0666)"
                              : "load the module (modprobe fuse), or run from a directory: postern "
                                "build --sandbox DIR IMAGE");
  }
  if (doing == "mapping ids in a user namespace") {
    return system_problem(doing, setup.err, user_namespace_cure(setup.err));
  }
  return system_problem(doing, setup.err);
}

Outcome<Server> start_server(const plan::ImageServer& image,
                             const ServerOptions& options,
                             const UniqueFd& listener) {
  const std::string path = system::libexec_program("postern-squashfs");
  const UniqueFd program(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!program.valid()) {
    return system_problem("opening " + path, errno,
                          "the installation is incomplete: install again");
  }
  std::array<int, 2> pair = {-1, -1};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair.data()) != 0) {
    return system_problem("creating a socket pair", errno);
  }
  Server server;
  server.channel = UniqueFd(pair[0]);
  const UniqueFd channel(pair[1]);
  server.log = UniqueFd(::memfd_create("postern-squashfs log", MFD_CLOEXEC));
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  ServerSetup setup = {.image = &image,
                       .options = options,
                       .program = program.get(),
                       .listener = listener.get(),
                       .channel = channel.get(),
                       .log = server.log.get(),
                       .null = null.get(),
                       .arguments = server_arguments(image, options, listener.valid())};
  for (std::string& argument : setup.arguments) {
    setup.argv.push_back(argument.data());
  }
  setup.argv.push_back(nullptr);
  const system::ChildStack stack;
  const int flags = CLONE_VM | CLONE_VFORK | SIGCHLD |
                    (options.user_namespace < 0 && !options.on_host ? CLONE_NEWUSER : 0);
  server.pid = stack.valid() ? ::clone(
                                   [](void* argument) -> int {
                                     ServerProcess(*static_cast<ServerSetup*>(argument)).run();
                                   },
                                   stack.top(), flags, &setup)
                             : -1;
  if (server.pid < 0) {
    const int err = errno;
    return system_problem("creating a user namespace", err, user_namespace_cure(err));
  }
  if (setup.err != 0) {
    ::waitpid(server.pid, nullptr, 0);
    return server_problem(setup);
  }
  return server;
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

enum class Found : std::uint8_t { kFirst, kJoined, kNeither };

// Whoever answers must be the caller's own: anybody can bind a name.
bool is_ours(int socket, UniqueFd& pidfd) {
  ucred peer = {};
  socklen_t bytes = sizeof(peer);
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0 ||
      peer.uid != ::geteuid()) {
    return false;
  }
  pidfd = UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, peer.pid, 0)));
  return true;
}

Found find_server(const std::string& name, UniqueFd& socket, UniqueFd& pidfd) {
  const Address address(name);
  long nanoseconds = kFirstPauseNanoseconds;
  for (int attempt = 0; attempt < kListenAttempts; ++attempt) {
    socket = UniqueFd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    if (!socket.valid()) {
      return Found::kNeither;
    }
    if (::bind(socket.get(), address.get(), address.bytes) == 0) {
      return Found::kFirst;
    }
    if (errno != EADDRINUSE) {
      return Found::kNeither;
    }
    ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &kServerPatience, sizeof(kServerPatience));
    ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &kServerPatience, sizeof(kServerPatience));
    if (::connect(socket.get(), address.get(), address.bytes) == 0) {
      return is_ours(socket.get(), pidfd) ? Found::kJoined : Found::kNeither;
    }
    if (errno != ECONNREFUSED) {
      return Found::kNeither;
    }
    // Bound, not listening yet; or about to go.
    const timespec pause = {.tv_sec = 0, .tv_nsec = nanoseconds};
    ::nanosleep(&pause, nullptr);
    nanoseconds = std::min(2 * nanoseconds, kLastPauseNanoseconds);
  }
  return Found::kNeither;
}

// For a server that did not send its user namespace.
int open_peer_namespace(int channel, UniqueFd& out) noexcept {
  ucred peer = {};
  socklen_t bytes = sizeof(peer);
  if (::getsockopt(channel, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0) {
    return errno;
  }
  std::array<char, 48> path = {};
  std::snprintf(path.data(), path.size(), "/proc/%d/ns/user", peer.pid);
  out = UniqueFd(::open(path.data(), O_RDONLY | O_CLOEXEC));
  return out.valid() ? 0 : errno;
}

// What a joined server sent behind the mount's descriptors: its standard error.
UniqueFd receive_log(int channel) noexcept {
  int fd = -1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof fd)> control = {};
  char byte = 0;
  iovec data = {&byte, 1};
  msghdr message = {.msg_iov = &data,
                    .msg_iovlen = 1,
                    .msg_control = control.data(),
                    .msg_controllen = control.size()};
  const ssize_t got = ::recvmsg(channel, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  const cmsghdr* const header = got > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
  if (header != nullptr && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
    std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
  }
  return UniqueFd(fd);
}

std::string log_of(Server& server) {
  take_log(server);
  std::array<char, 1024> text = {};
  const ssize_t got = ::pread(server.log.get(), text.data(), text.size(), 0);
  return {text.data(), got > 0 ? static_cast<std::size_t>(got) : 0};
}

}  // namespace

std::vector<std::string> extent_arguments(const plan::ImageServer& image) {
  std::vector<std::string> out = {"--offset", std::to_string(image.offset), "--size",
                                  std::to_string(image.bytes)};
  if (image.key.valid() && image.crypt) {
    const CryptGeometry& crypt = *image.crypt;
    out.insert(out.end(),
               {"--key-fd", "00", "--crypt",
                std::to_string(crypt.sector_bytes) + ":" + std::to_string(crypt.data_offset) + ":" +
                    std::to_string(crypt.data_bytes) + ":" + std::to_string(crypt.iv_offset)});
  }
  if (image.verity) {
    const VerityGeometry& verity = *image.verity;
    out.insert(out.end(), {"--verity", hex(verity.root_hash.data(), verity.root_hash.size()) + ":" +
                                           hex(verity.salt.data(), verity.salt_bytes) + ":" +
                                           std::to_string(verity.data_blocks) + ":" +
                                           std::to_string(verity.tree_offset) + ":" +
                                           std::to_string(verity.tree_bytes)});
  }
  return out;
}

int send_server_descriptors(int channel, int fuse, int user_namespace) noexcept {
  const std::array<int, 2> fds = {fuse, user_namespace};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(fds))> control = {};
  char byte = 0;
  iovec data = {&byte, 1};
  msghdr message = {.msg_iov = &data,
                    .msg_iovlen = 1,
                    .msg_control = control.data(),
                    .msg_controllen = control.size()};
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(fds));
  std::memcpy(CMSG_DATA(header), fds.data(), sizeof(fds));
  return ::sendmsg(channel, &message, MSG_NOSIGNAL) == 1 ? 0 : errno;
}

int receive_server_descriptors(int channel, ServerDescriptors& out) noexcept {
  std::array<int, 2> fds = {-1, -1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(fds))> control = {};
  char byte = 0;
  iovec data = {&byte, 1};
  msghdr message = {.msg_iov = &data,
                    .msg_iovlen = 1,
                    .msg_control = control.data(),
                    .msg_controllen = control.size()};
  const ssize_t got = ::recvmsg(channel, &message, MSG_CMSG_CLOEXEC);
  if (got < 0) {
    return errno;
  }
  const cmsghdr* const header = CMSG_FIRSTHDR(&message);
  if (got == 0 || header == nullptr || header->cmsg_level != SOL_SOCKET ||
      header->cmsg_type != SCM_RIGHTS) {
    return ENODATA;
  }
  const std::size_t bytes = header->cmsg_len - CMSG_LEN(0);
  std::memcpy(fds.data(), CMSG_DATA(header), bytes < sizeof(fds) ? bytes : sizeof(fds));
  out.fuse = UniqueFd(fds[0]);
  out.user_namespace = UniqueFd(fds[1]);
  return out.user_namespace.valid() ? 0 : open_peer_namespace(channel, out.user_namespace);
}

// 73 bytes, 98 characters: with "postern-" it fits sun_path. The keys of an encrypted image need no
// place in it: whoever comes here has unlocked the same header, whose digest admits one key.
Outcome<std::string> server_name(const plan::ImageServer& image, const ServerOptions& options) {
  struct stat info = {};
  if (::fstat(image.image.get(), &info) != 0) {
    return system_problem("looking at " + image.path, errno);
  }
  std::string identity;
  put(identity, info.st_dev, 8);
  put(identity, info.st_ino, 8);
  put(identity, static_cast<std::uint64_t>(info.st_size), 8);
  put(identity, nanoseconds(info.st_mtim), 8);
  put(identity, nanoseconds(info.st_ctim), 8);
  put(identity, image.offset, 8);
  put(identity, image.bytes, 8);
  for (std::size_t i = 0; i < 8; ++i) {
    identity += image.verity ? static_cast<char>(image.verity->root_hash[i]) : '\0';
  }
  put(identity, options.ids.uid, 4);
  put(identity, options.ids.gid, 4);
  put(identity,
      static_cast<std::uint64_t>(options.fakeroot) | (image.verity ? 0x10U : 0U) |
          (image.crypt ? 0x20U : 0U) | (options.on_host ? 0x40U : 0U),
      1);
  return "postern-" + base64url(identity);
}

Outcome<Server> obtain_server(const plan::ImageServer& image, const ServerOptions& options) {
  UniqueFd socket;
  if (options.share) {
    POSTERN_TRY_ASSIGN(const std::string name, server_name(image, options));
    UniqueFd pidfd;
    switch (find_server(name, socket, pidfd)) {
      case Found::kJoined: {
        Server server;
        server.channel = std::move(socket);
        server.pidfd = std::move(pidfd);
        return server;
      }
      case Found::kNeither:
        socket.reset();
        break;
      case Found::kFirst:
        break;
    }
  }
  return start_server(image, options, socket);
}

void take_log(Server& server) {
  if (server.joined() && !server.log.valid()) {
    server.log = receive_log(server.socket.valid() ? server.socket.get() : server.channel.get());
  }
}

std::string end_server(Server& server) {
  if (server.pid < 0) {
    return {};
  }
  ::kill(server.pid, SIGKILL);
  ::waitpid(server.pid, nullptr, 0);
  server.pid = -1;
  return log_of(server);
}

void report_server(Server& server, const std::string& image) {
  const std::string log = log_of(server);
  for (std::string_view rest = log; !rest.empty();) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    const auto level_end = line.find(": ");  // "ERROR:   what"
    const auto start = line.find_first_not_of(' ', level_end == line.npos ? 0 : level_end + 2);
    if (start != line.npos) {
      message::error(image + ": " + std::string(line.substr(start)));
    }
  }
}

}  // namespace postern::start

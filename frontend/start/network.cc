#include "frontend/start/network.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <utility>

#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include "frontend/system/argv.h"
#include "frontend/system/capabilities.h"
#include "frontend/system/descriptor_message.h"
#include "frontend/system/read_file.h"

namespace postern::start {
namespace {

// To enter the container's network namespace, to make its device there, and to listen at any port.
constexpr std::uint64_t kNeeded = std::uint64_t{1} << CAP_SYS_ADMIN |
                                  std::uint64_t{1} << CAP_NET_ADMIN |
                                  std::uint64_t{1} << CAP_NET_BIND_SERVICE;

}  // namespace

NetworkProcess::~NetworkProcess() {
  end();
}

void NetworkProcess::end() noexcept {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(std::exchange(pid_, -1), nullptr, 0);
  }
}

Outcome<> NetworkProcess::begin(const plan::CarriedNetwork& network, int user_namespace) {
  std::array<int, 2> pair = {-1, -1};
  std::array<int, 2> pipe = {-1, -1};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair.data()) != 0) {
    return system_problem("creating a socket pair", errno);
  }
  to_child_ = UniqueFd(pair[0]);
  const UniqueFd theirs(pair[1]);
  if (::pipe2(pipe.data(), O_CLOEXEC) != 0) {
    return system_problem("creating a pipe", errno);
  }
  ready_ = UniqueFd(pipe[0]);
  const UniqueFd written(pipe[1]);
  log_ = UniqueFd(::memfd_create("postern network", MFD_CLOEXEC));
  if (!log_.valid()) {
    return system_problem("creating a memfd", errno);
  }
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ < 0) {
    return system_problem("starting " + network.program, errno, "raise `ulimit -u`");
  }
  if (pid_ == 0) {
    run(network, user_namespace, theirs.get(), written.get(), parent);
  }
  return Ok{};
}

void NetworkProcess::run(const plan::CarriedNetwork& network,
                         int user_namespace,
                         int socket,
                         int ready,
                         pid_t parent) const {
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  // Ctrl-C is the payload's, whose network is needed while it ends.
  ::setsid();
  // ORDER: setns(2) clears the signal of prctl(2), as every gain of capabilities does. The program
  // gets no more than this process has, so that the signal outlives its execution.
  if (::setns(user_namespace, CLONE_NEWUSER) != 0 || system::drop_capabilities(kNeeded) != 0 ||
      ::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || ::getppid() != parent) {
    ::_exit(1);
  }
  std::array<char, 1> byte{};
  system::Received received;
  if (system::receive_message(socket, byte, received) != 0 || received.count != 1) {
    ::_exit(1);  // there is no container
  }
  // Our numbers are all above those that the program has: one that is closed takes no other's.
  std::array<UniqueFd, 3> moved;
  moved[0].reset(::fcntl(received.descriptors[0].get(), F_DUPFD_CLOEXEC, 10));
  moved[1].reset(::fcntl(ready, F_DUPFD_CLOEXEC, 10));
  moved[2].reset(::fcntl(log_.get(), F_DUPFD_CLOEXEC, 10));
  const bool set = ::dup2(moved[0].get(), STDIN_FILENO) == STDIN_FILENO &&
                   ::dup2(moved[2].get(), STDOUT_FILENO) == STDOUT_FILENO &&
                   ::dup2(moved[2].get(), STDERR_FILENO) == STDERR_FILENO &&
                   ::dup2(moved[1].get(), network.ready_descriptor) == network.ready_descriptor;
  if (!set || ::chdir("/") != 0) {
    ::_exit(1);
  }
  std::vector<std::string> words = network.words;
  ::execv(network.program.c_str(), system::argv_of(words).data());
  ::_exit(1);
}

int NetworkProcess::connect() const noexcept {
  const UniqueFd space(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  if (!space.valid()) {
    return errno;
  }
  const std::array<char, 1> byte{};
  const std::array<int, 1> descriptors = {space.get()};
  if (const int err = system::send_message(to_child_.get(), byte, descriptors); err != 0) {
    return err;
  }
  std::array<char, 1> answer{};
  ssize_t got = 0;
  do {
    got = ::read(ready_.get(), answer.data(), answer.size());
  } while (got < 0 && errno == EINTR);
  return got == 1 ? 0 : ENODEV;
}

std::string NetworkProcess::last_words() const {
  if (!log_.valid() || ::lseek(log_.get(), 0, SEEK_SET) != 0) {
    return {};
  }
  std::string line;
  const std::string text = system::read_small_file(log_.get()).value_or("");
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string one = text.substr(begin, end - begin);
    begin = end + 1;
    // pasta of 2023 says so of each line if there is no log daemon.
    if (!one.empty() && !one.starts_with("Failed to send ")) {
      line = one;
    }
  }
  return line;
}

}  // namespace postern::start

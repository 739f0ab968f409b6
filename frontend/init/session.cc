#include "frontend/init/session.h"

#include <array>
#include <cerrno>
#include <string>
#include <utility>

#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "frontend/init/agent.h"
#include "frontend/init/handover.h"
#include "frontend/init/note.h"

namespace postern::init {
namespace {

constexpr int kSocket = 3;

[[noreturn]] void refuse(int socket, int err) {
  (void)send_note(socket, {NoteKind::kFailed, err});
  ::_exit(0);
}

// In this process the socket is all there is, besides 0, 1 and 2.
UniqueFd keep_alone(UniqueFd socket) {
  if (socket.get() != kSocket) {
    ::dup3(socket.get(), kSocket, O_CLOEXEC);
  }
  (void)socket.release();
  ::close_range(kSocket + 1, ~0U, 0);
  return UniqueFd(kSocket);
}

Result<LaunchRecord> read_wish(const UniqueFd& file) {
  struct stat info = {};
  if (::fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode) ||
      static_cast<std::uint64_t>(info.st_size) > kMaxRecordBytes) {
    return Error{.err = EBADMSG, .op = Op::kStart};
  }
  std::string bytes(static_cast<std::size_t>(info.st_size), '\0');
  if (::pread(file.get(), bytes.data(), bytes.size(), 0) != info.st_size) {
    return Error{.err = EBADMSG, .op = Op::kStart};
  }
  return decode(bytes);
}

class Session {
 public:
  Session(UniqueFd socket, UniqueFd signals, pid_t process)
      : socket_(std::move(socket)), signals_(std::move(signals)), process_(process) {}

  [[noreturn]] void run() {
    for (;;) {
      reap();
      std::array<pollfd, 2> events = {pollfd{signals_.get(), POLLIN, 0},
                                      pollfd{socket_.get(), POLLIN, 0}};
      if (::poll(events.data(), events.size(), -1) <= 0) {
        continue;
      }
      if (events[0].revents != 0) {
        signalfd_siginfo info = {};
        (void)!::read(signals_.get(), &info, sizeof info);
      }
      if (events[1].revents != 0) {
        obey();
      }
    }
  }

 private:
  void reap() {
    int status = 0;
    if (::waitpid(process_, &status, WNOHANG) == process_) {
      (void)send_note(socket_.get(), {NoteKind::kEnded, status});
      ::_exit(0);
    }
  }

  void obey() {
    Note note;
    UniqueFd passed;
    const int err = receive_note(socket_.get(), note, passed);
    if (err == EAGAIN || err == EINTR) {
      return;
    }
    if (err != 0 || (note.kind != NoteKind::kSignal && note.kind != NoteKind::kGroupSignal)) {
      // Whoever started it is gone: it is not left behind.
      ::kill(-process_, SIGKILL);
      ::kill(process_, SIGKILL);
      ::_exit(0);
    }
    if (note.value > 0 && note.value < NSIG) {
      ::kill(note.kind == NoteKind::kGroupSignal ? -process_ : process_, note.value);
    }
  }

  UniqueFd socket_;
  UniqueFd signals_;
  pid_t process_;
};

}  // namespace

void control_terminal(int fd) noexcept {
  if (fd >= 0) {
    ::ioctl(fd, TIOCSCTTY, 0);
  }
}

LaunchRecord serve_session(UniqueFd socket, const LaunchRecord& instance) {
  socket = keep_alone(std::move(socket));
  Result<UniqueFd> file = take_over_all(socket);
  if (!file) {
    refuse(socket.get(), file.error().err);
  }
  Result<LaunchRecord> wish = read_wish(*file);
  if (!wish) {
    refuse(socket.get(), wish.error().err);
  }
  file->reset();
  const pid_t session = ::getpid();
  std::array<int, 2> ready = {-1, -1};
  if (::pipe2(ready.data(), O_CLOEXEC) != 0) {
    refuse(socket.get(), errno);
  }
  UniqueFd is_ready(ready[0]);
  UniqueFd tell_ready(ready[1]);
  // ORDER: before the process runs: whoever has seen anything of it knows that it is there, and
  // that signals are its own from here on.
  (void)send_note(socket.get(), {NoteKind::kStarted, 0});
  const pid_t process = ::fork();
  if (process < 0) {
    refuse(socket.get(), errno);
  }
  if (process == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != session) {
      ::_exit(0);
    }
    ::setsid();
    control_terminal(wish->terminal);
    tell_ready.reset();
    is_ready.reset();
    socket.reset();
    return joined_record(*std::move(wish), instance);
  }
  // ORDER: signals for its group find the group.
  tell_ready.reset();
  char none = 0;
  (void)!::read(is_ready.get(), &none, 1);
  // Whoever waits for the end of a pipe waits for the process alone.
  socket = keep_alone(std::move(socket));
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    ::close(fd);
  }
  (void)is_ready.release();
  sigset_t ends;
  ::sigemptyset(&ends);
  ::sigaddset(&ends, SIGCHLD);
  Session(std::move(socket), UniqueFd(::signalfd(-1, &ends, SFD_CLOEXEC)), process).run();
}

}  // namespace postern::init

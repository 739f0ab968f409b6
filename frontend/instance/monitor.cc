#include "frontend/instance/monitor.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <utility>

#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>

#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

namespace postern::instance {
namespace {

using init::Note;
using init::NoteKind;

// A script that fails at once is reported by the command that started the instance. One that still
// runs after so long counts as running.
constexpr itimerspec kGrace = {.it_interval = {},
                               .it_value = {.tv_sec = 0, .tv_nsec = 250'000'000}};
constexpr std::size_t kMostClients = 512;

Outcome<UniqueFd> open_log(const std::string& path) {
  UniqueFd fd(::open(path.c_str(),
                     O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
                     0644));
  struct stat info = {};
  if (!fd.valid() || ::fstat(fd.get(), &info) != 0) {
    return system_problem("opening the log " + path, errno,
                          "set POSTERN_CONFIGDIR to a directory that you can write");
  }
  if (!S_ISREG(info.st_mode) || info.st_uid != ::geteuid()) {
    return Problem{.what = "the log " + path + " is not a file of yours", .cure = "remove it"};
  }
  ::fcntl(fd.get(), F_SETFL, O_APPEND);
  return fd;
}

}  // namespace

Monitor::Monitor(Wish wish, Logs logs, UniqueFd report)
    : wish_(std::move(wish)), report_(std::move(report)) {
  description_.out = std::move(logs.out);
  description_.err = std::move(logs.err);
}

Monitor::~Monitor() {
  remove_pid_file();
}

Outcome<> Monitor::prepare(plan::LaunchPlan& plan) {
  if ((plan.request.namespaces & CLONE_NEWPID) == 0) {
    return Problem{
        .what =
            "an instance needs a PID namespace, which the site's configuration does not allow "
            "(allow.pid-namespace)",
        .cure = "run the program with postern run or exec"};
  }
  POSTERN_TRY_ASSIGN(claim_, claim(wish_.name));
  POSTERN_TRY(open_pid_file());
  std::array<int, 2> pair = {-1, -1};
  events_ = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
  grace_ = UniqueFd(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!events_.valid() || !grace_.valid() ||
      ::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair.data()) != 0) {
    return system_problem("preparing the instance", errno);
  }
  agent_ = UniqueFd(pair[0]);
  // The instance outlives the caller's program: it gets none of its descriptors.
  plan.inherited = {pair[1]};
  plan.record.agent = pair[1];
  plan.record.instance = wish_.name;
  plan.record.reaper = true;
  for (const char* prefix : {"POSTERN_", "APPTAINER_", "SINGULARITY_"}) {
    plan.record.fixed.push_back(prefix + ("INSTANCE=" + wish_.name));
  }
  description_.image = plan.image_name;
  watch(claim_.socket());
  watch(agent_.get());
  watch(grace_.get());
  return detach();
}

Outcome<> Monitor::open_pid_file() {
  if (wish_.pid_file.empty()) {
    return Ok{};
  }
  auto place = path::place_of_new_file(wish_.pid_file);
  if (!place) {
    return Problem{.what = "--pid-file " + place.error().what, .cure = place.error().cure};
  }
  pid_place_ = *std::move(place);
  const int links = path::is_host_root() ? O_NOFOLLOW : 0;
  pid_file_ = UniqueFd(::open(pid_place_.path().c_str(),
                              O_WRONLY | O_CREAT | O_TRUNC | O_NOCTTY | O_CLOEXEC | links, 0644));
  return pid_file_.valid() ? Outcome<>(Ok{})
                           : Outcome<>(system_problem("--pid-file " + wish_.pid_file, errno,
                                                      "name a file that you can write"));
}

Outcome<> Monitor::detach() {
  const UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  POSTERN_TRY_ASSIGN(const UniqueFd out, open_log(description_.out));
  POSTERN_TRY_ASSIGN(const UniqueFd err, open_log(description_.err));
  caller_ = UniqueFd(::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
  if (!null.valid() || !caller_.valid()) {
    return system_problem("turning to the instance's logs", errno);
  }
  ::setsid();
  ::dup2(null.get(), STDIN_FILENO);
  ::dup2(out.get(), STDOUT_FILENO);
  ::dup2(err.get(), STDERR_FILENO);
  return Ok{};
}

void Monitor::return_to_caller() noexcept {
  if (caller_.valid()) {
    ::dup2(caller_.get(), STDERR_FILENO);
  }
}

void Monitor::watch(int fd) {
  epoll_event event = {.events = EPOLLIN, .data = {.fd = fd}};
  ::epoll_ctl(events_.get(), EPOLL_CTL_ADD, fd, &event);
}

void Monitor::started(pid_t payload) {
  description_.pid = payload;
}

void Monitor::serve() {
  std::array<epoll_event, 16> ready = {};
  const int count = ::epoll_wait(events_.get(), ready.data(), ready.size(), 0);
  for (int i = 0; i < count; ++i) {
    const int fd = ready[static_cast<std::size_t>(i)].data.fd;
    if (fd == claim_.socket()) {
      let_in();
    } else if (fd == agent_.get()) {
      take_report();
    } else if (fd == grace_.get()) {
      has_started();
    } else if (const auto client =
                   std::find_if(clients_.begin(), clients_.end(),
                                [fd](const UniqueFd& one) { return one.get() == fd; });
               client != clients_.end()) {
      answer(*client);
      std::erase_if(clients_, [](const UniqueFd& one) { return !one.valid(); });
    }
  }
}

// Whoever is of another user, or in a container, hears nothing.
void Monitor::let_in() {
  UniqueFd client(::accept4(claim_.socket(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  start::Peer peer;
  if (!client.valid() || clients_.size() >= kMostClients || !start::peer_of(client.get(), peer)) {
    return;
  }
  const bool is_root = peer.uid == 0;
  if (is_root || (peer.uid == ::geteuid() && start::is_in_our_place(peer))) {
    watch(client.get());
    clients_.push_back(std::move(client));
  }
}

void Monitor::answer(UniqueFd& client) {
  Note note;
  UniqueFd passed;
  const int err = init::receive_note(client.get(), note, passed);
  if (err == EAGAIN) {
    return;
  }
  if (err != 0) {
    client.reset();
    return;
  }
  obey(client, note);
}

void Monitor::obey(UniqueFd& client, Note note) {
  switch (note.kind) {
    case NoteKind::kDescribe:
      describe(client.get());
      return;
    case NoteKind::kJoin:
      join(std::move(client));
      return;
    case NoteKind::kStop:
      // The process is our child, and not waited for yet: the number is its own.
      if (note.value == SIGKILL) {
        ::kill(description_.pid, SIGKILL);
      } else {
        (void)init::send_note(agent_.get(), note, {}, MSG_DONTWAIT);
      }
      return;
    case NoteKind::kRunning:
    case NoteKind::kEnded:
    case NoteKind::kStarted:
    case NoteKind::kFailed:
    case NoteKind::kSignal:
    case NoteKind::kGroupSignal:
      break;
  }
  client.reset();
}

void Monitor::describe(int client) {
  const std::string bytes = encode(description_);
  (void)system::send_message(client, bytes, {}, MSG_DONTWAIT);
}

// The agent goes on with it from here.
void Monitor::join(UniqueFd client) {
  ::epoll_ctl(events_.get(), EPOLL_CTL_DEL, client.get(), nullptr);
  ::fcntl(client.get(), F_SETFL, 0);
  const int fd = client.get();
  if (const int err = init::send_note(agent_.get(), {NoteKind::kJoin, 0}, {&fd, 1}, MSG_DONTWAIT);
      err != 0) {
    (void)init::send_note(fd, {NoteKind::kFailed, err}, {}, MSG_DONTWAIT);
  }
}

void Monitor::take_report() {
  Note note;
  UniqueFd passed;
  if (init::receive_note(agent_.get(), note, passed) != 0) {
    // The agent has ended: the end of its process is what counts.
    ::epoll_ctl(events_.get(), EPOLL_CTL_DEL, agent_.get(), nullptr);
    return;
  }
  if (note.kind == NoteKind::kRunning) {
    ::timerfd_settime(grace_.get(), 0, &kGrace, nullptr);
  } else if (note.kind == NoteKind::kEnded && note.value == 0) {
    has_started();
  }
}

void Monitor::has_started() {
  const itimerspec never = {};
  ::timerfd_settime(grace_.get(), 0, &never, nullptr);
  if (!report_.valid()) {
    return;
  }
  if (pid_file_.valid()) {
    const std::string text = std::to_string(description_.pid) + "\n";
    (void)!::write(pid_file_.get(), text.data(), text.size());
  }
  // ORDER: from the report on the instance does not end with the command.
  ::prctl(PR_SET_PDEATHSIG, 0);
  (void)init::send_note(report_.get(), {NoteKind::kStarted, 0});
  report_.reset();
  caller_.reset();
  (void)!::chdir("/");  // no file system is in use because of us
}

void Monitor::remove_pid_file() noexcept {
  struct stat ours = {};
  struct stat there = {};
  if (pid_file_.valid() && ::fstat(pid_file_.get(), &ours) == 0 &&
      ::lstat(pid_place_.path().c_str(), &there) == 0 && ours.st_dev == there.st_dev &&
      ours.st_ino == there.st_ino) {
    ::unlink(pid_place_.path().c_str());
  }
  pid_file_.reset();
}

void Monitor::ended(int status) {
  remove_pid_file();
  claim_.release();
  if (report_.valid()) {
    (void)init::send_note(report_.get(), {NoteKind::kEnded, status});
  }
}

}  // namespace postern::instance

#include "frontend/instance/detach.h"

#include <array>
#include <cerrno>
#include <string>
#include <utility>

#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "frontend/init/note.h"
#include "frontend/instance/name.h"
#include "frontend/message/message.h"
#include "frontend/system/safe_directory.h"
#include "frontend/system/spawn.h"
#include "policy/accounts/accounts.h"
#include "policy/text/split.h"
#include "protocol/exit_codes.h"

namespace postern::instance {
namespace {

constexpr std::size_t kMostShown = 4096;  // of the log of an instance that did not start

std::string variable(const char* name) {
  const char* const value = ::getenv(name);  // NOLINT(concurrency-mt-unsafe): one thread
  return value != nullptr ? value : "";
}

Outcome<std::string> configuration_directory() {
  for (const char* name : {"POSTERN_CONFIGDIR", "APPTAINER_CONFIGDIR", "SINGULARITY_CONFIGDIR"}) {
    if (std::string path = variable(name); path.starts_with('/')) {
      return path;
    }
  }
  std::string home = variable("HOME");
  if (!home.starts_with('/')) {
    const auto user = accounts::find_user(::geteuid());
    home = user ? user->home : "";
  }
  if (!home.starts_with('/')) {
    return Problem{.what = "there is no home directory for the logs of the instance",
                   .cure = "set POSTERN_CONFIGDIR to a directory that you can write"};
  }
  return home + "/.postern";
}

std::string user_name() {
  const auto user = accounts::find_user(::geteuid());
  return user && !user->name.empty() ? user->name : std::to_string(::geteuid());
}

Outcome<> make_folder(const std::string& path) {
  return ::mkdir(path.c_str(), 0700) == 0 || errno == EEXIST
             ? Outcome<>(Ok{})
             : Outcome<>(system_problem("making the directory " + path, errno,
                                        "set POSTERN_CONFIGDIR to a directory that you can write"));
}

off_t size_of(const std::string& path) {
  struct stat info = {};
  return ::stat(path.c_str(), &info) == 0 ? info.st_size : 0;
}

// What the instance has written to its log meanwhile.
void show_log(const std::string& path, off_t from) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  std::array<char, kMostShown> text = {};
  const ssize_t got = file.valid() ? ::pread(file.get(), text.data(), text.size(), from) : 0;
  std::string_view rest(text.data(), got > 0 ? static_cast<std::size_t>(got) : 0);
  while (!rest.empty()) {
    message::info("its log: " + std::string(text::next_line(rest)));
  }
}

int report(const Wish& wish, const Logs& logs, off_t before, int socket, pid_t monitor) {
  init::Note note;
  UniqueFd passed;
  int err = 0;
  do {
    err = init::receive_note(socket, note, passed);
  } while (err == EINTR);
  if (err == 0 && note.kind == init::NoteKind::kStarted) {
    message::verbose("the output of the instance is in " + logs.out);
    message::verbose("the errors of the instance are in " + logs.err);
    message::info("instance started successfully");
    return 0;
  }
  const int status = system::wait_for_end(monitor);
  if (err == 0) {
    show_log(logs.err, before);
    message::fatal({.what = "instance " + wish.name + " " +
                            (WIFEXITED(note.value) && WEXITSTATUS(note.value) != 0
                                 ? "did not start: its script ended with exit status " +
                                       std::to_string(WEXITSTATUS(note.value))
                                 : "ended while it was starting"),
                    .cure = "see " + logs.err});
    return kExitFatal;
  }
  if (WIFSIGNALED(status)) {
    message::fatal({.what = "the process that starts instance " + wish.name + " " +
                            system::describe_end(status),
                    .cure = "try again"});
    return kExitFatal;
  }
  return WEXITSTATUS(status);  // it has said why
}

[[noreturn]] void be_monitor(Wish wish,
                             Logs logs,
                             UniqueFd socket,
                             pid_t command,
                             const std::function<Outcome<int>(Monitor&)>& start) {
  // Until the start is reported the instance goes with the command.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != command) {
    ::_exit(kExitFatal);
  }
  int status = kExitFatal;
  {
    Monitor monitor(std::move(wish), std::move(logs), std::move(socket));
    const Outcome<int> ended = start(monitor);
    if (!ended) {
      monitor.return_to_caller();
      message::fatal(ended.error());
    }
    status = ended ? *ended : ended.error().exit_code;
  }
  ::_exit(status);
}

}  // namespace

Outcome<Logs> logs_for(const std::string& name) {
  POSTERN_TRY_ASSIGN(std::string folder, configuration_directory());
  if (auto safe = system::check_safe_to_make(folder); !safe) {
    Problem problem = std::move(safe).error();
    problem.cure = "set POSTERN_CONFIGDIR to a directory of your own, for the logs of the instance";
    return problem;
  }
  utsname host = {};
  ::uname(&host);
  POSTERN_TRY(make_folder(folder));
  for (const std::string& part :
       {std::string("instances"), std::string("logs"), std::string(host.nodename), user_name()}) {
    folder += "/" + part;
    POSTERN_TRY(make_folder(folder));
  }
  return Logs{.out = folder + "/" + name + ".out", .err = folder + "/" + name + ".err"};
}

Outcome<int> start_detached(Wish wish, const std::function<Outcome<int>(Monitor&)>& start) {
  POSTERN_TRY(check_name(wish.name));
  POSTERN_TRY_ASSIGN(Logs logs, logs_for(wish.name));
  const off_t before = size_of(logs.err);
  std::array<int, 2> pair = {-1, -1};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair.data()) != 0) {
    return system_problem("creating a socket pair", errno);
  }
  const UniqueFd mine(pair[0]);
  UniqueFd theirs(pair[1]);
  // ORDER: an ignored SIGCHLD would throw the monitor's status away (wait(2)).
  ::signal(SIGCHLD, SIG_DFL);
  const pid_t command = ::getpid();
  const pid_t monitor = ::fork();
  if (monitor < 0) {
    return system_problem("starting the process beside the instance", errno,
                          "raise `ulimit -u`, or end some of your processes");
  }
  if (monitor == 0) {
    ::close(pair[0]);
    be_monitor(std::move(wish), std::move(logs), std::move(theirs), command, start);
  }
  theirs.reset();
  return report(wish, logs, before, mine.get(), monitor);
}

}  // namespace postern::instance

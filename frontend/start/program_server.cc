#include "frontend/start/program_server.h"

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include "frontend/message/message.h"
#include "frontend/start/foreign_server.h"
#include "frontend/start/image_mount.h"
#include "frontend/start/server_child.h"
#include "frontend/system/find_program.h"

namespace postern::start {
namespace {

constexpr int kDeviceNumber = 3;  // of /dev/fuse in the program

// After fork(2), until the program is executed. What fails is written to standard error, the log.
class Child {
 public:
  Child(const plan::ImageServer& image, const std::string& program)
      : image_(image), program_(program) {}

  [[noreturn]] void run(int device, int log, int null, pid_t parent) {
    // Signals of the terminal are the payload's; this process ends when it is told to.
    ::setpgid(0, 0);
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    check_child(::getppid() == parent, "the frontend has ended");
    check_child(::dup2(null, 0) == 0 && ::dup2(null, 1) == 1 && ::dup2(log, 2) == 2,
                "standard streams");
    check_child(device == kDeviceNumber ? ::fcntl(device, F_SETFD, 0) == 0
                                        : ::dup2(device, kDeviceNumber) == kDeviceNumber,
                "/dev/fuse");
    std::vector<std::string> words = image_.command;
    words.push_back("/dev/fd/" + std::to_string(kDeviceNumber));
    execute_server(program_, std::move(words));
  }

 private:
  const plan::ImageServer& image_;
  const std::string& program_;
};

// Looks at the root of what is mounted, in a process of its own: that waits until the program
// answers, or until nobody has /dev/fuse any more.
int look_at(const ImageMount& mount) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct stat status = {};
    const bool good = ::setns(mount.user_namespace.get(), CLONE_NEWUSER) == 0 &&
                      ::setns(mount.mount_namespace.get(), CLONE_NEWNS) == 0 &&
                      ::stat("/", &status) == 0;
    ::_exit(good ? 0 : errno);
  }
  int status = 0;
  if (pid < 0 || ::waitpid(pid, &status, 0) != pid || !WIFEXITED(status)) {
    return ECHILD;
  }
  return WEXITSTATUS(status);
}

}  // namespace

Outcome<Server> start_program_server(const plan::ImageServer& image, const ServerOptions& options) {
  const std::string program = system::find_program(image.command.front());
  if (program.empty()) {
    return Problem{.what = "--fusemount: there is no program " + image.command.front(),
                   .cure = "install it, or give its path"};
  }
  POSTERN_TRY_ASSIGN(ImageMount mount, mount_image(options.ids, options.fakeroot,
                                                   options.user_namespace, MountedBy::kProgram));
  Server server;
  server.foreign = true;
  server.log = UniqueFd(::memfd_create("postern-fusemount log", MFD_CLOEXEC));
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!server.log.valid() || !null.valid()) {
    return system_problem("making a log for " + program, errno);
  }
  const pid_t parent = ::getpid();
  server.pid = ::fork();
  if (server.pid == 0) {
    Child(image, program).run(mount.devices[0].get(), server.log.get(), null.get(), parent);
  }
  if (server.pid < 0) {
    return system_problem("starting " + program, errno, "raise `ulimit -u`");
  }
  // ORDER: before the look, which else would wait for a program that has ended.
  mount.devices = {};
  message::debug("serving " + image.path + " with " + program);
  if (const int err = look_at(mount); err != 0) {
    const std::string said = end_foreign_server(server);
    return Problem{.what = "--fusemount: " + image.path + " serves nothing (" +
                           std::strerror(err) +  // NOLINT(concurrency-mt-unsafe): one thread
                           ")" + (said.empty() ? "" : ": " + said),
                   .cure =
                       "try it without postern; it must take /dev/fd/N as its mount point, as "
                       "programs do that are made with libfuse 3"};
  }
  server.user_namespace = std::move(mount.user_namespace);
  server.mount_namespace = std::move(mount.mount_namespace);
  return server;
}

}  // namespace postern::start

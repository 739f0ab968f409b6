#include "frontend/start/server_child.h"

#include <cerrno>
#include <cstring>

#include <signal.h>
#include <unistd.h>

#include "frontend/system/argv.h"

namespace postern::start {

void check_child(bool good, const std::string& doing) {
  if (!good) {
    const std::string text = doing + ": " + std::strerror(errno) + "\n";  // NOLINT: one thread
    (void)::write(2, text.data(), text.size());
    ::_exit(1);
  }
}

void execute_server(const std::string& program, std::vector<std::string> words) {
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) {
    ::signal(number, SIG_DFL);
  }
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  std::vector<char*> argv = system::argv_of(words);
  ::execv(program.c_str(), argv.data());
  check_child(false, program);
  ::_exit(1);
}

}  // namespace postern::start

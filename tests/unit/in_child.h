// Whatever changes or ends the process runs in a child; the wait status (wait(2)) is what is
// asserted.
#pragma once

#include <sys/wait.h>

#include <unistd.h>

template <class Function>
int in_child(Function function) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::_exit(static_cast<int>(function()));
  }
  int status = -1;
  return ::waitpid(pid, &status, 0) == pid ? status : -1;
}

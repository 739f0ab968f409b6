// Waiting for the payload: signals, job control, status. Common to both modes.
#pragma once

#include <cstdint>

#include <sys/types.h>

#include <poll.h>
#include <signal.h>

#include "frontend/start/attendant.h"
#include "protocol/base/unique_fd.h"

namespace postern::start {

// Blocks the signals that are to be forwarded, for the life of the object: from before the
// payload's process exists, so that none is lost and none ends us before the payload. Faults
// (SIGSEGV …) stay. Those by which a person or a batch system ends a program do so as long as there
// is no payload, whatever this process is waiting for: what it has started ends with it.
class BlockedSignals {
 public:
  BlockedSignals() noexcept;
  ~BlockedSignals();
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;

  // From now on the payload gets the others too. Before its process is made: what comes while it
  // begins to run is its own.
  void hold_all() noexcept;

  // There is no payload after all: those that end programs end this process again.
  void let_end() noexcept;

  // poll(2) of one descriptor, after hold_all(). A signal by which a person or a batch system ends
  // a program ends this process if it comes before the event; later ones stay for the payload.
  int poll_or_end(pollfd& event, int milliseconds) const noexcept;

  [[nodiscard]] const sigset_t& set() const noexcept { return set_; }

 private:
  sigset_t set_;
  sigset_t before_;
  UniqueFd
      ends_;  // signalfd(2) of those that end programs; not valid if there was no descriptor left
};

struct Payload {
  pid_t pid = -1;
  bool has_reaper = false;  // process 1 of its own pid namespace: cannot stop itself
  pid_t server = -1;        // postern-squashfs started by us, our child; -1 where none
  int server_pidfd = -1;    // … or joined: pidfd_open(2), readable once it is gone; -1 where none
};

struct Ended {
  int status = 0;            // as of wait(2)
  bool server_died = false;  // the image's server was seen to end while the payload still ran
};

// Waits. Signals that reach us go on to the payload, unless the terminal sent them to the payload
// as well (APPTAINER: only where the terminal's foreground group is another); when the payload
// stops (Ctrl-Z), we stop, and continue it when we are continued. `attendant`, where there is one,
// is served meanwhile.
Ended wait_for_payload(const Payload& payload,
                       const BlockedSignals& signals,
                       Attendant* attendant = nullptr);

// The status to end with: the payload's exit status; where signal N killed it, this process kills
// itself with N, without a core file, so that the shell sees what happened. Returns 128+N should
// that not be possible.
int finish_like(int status);

}  // namespace postern::start

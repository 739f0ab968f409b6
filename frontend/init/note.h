// Messages of one fixed size between an instance's monitor, the agent inside it, and whoever joins
// it (agent.h).
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>

#include "frontend/system/descriptor_message.h"
#include "protocol/base/unique_fd.h"

namespace postern::init {

enum class NoteKind : std::int32_t {
  // From the monitor to the agent.
  kJoin = 1,  // the socket of somebody who joins comes with it
  kStop,      // value: the signal by which the instance is asked to end
  // From the agent to the monitor.
  kRunning,  // the script's program runs, or the script's process has ended
  kEnded,    // value: the status, as of wait(2), of the script; or of a process that has joined
  // From the agent to whoever joins, and kEnded.
  kStarted,
  kFailed,  // value: errno
  // From whoever joins to the agent: value is a signal for the process, or for its group.
  kSignal,
  kGroupSignal,
  // From a command to the monitor, and kJoin and kStop.
  kDescribe,
};

struct Note {
  NoteKind kind = NoteKind::kFailed;
  std::int32_t value = 0;
};

// Returns 0 or errno.
inline int send_note(int socket, Note note, std::span<const int> passed = {}, int flags = 0) {
  std::array<char, sizeof(Note)> bytes;
  std::memcpy(bytes.data(), &note, sizeof note);
  return system::send_message(socket, bytes, passed, flags);
}

// Returns 0 or errno: ENODATA once the other end is closed, EBADMSG for what is no note.
// `passed`: the first descriptor that came with it.
inline int receive_note(int socket, Note& note, UniqueFd& passed) {
  std::array<char, sizeof(Note)> bytes;
  system::Received got;
  if (const int err = system::receive_message(socket, bytes, got); err != 0) {
    return err;
  }
  if (got.bytes != sizeof note) {
    return EBADMSG;
  }
  std::memcpy(&note, bytes.data(), sizeof note);
  passed = std::move(got.descriptors[0]);
  return 0;
}

}  // namespace postern::init

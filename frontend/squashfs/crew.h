// Who does what among the server's threads. One thread listens to the kernel; before it decodes a
// block it hands that over to another, so that the next request need not wait. Threads are started
// when there is work for them, and the rest sleep: they do not compete for requests, which would
// make a single reader slower. A sleeping thread decodes what will probably be read next.
#pragma once

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstddef>
#include <mutex>

#include "frontend/squashfs/reader.h"

namespace postern::squashfs {

class Crew {
 public:
  // Starts one more thread, which calls rest() first. False: not possible.
  class Recruiter {
   public:
    virtual bool recruit() noexcept = 0;

   protected:
    ~Recruiter() = default;
  };

  // `most` threads in all; `processors` of them may decode at a time before reading ahead stops.
  // The calling thread is the first, and listens.
  Crew(Recruiter& recruiter, unsigned most, unsigned processors) noexcept
      : recruiter_(recruiter), most_(most), processors_(processors) {}

  enum class Task { kListen, kReadAhead, kStop };
  // Sleeps until there is something to do; `block` is set with kReadAhead.
  Task rest(DataBlock& block) noexcept;

  // Around something slow that a listening thread does. end_slow: whether to go on listening;
  // false: another thread does, rest().
  void begin_slow() noexcept;
  bool end_slow() noexcept;

  // The listening thread saw more requests waiting, or none: more threads may have to listen.
  // False: one less, rest().
  bool report_backlog(bool waiting) noexcept;

  // `block` will probably be wanted. Dropped where all are busy.
  void read_ahead(const DataBlock& block) noexcept;
  // Whether read_ahead() would be taken up.
  bool has_time() noexcept;
  void end_read_ahead() noexcept;

  void stop() noexcept;

 private:
  bool call_one() noexcept;

  Recruiter& recruiter_;
  const unsigned most_;
  const unsigned processors_;
  std::mutex mutex_;
  std::condition_variable work_;
  unsigned threads_ = 1;
  unsigned listening_ = 1;  // in read(2), or in a request that is answered at once
  unsigned wanted_ = 1;     // that should listen
  unsigned called_ = 0;     // of those listening: not awake yet
  unsigned resting_ = 0;
  unsigned decoding_ = 0;
  int backlog_ = 0;
  std::array<DataBlock, 8> queue_;
  std::size_t queued_ = 0;
  bool stopped_ = false;
};

}  // namespace postern::squashfs

#include "frontend/squashfs/crew.h"

namespace postern::squashfs {
namespace {

// Samples of report_backlog() in a row before the number of listeners changes.
constexpr int kBacklogSamples = 4;

}  // namespace

// Under the mutex: another thread is to wake up, or to be started.
bool Crew::call_one() noexcept {
  if (resting_ > called_ + queued_) {
    work_.notify_one();
    return true;
  }
  if (threads_ < most_ && recruiter_.recruit()) {
    ++threads_;
    ++resting_;  // it rests as soon as it runs
    return true;
  }
  return false;
}

Crew::Task Crew::rest(DataBlock& block) noexcept {
  std::unique_lock lock(mutex_);
  work_.wait(lock, [this] { return stopped_ || called_ > 0 || queued_ > 0; });
  if (stopped_) {
    return Task::kStop;
  }
  --resting_;
  if (called_ > 0) {
    --called_;
    return Task::kListen;
  }
  block = queue_[0];
  --queued_;
  for (std::size_t i = 0; i < queued_; ++i) {
    queue_[i] = queue_[i + 1];
  }
  ++decoding_;
  return Task::kReadAhead;
}

void Crew::begin_slow() noexcept {
  const std::lock_guard lock(mutex_);
  --listening_;
  ++decoding_;
  if (listening_ < wanted_ && call_one()) {
    ++called_;
    ++listening_;
  }
}

bool Crew::end_slow() noexcept {
  const std::lock_guard lock(mutex_);
  --decoding_;
  if (listening_ < wanted_) {
    ++listening_;
    return true;
  }
  ++resting_;
  return false;
}

bool Crew::report_backlog(bool waiting) noexcept {
  const std::lock_guard lock(mutex_);
  backlog_ = waiting ? std::max(backlog_, 0) + 1 : std::min(backlog_, 0) - 1;
  if (backlog_ >= kBacklogSamples && wanted_ < std::min(most_, processors_)) {
    backlog_ = 0;
    ++wanted_;
    if (listening_ < wanted_ && call_one()) {
      ++called_;
      ++listening_;
    }
  } else if (backlog_ <= -kBacklogSamples && wanted_ > 1) {
    backlog_ = 0;
    --wanted_;
  }
  if (listening_ > wanted_) {
    --listening_;
    ++resting_;
    return false;
  }
  return true;
}

void Crew::read_ahead(const DataBlock& block) noexcept {
  const std::lock_guard lock(mutex_);
  if (queued_ < queue_.size() && decoding_ + queued_ < processors_ && call_one()) {
    queue_[queued_++] = block;
  }
}

bool Crew::has_time() noexcept {
  const std::lock_guard lock(mutex_);
  return decoding_ + queued_ < processors_;
}

void Crew::end_read_ahead() noexcept {
  const std::lock_guard lock(mutex_);
  --decoding_;
  ++resting_;
}

void Crew::stop() noexcept {
  const std::lock_guard lock(mutex_);
  stopped_ = true;
  work_.notify_all();
}

}  // namespace postern::squashfs

#include "frontend/squashfs/share.h"

#include <array>
#include <cerrno>
#include <span>
#include <utility>
#include <vector>

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <poll.h>
#include <time.h>
#include <unistd.h>

#include "frontend/system/descriptor_message.h"

namespace postern::squashfs {
namespace {

constexpr timespec kPause{0, 1'000'000};
// Connections that have not shown yet where they come from. The oldest makes room.
constexpr std::size_t kMostStrangers = 256;
// How long they are waited for once nobody else is there.
constexpr int kPatienceMilliseconds = 100;

// fstat(3) of the C library makes a call that takes a path, which the filter of this process
// forbids.
bool is_same_file(int one, int other) noexcept {
  struct stat a{};
  struct stat b{};
  return ::syscall(__NR_fstat, one, &a) == 0 && ::syscall(__NR_fstat, other, &b) == 0 &&
         a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

bool is_same_user(int peer) noexcept {
  ucred who{};
  socklen_t size = sizeof who;
  return ::getsockopt(peer, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 && who.uid == ::getuid();
}

class Sharer {
 public:
  Sharer(Sharing& sharing, int fuse) noexcept : sharing_(sharing), fuse_(fuse) {
    starts_.push_back(std::move(sharing.starter));
  }

  void run() noexcept {
    do {
      while (!starts_.empty() || !strangers_.empty()) {
        wait();
      }
    } while (accept_one());  // whoever is in the queue already is not sent away
    sharing_.listening.reset();
    answer_last(kLast);
    sharing_.user_namespace.reset();
    sharing_.mount_namespace.reset();
  }

 private:
  void wait() noexcept {
    const std::size_t strangers = strangers_.size();
    const std::size_t starts = starts_.size();
    events_.assign({{sharing_.listening.get(), POLLIN, 0}, {sharing_.end.get(), POLLIN, 0}});
    for (const auto* const list : {&strangers_, &starts_}) {
      for (const UniqueFd& peer : *list) {
        events_.push_back({peer.get(), POLLIN, 0});
      }
    }
    const int ready =
        ::poll(events_.data(), events_.size(), starts_.empty() ? kPatienceMilliseconds : -1);
    if (ready <= 0) {
      if (ready == 0) {
        strangers_.clear();
      }
      return;
    }
    // From the last to the first: taking one out moves none that is still to be looked at.
    const std::span events(events_);
    for (std::size_t i = starts; i-- > 0;) {
      if (events[2 + strangers + i].revents != 0) {
        hear_start(i);
      }
    }
    for (std::size_t i = strangers; i-- > 0;) {
      if (events[2 + i].revents != 0) {
        hear_stranger(i);
      }
    }
    if (events[1].revents != 0) {
      sharing_.listening.reset();
      sharing_.end.reset();
    } else if (events[0].revents != 0) {
      accept_one();
    }
  }

  static UniqueFd take(std::vector<UniqueFd>& list, std::size_t index) noexcept {
    UniqueFd taken = std::move(list[index]);
    list.erase(list.begin() + static_cast<std::ptrdiff_t>(index));
    return taken;
  }

  // False: nobody waits.
  bool accept_one() noexcept {
    UniqueFd peer(
        ::accept4(sharing_.listening.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (peer.valid() && is_same_user(peer.get())) {
      if (strangers_.size() == kMostStrangers) {
        take(strangers_, 0);
      }
      strangers_.push_back(std::move(peer));
    } else if (!peer.valid() && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
      ::nanosleep(&kPause, nullptr);  // out of descriptors or memory: for now
      return false;
    }
    return peer.valid();
  }

  void hear_stranger(std::size_t index) noexcept {
    UniqueFd peer = take(strangers_, index);
    system::Received got;
    char word = 0;
    if (system::receive_message(peer.get(), {&word, 1}, got) == 0 && word == kJoining &&
        got.count == 1 && is_same_file(got.descriptors[0].get(), sharing_.token.get()) &&
        hand_over(peer.get())) {
      starts_.push_back(std::move(peer));
      answer_last(kOthersRemain);
    }
  }

  bool hand_over(int peer) const noexcept {
    const bool joins_namespaces = sharing_.mount_namespace.valid();
    const std::array fds = {sharing_.token.get(),
                            joins_namespaces ? sharing_.user_namespace.get() : fuse_,
                            sharing_.mount_namespace.get()};
    return system::send_message(peer, sharing_.identity,
                                std::span(fds).first(joins_namespaces ? 3 : 2), MSG_DONTWAIT) == 0;
  }

  // A start says that it leaves, or it has gone without a word. The last one is answered when
  // nobody can come any more.
  void hear_start(std::size_t index) noexcept {
    char word = 0;
    UniqueFd start = take(starts_, index);
    if (::recv(start.get(), &word, 1, MSG_DONTWAIT) != 1 || word != kLeaving) {
      return;
    }
    if (starts_.empty()) {
      last_ = std::move(start);
    } else {
      answer(start.get(), kOthersRemain);
    }
  }

  void answer_last(char word) noexcept {
    if (last_.valid()) {
      answer(last_.get(), word);
      last_.reset();
    }
  }

  static void answer(int start, char word) noexcept {
    std::array<char, 1 + kMostLogBytes> text{};
    text[0] = word;
    const ssize_t got = ::pread(STDERR_FILENO, text.data() + 1, kMostLogBytes, 0);
    system::send_message(start,
                         std::span(text).first(1 + static_cast<std::size_t>(got > 0 ? got : 0)), {},
                         MSG_DONTWAIT);
  }

  Sharing& sharing_;
  const int fuse_;
  UniqueFd last_;  // waits for its answer
  std::vector<UniqueFd> starts_;
  std::vector<UniqueFd> strangers_;
  std::vector<pollfd> events_;
};

}  // namespace

void share_mount(Sharing& sharing, int fuse) noexcept {
  Sharer(sharing, fuse).run();
}

}  // namespace postern::squashfs

#include <array>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sys/syscall.h>

#include <poll.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "frontend/init/note.h"
#include "frontend/instance/command.h"
#include "frontend/instance/registry.h"
#include "frontend/message/message.h"
#include "protocol/exit_codes.h"

namespace postern::instance {
namespace {

constexpr std::int64_t kDefaultSeconds = 10;
constexpr std::int64_t kMostSeconds = 1'000'000;
// For the kernel to take down what was killed.
constexpr std::int64_t kKillMilliseconds = 5'000;

std::optional<std::int64_t> number_in(std::string_view text) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc{} && end == text.data() + text.size() ? std::optional(number)
                                                                  : std::nullopt;
}

Outcome<int> signal_in(std::string_view text) {
  if (const auto number = number_in(text)) {
    if (*number > 0 && *number < NSIG) {
      return static_cast<int>(*number);
    }
  } else {
    std::string name(text);
    for (char& c : name) {
      c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    }
    name = name.starts_with("SIG") ? name.substr(3) : name;
    for (int one = 1; one < NSIG; ++one) {
      const char* const known = sigabbrev_np(one);
      if (known != nullptr && name == known) {
        return one;
      }
    }
  }
  return Problem{.what = "--signal: there is no signal " + std::string(text),
                 .cure = "give a name or a number of kill -l, for example TERM"};
}

struct Wish {
  int signal = SIGINT;
  std::int64_t milliseconds = 0;
};

Outcome<Wish> wish_in(const option::Arguments& arguments) {
  Wish wish{.milliseconds = kDefaultSeconds * 1000};
  if (const std::string_view text = arguments.text("timeout"); !text.empty()) {
    const auto seconds = number_in(text);
    if (!seconds || *seconds < 0 || *seconds > kMostSeconds) {
      return Problem{.what = "--timeout: " + std::string(text) + " is not a number of seconds"};
    }
    wish.milliseconds = *seconds * 1000;
  }
  if (const std::string_view text = arguments.text("signal"); !text.empty()) {
    POSTERN_TRY_ASSIGN(wish.signal, signal_in(text));
  }
  if (arguments.given("force")) {
    wish.signal = SIGKILL;
  }
  return wish;
}

std::int64_t now() {
  timespec time = {};
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000 + time.tv_nsec / 1'000'000;
}

// The monitor's end of the connection closes with its process, once nothing of the instance is
// left. Takes out of `contacts` those whose instance has ended.
void wait_for_ends(std::vector<Contact>& contacts, std::int64_t milliseconds) {
  const std::int64_t end = now() + milliseconds;
  while (!contacts.empty()) {
    std::vector<pollfd> events;
    for (const Contact& contact : contacts) {
      events.push_back({contact.socket.get(), POLLIN, 0});
    }
    const std::int64_t left = std::max<std::int64_t>(end - now(), 0);
    const int ready = ::poll(events.data(), events.size(), static_cast<int>(left));
    if (ready == 0) {
      return;
    }
    for (std::size_t i = events.size(); ready > 0 && i-- > 0;) {
      if (events[i].revents != 0) {
        contacts.erase(contacts.begin() + static_cast<std::ptrdiff_t>(i));
      }
    }
  }
}

void ask(const std::vector<Contact>& contacts, int signal) {
  for (const Contact& contact : contacts) {
    (void)init::send_note(contact.socket.get(), {init::NoteKind::kStop, signal});
  }
}

// A monitor that does not answer, because it was stopped: its end is that of the instance.
void kill_monitors(const std::vector<Contact>& contacts) {
  for (const Contact& contact : contacts) {
    ::syscall(SYS_pidfd_send_signal, contact.monitor.process.get(), SIGKILL, nullptr, 0);
  }
}

}  // namespace

Outcome<int> stop(const option::Arguments& arguments, uid_t owner) {
  const bool all = arguments.given("all");
  if (arguments.positional().empty() != all) {
    message::error(all ? "--all and a name exclude each other"
                       : "the name of an instance, or --all, is needed");
    return kExitUsage;
  }
  POSTERN_TRY_ASSIGN(const Wish wish, wish_in(arguments));
  std::vector<Contact> contacts =
      find_all(all ? std::string("*") : arguments.positional().front(), owner);
  if (contacts.empty()) {
    return Problem{.what = "no instance found",
                   .cure = "postern instance list shows those that run on this host"};
  }
  for (const Contact& contact : contacts) {
    const auto description = describe(contact);
    message::info("Stopping " + contact.name + " instance of " +
                  (description
                       ? description->image + " (PID=" + std::to_string(description->pid) + ")"
                       : "an image that is not known: its monitor does not answer"));
  }
  ask(contacts, wish.signal);
  wait_for_ends(contacts, wish.signal == SIGKILL ? kKillMilliseconds : wish.milliseconds);
  if (!contacts.empty() && wish.signal != SIGKILL) {
    for (const Contact& contact : contacts) {
      message::warning("instance " + contact.name + " did not end in time: killing it");
    }
    ask(contacts, SIGKILL);
    wait_for_ends(contacts, kKillMilliseconds);
  }
  if (!contacts.empty()) {
    kill_monitors(contacts);
    wait_for_ends(contacts, kKillMilliseconds);
  }
  if (!contacts.empty()) {
    return Problem{.what = "instance " + contacts.front().name + " does not end",
                   .cure = "a process of it may wait for a dead file server: see ps(1), state D"};
  }
  return 0;
}

}  // namespace postern::instance

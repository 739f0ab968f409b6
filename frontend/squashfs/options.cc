#include "frontend/squashfs/options.h"

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <limits>
#include <string_view>

namespace postern::squashfs {
namespace {

Problem bad(std::string_view option, std::string_view value) {
  return Problem{.what = "postern-squashfs: bad value '" + std::string(value) + "' of " +
                         std::string(option)};
}

template <class T>
Outcome<> number(std::string_view option, std::string_view text, T least, T most, T& out) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < least || value > most) {
    return bad(option, text);
  }
  out = value;
  return Ok{};
}

Outcome<> descriptor(std::string_view option, std::string_view text, int& out) {
  return number(option, text, 3, std::numeric_limits<int>::max(), out);
}

Outcome<> owner(std::string_view option, std::string_view text, std::optional<Owner>& out) {
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) {
    return bad(option, text);
  }
  // Not the last id: it is the "no change" of chown(2).
  constexpr std::uint32_t kMost = std::numeric_limits<std::uint32_t>::max() - 1;
  Owner value;
  POSTERN_TRY(number(option, text.substr(0, colon), 0U, kMost, value.uid));
  POSTERN_TRY(number(option, text.substr(colon + 1), 0U, kMost, value.gid));
  out = value;
  return Ok{};
}

Outcome<> take(std::string_view option, std::string_view value, Options& options) {
  // An extent must stay within what off_t can say.
  constexpr auto kMostBytes = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) / 2;
  if (option == "--fuse-fd") {
    return descriptor(option, value, options.fuse_fd);
  }
  if (option == "--image-fd") {
    return descriptor(option, value, options.image_fd);
  }
  if (option == "--listen-fd") {
    return descriptor(option, value, options.listen_fd);
  }
  if (option == "--offset") {
    return number(option, value, std::uint64_t{0}, kMostBytes, options.offset);
  }
  if (option == "--size") {
    return number(option, value, std::uint64_t{1}, kMostBytes, options.size);
  }
  if (option == "--owner") {
    return owner(option, value, options.owner);
  }
  if (option == "--threads") {
    return number(option, value, 1U, kMaxThreads, options.threads);
  }
  if (option == "--cache-mib") {
    return number(option, value, 1U, kMaxCacheMib, options.cache_mib);
  }
  return Problem{.what = "postern-squashfs: unknown option '" + std::string(option) + "'"};
}

// The mask of this process, not the machine: a job has its part of a node.
unsigned processors() noexcept {
  cpu_set_t set;
  CPU_ZERO(&set);
  // Fails where the machine has more than the set can hold: then there are enough.
  const int count = ::sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : CPU_SETSIZE;
  return static_cast<unsigned>(std::max(1, count));
}

}  // namespace

Outcome<Options> parse_options(std::span<char* const> arguments) noexcept {
  Options options;
  options.processors = processors();
  for (std::size_t i = 0; i < arguments.size(); i += 2) {
    if (i + 1 == arguments.size()) {
      return Problem{.what = std::string("postern-squashfs: ") + arguments[i] + " needs a value"};
    }
    POSTERN_TRY(take(arguments[i], arguments[i + 1], options));
  }
  if (options.fuse_fd < 0 || options.image_fd < 0 || options.size == 0) {
    return Problem{.what = "postern-squashfs: --fuse-fd, --image-fd and --size are needed",
                   .cure = "this program is started by postern, not by hand"};
  }
  return options;
}

}  // namespace postern::squashfs

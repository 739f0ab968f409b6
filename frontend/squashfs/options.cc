#include "frontend/squashfs/options.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string_view>
#include <utility>

#include <sched.h>

#include "frontend/squashfs/extent.h"
#include "frontend/squashfs/share.h"

namespace postern::squashfs {
namespace {

// An extent must stay within what off_t can say.
constexpr auto kMostBytes =
    static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) / 4;

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

// "a:b:c" into its parts; false: not as many as there are places.
bool split(std::string_view text, std::span<std::string_view> parts) {
  for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
    const std::size_t colon = text.find(':');
    if (colon == std::string_view::npos) {
      return false;
    }
    parts[i] = text.substr(0, colon);
    text.remove_prefix(colon + 1);
  }
  parts.back() = text;
  return text.find(':') == std::string_view::npos;
}

int hex_digit(char c) noexcept {
  return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool unhex(std::string_view text, std::vector<std::uint8_t>& out) {
  if (text.size() % 2 != 0) {
    return false;
  }
  for (std::size_t i = 0; i < text.size(); i += 2) {
    const int high = hex_digit(text[i]);
    const int low = hex_digit(text[i + 1]);
    if (high < 0 || low < 0) {
      return false;
    }
    out.push_back(static_cast<std::uint8_t>(high * 16 + low));
  }
  return true;
}

// ROOTHEX:SALTHEX:DATABLOCKS:TREEOFFSET:TREEBYTES
Outcome<> seal(std::string_view option, std::string_view text, std::optional<Seal>& out) {
  std::array<std::string_view, 5> parts;
  std::vector<std::uint8_t> root;
  Seal value;
  if (!split(text, parts) || !unhex(parts[0], root) || root.size() != value.root.size() ||
      !unhex(parts[1], value.salt) || value.salt.size() > kMaxSaltBytes) {
    return bad(option, text);
  }
  std::copy(root.begin(), root.end(), value.root.begin());
  POSTERN_TRY(number(option, parts[2], std::uint64_t{1}, kMostBytes, value.data_blocks));
  POSTERN_TRY(number(option, parts[3], std::uint64_t{0}, kMostBytes, value.tree_offset));
  POSTERN_TRY(number(option, parts[4], std::uint64_t{0}, kMostBytes, value.tree_bytes));
  out = std::move(value);
  return Ok{};
}

// SECTOR:DATAOFF:DATABYTES:IVOFF
Outcome<> crypt(std::string_view option, std::string_view text, std::optional<CryptGeometry>& out) {
  std::array<std::string_view, 4> parts;
  if (!split(text, parts)) {
    return bad(option, text);
  }
  CryptGeometry value;
  POSTERN_TRY(number(option, parts[0], 512U, 4096U, value.sector));
  POSTERN_TRY(number(option, parts[1], std::uint64_t{0}, kMostBytes, value.data_offset));
  POSTERN_TRY(number(option, parts[2], std::uint64_t{1}, kMostBytes, value.data_bytes));
  POSTERN_TRY(number(option, parts[3], std::uint64_t{0}, kMostBytes, value.iv_offset));
  out = value;
  return Ok{};
}

int* descriptor_of(std::string_view option, Options& options) {
  const std::array<std::pair<std::string_view, int*>, 11> places = {{
      {"--fuse-fd", &options.fuse_fd},
      {"--image-fd", &options.image_fd},
      {"--accounts-fd", &options.accounts_fd},
      {"--configuration-fd", &options.configuration_fd},
      {"--contents-fd", &options.contents_fd},
      {"--listen-fd", &options.listen_fd},
      {"--starter-fd", &options.starter_fd},
      {"--token-fd", &options.token_fd},
      {"--user-namespace-fd", &options.user_namespace_fd},
      {"--mount-namespace-fd", &options.mount_namespace_fd},
      {"--key-fd", &options.key_fd},
  }};
  for (const auto& [name, place] : places) {
    if (name == option) {
      return place;
    }
  }
  return nullptr;
}

// FIRST:COUNT
Outcome<> spares(std::string_view option, std::string_view text, Options& options) {
  std::array<std::string_view, 2> parts;
  if (!split(text, parts)) {
    return bad(option, text);
  }
  POSTERN_TRY(descriptor(option, parts[0], options.spare_fd));
  return number(option, parts[1], 0U, kMaxThreads, options.spares);
}

Outcome<> take(std::string_view option, std::string_view value, Options& options) {
  if (int* const place = descriptor_of(option, options)) {
    return descriptor(option, value, *place);
  }
  if (option == "--spare-fds") {
    return spares(option, value, options);
  }
  if (option == "--identity") {
    options.identity = value;
    return Ok{};
  }
  if (option == "--offset") {
    return number(option, value, std::uint64_t{0}, kMostBytes, options.offset);
  }
  if (option == "--size") {
    return number(option, value, std::uint64_t{1}, kMostBytes, options.size);
  }
  if (option == "--gocryptfs") {
    unsigned on = 0;
    POSTERN_TRY(number(option, value, 1U, 1U, on));
    options.gocryptfs = true;
    return Ok{};
  }
  if (option == "--crypt") {
    return crypt(option, value, options.crypt);
  }
  if (option == "--verity") {
    return seal(option, value, options.seal);
  }
  if (option == "--owner") {
    return owner(option, value, options.owner);
  }
  if (option == "--threads") {
    return number(option, value, 1U, kMaxThreads, options.threads);
  }
  if (option == "--starter") {
    return number(option, value, 1, INT32_MAX, options.starter);
  }
  if (option == "--program") {
    options.program = value;
    return Ok{};
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
  const std::array outputs = {options.fuse_fd, options.accounts_fd, options.configuration_fd,
                              options.contents_fd};
  const auto given = std::count_if(outputs.begin(), outputs.end(), [](int fd) { return fd >= 0; });
  if (given != 1 || options.image_fd < 0 || options.size == 0) {
    return Problem{.what = "postern-squashfs: --fuse-fd, --image-fd and --size are needed",
                   .cure = "this program is started by postern, not by hand"};
  }
  const bool has_key = options.key_fd >= 0;
  if ((options.crypt.has_value() || options.gocryptfs) != has_key ||
      (options.crypt && options.gocryptfs) || (has_key && options.configuration_fd >= 0) ||
      (!options.gocryptfs && options.contents_fd >= 0)) {
    return Problem{.what = "postern-squashfs: --crypt or --gocryptfs, and --key-fd go together"};
  }
  if ((options.listen_fd >= 0) !=
          (options.starter_fd >= 0 && options.token_fd >= 0 && !options.identity.empty()) ||
      (options.user_namespace_fd >= 0) != (options.mount_namespace_fd >= 0) ||
      options.identity.size() > kMostIdentityBytes) {
    return Problem{.what = "postern-squashfs: what --listen-fd needs is not complete"};
  }
  POSTERN_TRY(check_geometry(options.size, options.seal ? &*options.seal : nullptr,
                             options.crypt ? &*options.crypt : nullptr));
  return options;
}

}  // namespace postern::squashfs

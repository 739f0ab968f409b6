#include "frontend/squashfs/warm_up.h"

#include <algorithm>
#include <array>

#include <sys/stat.h>

namespace postern::squashfs {
namespace {

// Of a file that is read whole; and of one that is mapped: all of a C library, and the beginning of
// a large program.
constexpr std::size_t kSmallBytes = 384 << 10;
constexpr std::size_t kMappedBytes = 2 << 20;
constexpr unsigned kMostScripts = 16;

// The search path of a container that sets none (/.singularity.d/env/99-base.sh).
constexpr std::array kSearchPath = {"/usr/local/sbin/", "/usr/local/bin/", "/usr/sbin/",
                                    "/usr/bin/",        "/sbin/",          "/bin/"};

// PT_INTERP of the architecture's psABI (its name is part of it), and musl's.
#if defined(__x86_64__)
constexpr std::array kLoaders = {"/lib64/ld-linux-x86-64.so.2", "/lib/ld-musl-x86_64.so.1"};
#elif defined(__aarch64__)
constexpr std::array kLoaders = {"/lib/ld-linux-aarch64.so.1", "/lib/ld-musl-aarch64.so.1"};
#else
constexpr std::array<const char*, 0> kLoaders = {};
#endif
// Where distributions have the C library: multiarch, and beside the loader.
#if defined(__aarch64__)
constexpr std::array kLibraries = {"/lib/aarch64-linux-gnu/libc.so.6", "/lib64/libc.so.6",
                                   "/lib/libc.so.6"};
#else
constexpr std::array kLibraries = {"/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6",
                                   "/lib/libc.so.6"};
#endif

}  // namespace

void WarmUp::run() noexcept {
  running_.store(true, std::memory_order_relaxed);
  PathReader paths(image_);
  // ORDER: as a start reads them.
  account_files(paths);
  mount_points(paths);
  scripts(paths);
  executables(paths);
  running_.store(false, std::memory_order_relaxed);
}

void WarmUp::account_files(PathReader& paths) noexcept {
  decode(paths, "/etc/passwd", kSmallBytes);
  decode(paths, "/etc/group", kSmallBytes);
}

// Only looked up, which decodes the blocks of inodes and names on the way.
void WarmUp::mount_points(PathReader& paths) noexcept {
  for (const char* path : {"/dev", "/proc", "/sys", "/tmp", "/var/tmp", "/etc/hosts",
                           "/etc/resolv.conf", "/etc/localtime"}) {
    if (!stopped()) {
      static_cast<void>(paths.resolve(path));
    }
  }
}

void WarmUp::scripts(PathReader& paths) noexcept {
  static constexpr const char* kDirectory = "/.singularity.d/env";
  Reader& reader = paths.reader();
  const auto directory = paths.resolve(kDirectory);
  if (!directory) {
    return;
  }
  auto cursor = reader.open_listing(*directory, 0);
  Entry entry;
  for (unsigned i = 0; cursor && i < kMostScripts; ++i) {
    const auto more = reader.next_entry(*cursor, entry);
    if (!more || !*more) {
      break;
    }
    decode(paths, std::string(kDirectory) + '/' + std::string(entry.name()), kSmallBytes);
  }
}

void WarmUp::executables(PathReader& paths) noexcept {
  std::string program = program_;
  if (!program.empty() && program.find('/') == std::string::npos) {
    const auto* const directory =
        std::find_if(kSearchPath.begin(), kSearchPath.end(),
                     [&](const char* one) { return paths.resolve(one + program_).has_value(); });
    program = (directory != kSearchPath.end() ? *directory : "/") + program_;
  }
  const auto decode_it = [&](const char* path) { return decode(paths, path, kMappedBytes); };
  // ORDER: as they are mapped; a program runs once its loader and libraries are there.
  decode(paths, program, kSmallBytes);
  std::any_of(kLoaders.begin(), kLoaders.end(), decode_it);
  decode(paths, "/etc/ld.so.cache", kSmallBytes);
  std::any_of(kLibraries.begin(), kLibraries.end(), decode_it);
  decode(paths, program, kMappedBytes);
}

bool WarmUp::decode(PathReader& paths, const std::string& path, std::size_t most_bytes) noexcept {
  if (stopped()) {
    return true;
  }
  const auto file = paths.resolve(path);
  if (!file || !S_ISREG(file->mode)) {
    return false;
  }
  blocks_.clear();
  const std::size_t most = std::max<std::size_t>(1, most_bytes / image_.super().block_size);
  if (!paths.reader().blocks(*file, 0, most, blocks_)) {
    return false;
  }
  for (const DataBlock& block : blocks_) {
    if (!stopped() && !block.hole() && !image_.data().contains(block.key)) {
      static_cast<void>(paths.reader().data(block));
    }
  }
  return true;
}

}  // namespace postern::squashfs

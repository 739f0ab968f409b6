// postern-squashfs: serves a squashfs image, or the partition of a SIF image, through a /dev/fuse
// descriptor that somebody else mounts. README.md beside this file says how it works.
#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <sys/socket.h>

#include <malloc.h>
#include <stdlib.h>
#include <unistd.h>

#include "frontend/message/message.h"
#include "frontend/squashfs/accounts.h"
#include "frontend/squashfs/extent.h"
#include "frontend/squashfs/gocryptfs.h"
#include "frontend/squashfs/image.h"
#include "frontend/squashfs/options.h"
#include "frontend/squashfs/sandbox.h"
#include "frontend/squashfs/server.h"

namespace postern::squashfs {
namespace {

constexpr std::size_t kMetadataCacheBytes = 4 << 20;
constexpr std::size_t kMib = 1 << 20;

// Address space, not memory: caches, thread stacks, windows and malloc's own reserve.
std::size_t address_space(const Options& options) noexcept {
  return (1024 + 2 * std::size_t{options.cache_mib}) * kMib;
}

Outcome<> open_and_serve(const Extent& extent, const Options& options, Devices& devices) noexcept {
  POSTERN_TRY_ASSIGN(const auto image, Image::open(extent, {.data = options.cache_mib * kMib,
                                                            .metadata = kMetadataCacheBytes}));
  return options.accounts_fd >= 0 ? write_accounts(*image, options.accounts_fd)
                                  : serve(*image, options, devices);
}

// The encrypted file in the clear, from its start to its end.
Outcome<> write_contents(const Gocryptfs& container, int out) noexcept {
  const auto thread = container.begin();
  std::string piece(std::min<std::uint64_t>(kMib, container.size()), '\0');
  if (thread == nullptr) {
    return system_problem("reserving memory for the image", ENOMEM);
  }
  for (std::uint64_t at = 0; at < container.size(); at += piece.size()) {
    piece.resize(std::min<std::uint64_t>(piece.size(), container.size() - at));
    if (const auto done = container.read(at, std::as_writable_bytes(std::span(piece)), *thread);
        !done) {
      return system_problem("decrypting the image", done.error().number,
                            "the image is damaged, or was changed after it was encrypted");
    }
    POSTERN_TRY(write_all(out, piece));
  }
  return Ok{};
}

std::vector<int> kept_of(const Options& options) {
  std::vector<int> kept = {
      options.configuration_fd,   options.contents_fd, options.fuse_fd,
      options.accounts_fd,        options.image_fd,    options.listen_fd,
      options.starter_fd,         options.token_fd,    options.user_namespace_fd,
      options.mount_namespace_fd, options.key_fd};
  for (unsigned i = 0; i < options.spares; ++i) {
    kept.push_back(options.spare_fd + static_cast<int>(i));
  }
  return kept;
}

Outcome<> run(std::span<char* const> arguments) noexcept {
  POSTERN_TRY_ASSIGN(const Options options, parse_options(arguments));
  POSTERN_TRY(detach(kept_of(options)));
  if (options.listen_fd >= 0 && ::listen(options.listen_fd, SOMAXCONN) != 0) {
    // Again, after the starter: SO_PEERCRED then names this process, which lives as long as the
    // mount.
    return system_problem("postern-squashfs: listening for those who join", errno);
  }
  ::mallopt(M_ARENA_MAX, 2);  // little is allocated; an arena a thread costs address space
  // glibc reads /proc/sys/vm/overcommit_memory before it gives a part of an arena back, which the
  // sandbox kills.
  ::mallopt(M_TRIM_THRESHOLD, INT_MAX);
  Devices devices = open_devices(options);
  std::unique_ptr<Cipher> cipher;
  if (options.crypt) {
    POSTERN_TRY_ASSIGN(cipher, Cipher::make(options.key_fd, *options.crypt));
    ::close(options.key_fd);
  }
  std::unique_ptr<GcmCipher> container_key;
  if (options.gocryptfs) {
    POSTERN_TRY_ASSIGN(container_key, GcmCipher::make(options.key_fd));
    ::close(options.key_fd);
  }
  // ORDER: before the first byte of the image is read.
  POSTERN_TRY(confine(address_space(options)));
  std::unique_ptr<Verity> verity;
  if (options.seal) {
    POSTERN_TRY_ASSIGN(verity, Verity::make(options.image_fd, *options.seal));
    // At once, not at the end: the starter reads what is on standard error when its payload has
    // ended, and this process may live on for others.
    verity->report_to(
        [](const std::string& complaint) { message::error("postern-squashfs: " + complaint); });
  }
  const Extent extent(options.image_fd, options.offset, options.size, verity.get(), cipher.get());
  if (options.configuration_fd >= 0) {
    POSTERN_TRY_ASSIGN(const std::string text, Gocryptfs::configuration(extent));
    return write_all(options.configuration_fd, text);
  }
  if (container_key) {
    POSTERN_TRY_ASSIGN(const auto container, Gocryptfs::open(extent, *container_key));
    return options.contents_fd >= 0 ? write_contents(*container, options.contents_fd)
                                    : open_and_serve(Extent(*container), options, devices);
  }
  return open_and_serve(extent, options, devices);
}

}  // namespace
}  // namespace postern::squashfs

int main(int argc, char** argv) {
  namespace message = postern::message;
  message::configure_from_environment();
  const std::span<char* const> arguments(argv, static_cast<std::size_t>(argc));
  const auto done = postern::squashfs::run(arguments.subspan(1));
  if (!done) {
    message::fatal(done.error());
    return done.error().exit_code;
  }
  return 0;
}

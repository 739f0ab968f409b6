// Files of an image by path, as the kernel would find them with this image as the root.
#pragma once

#include <cstdint>
#include <string>

#include "frontend/squashfs/reader.h"

namespace postern::squashfs {

class PathReader {
 public:
  explicit PathReader(Image& image) noexcept : image_(image), reader_(image) {}

  [[nodiscard]] Reader& reader() noexcept { return reader_; }

  // Follows links inside the image; ".." at the top stays there; at most 40 links
  // (path_resolution(7)). ENOENT, ENOTDIR, ELOOP; EIO where the image is damaged.
  Read<Inode> resolve(std::string path) noexcept;

  // The bytes of a regular file; EFBIG where they are more than `max_bytes`.
  Read<std::string> bytes(const Inode& file, std::uint64_t max_bytes) noexcept;

 private:
  Image& image_;
  Reader reader_;
};

}  // namespace postern::squashfs

// The files of an image, read without running anything of it: a directory through openat2(2), a
// squashfs through our own reader. Links are followed inside the image only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "policy/image/image.h"
#include "policy/problem.h"

namespace postern::inspect {

class Tree {
 public:
  Tree() = default;
  Tree(const Tree&) = delete;
  Tree& operator=(const Tree&) = delete;
  virtual ~Tree() = default;

  // The bytes of a regular file; nothing where there is none at `path` (absolute, in the image).
  // Errors: larger than `max_bytes`, damaged, not readable.
  virtual Outcome<std::optional<std::string>> file(const std::string& path,
                                                   std::uint64_t max_bytes) = 0;

  // Names in a directory, sorted, without . and ..; empty where there is no directory. At most
  // kMaxNames: more is an error.
  virtual Outcome<std::vector<std::string>> names(const std::string& path) = 0;
};

inline constexpr std::size_t kMaxNames = 100000;

// `fd` is borrowed and stays open; `info` is what image::identify() said about it.
Outcome<std::unique_ptr<Tree>> open_tree(int fd, const image::ImageInfo& info);

}  // namespace postern::inspect

// The syntax of --bind and --mount.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "policy/path/path_prefix.h"
#include "policy/problem.h"

namespace postern::plan {

struct Bind {
  std::string source;  // as given: may be relative to the caller's directory
  std::string target;  // as given; empty = same as the source
  bool read_only = false;
  bool nested = true;  // named in POSTERN_BIND, for a container started inside this one
  // The source is an image whose file system is bound, not the file itself.
  std::optional<std::string> image_path;  // image-src=: directory or file inside the image
  std::optional<std::uint32_t> image_id;  // id=: number of the SIF's data partition

  [[nodiscard]] bool from_image() const { return image_path || image_id; }
};

// "src[:dst[:opts]]" items, separated by commas; opts are ro, rw, id=N, image-src=PATH, themselves
// separated by commas. "\:", "\," and "\\" stand for the character itself.
// Error: names the item and what is wrong with it.
Outcome<std::vector<Bind>> parse_binds(std::string_view text);

// One line a mount, comma separated values with RFC 4180 quotes: type=bind, source (src),
// destination (dst, target), ro (readonly), id, image-src, nonested.
// Error: names the mount and the field.
Outcome<std::vector<Bind>> parse_mounts(std::string_view text);

// `path` without ".", ".." (taken lexically, as `cd -L`), doubled and trailing slashes; a relative
// one is taken from `directory`, which is absolute.
std::string absolute_path(std::string_view path, std::string_view directory);

using path::is_within;

}  // namespace postern::plan

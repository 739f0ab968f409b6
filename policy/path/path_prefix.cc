#include "policy/path/path_prefix.h"

#include <algorithm>

namespace postern::path {
namespace {

// Cuts the first component off; empty at the end.
std::string_view next_component(std::string_view& path) {
  path.remove_prefix(std::min(path.find_first_not_of('/'), path.size()));
  const std::string_view component = path.substr(0, path.find('/'));
  path.remove_prefix(component.size());
  return component;
}

bool goes_back(std::string_view path) {
  while (!path.empty()) {
    if (next_component(path) == "..") {
      return true;
    }
  }
  return false;
}

}  // namespace

bool is_within(std::string_view path, std::string_view directory) noexcept {
  if (!path.starts_with('/') || !directory.starts_with('/') || goes_back(path) ||
      goes_back(directory)) {
    return false;
  }
  for (;;) {
    const std::string_view wanted = next_component(directory);
    if (wanted.empty()) {
      return true;
    }
    if (next_component(path) != wanted) {
      return false;
    }
  }
}

}  // namespace postern::path

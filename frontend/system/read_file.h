// Reading small files of the host.
#pragma once

#include <optional>
#include <string>

namespace postern::system {

// The whole file; nothing where it cannot be read or is larger than 4 MiB.
std::optional<std::string> read_small_file(const std::string& path);

// The same of a descriptor, from where it stands.
std::optional<std::string> read_small_file(int fd);

}  // namespace postern::system

// What a monitor says of its instance, and how it is written.
#pragma once

#include <cstdint>
#include <string>

#include <sys/types.h>

namespace postern::instance {

// What it says, in one message.
struct Description {
  pid_t pid = -1;  // of the process 1 of the instance, as this host knows it
  std::string image;
  std::string out;
  std::string err;
};

inline constexpr std::size_t kMostDescriptionBytes = 32 * 1024;

std::string encode(const Description& description);
// False: the bytes are no description.
bool decode(const std::string& bytes, Description& description);

}  // namespace postern::instance

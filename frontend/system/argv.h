// The argument vector of execve(2) and posix_spawn(3).
#pragma once

#include <string>
#include <vector>

namespace postern::system {

// Pointers into `words`, which must outlive them, and the null pointer that ends them.
inline std::vector<char*> argv_of(std::vector<std::string>& words) {
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (std::string& word : words) {
    argv.push_back(word.data());
  }
  argv.push_back(nullptr);
  return argv;
}

}  // namespace postern::system

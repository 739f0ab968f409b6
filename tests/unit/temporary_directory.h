// A fresh directory for one test case.
#pragma once

#include <filesystem>
#include <string>

#include <stdlib.h>

namespace postern {

struct TemporaryDirectory {
  TemporaryDirectory() {
    char name[] = "/tmp/postern-unit-XXXXXX";
    path = ::mkdtemp(name);
  }

  ~TemporaryDirectory() { std::filesystem::remove_all(path); }

  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  std::string path;
};

}  // namespace postern

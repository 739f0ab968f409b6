// A new file that gets its name in one step, when it is whole and on disk.
#pragma once

#include <string>

#include <sys/types.h>

#include "policy/problem.h"
#include "protocol/base/unique_fd.h"

namespace postern::path {

// Until place() the file has no name (O_TMPFILE, open(2)), so that nothing is left of it however
// this process ends; on file systems without such files it has a hidden one, which the destructor
// removes.
class FreshFile {
 public:
  // `mode`: less the umask. Error: the directory cannot be written; the name is that of something
  // that is no regular file.
  [[nodiscard]] static Outcome<FreshFile> create(const std::string& path, mode_t mode);

  FreshFile(FreshFile&& other) noexcept;
  FreshFile& operator=(FreshFile&&) = delete;
  FreshFile(const FreshFile&) = delete;
  FreshFile& operator=(const FreshFile&) = delete;
  ~FreshFile();

  // Open for reading and writing.
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }

  // Brings the bytes and the name to disk. What had the name until then is gone.
  Outcome<> place();
  // The same; an error if the name has been taken since.
  Outcome<> place_new();

 private:
  FreshFile() = default;

  [[nodiscard]] bool link(const std::string& name) const;
  Outcome<> sync() const;

  std::string path_;  // as it was given, for messages
  UniqueFd directory_;
  std::string target_;
  std::string temporary_;  // the hidden name; empty while there is none
  UniqueFd fd_;
};

}  // namespace postern::path

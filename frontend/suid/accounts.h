// The image's own account files, for the generated ones: in setuid mode the root is mounted by the
// helper, which reads nothing of it, so they are read beforehand.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <sys/types.h>

#include "frontend/plan/launch_plan.h"
#include "policy/problem.h"
#include "protocol/base/unique_fd.h"

namespace postern::suid {

struct Accounts {
  std::string passwd;  // empty where the image has none
  std::string group;
};

// Of an image: being read by a postern-squashfs, which treats it as the hostile bytes that it may
// be.
class ImageAccounts {
 public:
  // Error: the program cannot be executed.
  static Outcome<ImageAccounts> begin(const plan::ImageServer& image);

  ImageAccounts(ImageAccounts&& other) noexcept
      : output_(std::move(other.output_)), pid_(std::exchange(other.pid_, -1)) {}

  ImageAccounts& operator=(ImageAccounts&& other) noexcept {
    std::swap(output_, other.output_);
    std::swap(pid_, other.pid_);
    return *this;
  }

  ImageAccounts(const ImageAccounts&) = delete;
  ImageAccounts& operator=(const ImageAccounts&) = delete;
  ~ImageAccounts();

  // Waits for them, once, and not for the end of the process: that is the destructor's. `image`:
  // its path. Error: the image is damaged.
  Outcome<Accounts> finish(const std::string& image);

 private:
  ImageAccounts(UniqueFd output, pid_t pid) noexcept : output_(std::move(output)), pid_(pid) {}

  UniqueFd output_;
  pid_t pid_;
};

// Of a directory: read here, links followed inside it only. Of an image: `begun`, or begun here.
Outcome<Accounts> read_accounts(const plan::LaunchPlan& plan, std::optional<ImageAccounts>& begun);

// Makes the generated files of the plan final: content without `merge`.
Outcome<> finish_accounts(plan::LaunchPlan& plan, std::optional<ImageAccounts>& begun);

// "NUMBER\n" and as many bytes, or "-\n", for each file: what postern-squashfs --accounts-fd
// writes.
Outcome<Accounts> parse_accounts(std::string_view text);

}  // namespace postern::suid

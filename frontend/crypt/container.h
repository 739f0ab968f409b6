// What postern-squashfs reads of a gocryptfs container in its sandbox, since nobody has looked at
// these bytes yet.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <sys/types.h>

#include "policy/problem.h"
#include "protocol/base/unique_fd.h"

namespace postern::crypt {

// Where the container lies: the file, and what says so to postern-squashfs (--offset, --size…).
struct Container {
  int image;
  std::vector<std::string> place;
};

// A memfd with the text of gocryptfs.conf. postern-squashfs has said on standard error why where it
// fails; the Problem then has no words.
[[nodiscard]] Outcome<UniqueFd> read_configuration(Container container);

// The bytes in the clear, as they come.
class Contents {
 public:
  // `key`: a descriptor that the key can be read from.
  [[nodiscard]] static Outcome<Contents> begin(Container container, int key);

  // A pipe, read up to its end.
  [[nodiscard]] int fd() const noexcept { return pipe_.get(); }

  // After that: whether these were all. The Problem has no words, as above.
  [[nodiscard]] Outcome<> end();

 private:
  Contents(UniqueFd pipe, pid_t pid) : pipe_(std::move(pipe)), pid_(pid) {}

  UniqueFd pipe_;
  pid_t pid_;
};

}  // namespace postern::crypt

// Room for the descriptors of a start: with many binds they are more than most soft limits allow.
#pragma once

#include <cstddef>
#include <optional>

#include <sys/resource.h>

#include "policy/problem.h"

namespace postern::system {

class DescriptorLimit {
 public:
  // Raises our soft limit to the hard one if so many descriptors do not fit besides those of a
  // usual start. Problem: the hard limit is too low.
  static Outcome<DescriptorLimit> for_sources(std::size_t count);

  // Of this process, and so of those that it starts: what the caller had, which is the payload's as
  // well, and what it was raised to. What is open stays open.
  void set_callers() const noexcept { set(callers_); }

  void set_raised() const noexcept { set(raised_); }

 private:
  static void set(const std::optional<rlimit>& limit) noexcept {
    if (limit) {
      (void)::setrlimit(RLIMIT_NOFILE, &*limit);
    }
  }

  std::optional<rlimit> callers_, raised_;  // if it was raised
};

}  // namespace postern::system

// Errno: why a read failed, as the kernel is told: the error type of this folder's inner functions.
#pragma once

#include "protocol/base/result.h"

namespace postern::squashfs {

struct Errno {
  int number;  // errno(3), never 0
};

template <class T = Ok>
using Read = Result<T, Errno>;

}  // namespace postern::squashfs
